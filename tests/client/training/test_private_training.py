"""A site that trains privately: what leaves it, and when it says no."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from client.training.state import count_layers
from client.training.trainer import Trainer
from common.config.reading import canonical_json
from common.config.run import RunConfig
from common.local_site import LocalSite
from common.messages.durable import read_array_file
from common.messages.kinds import Refusal, RefusalCode, TrainRequest, Update
from common.model.arrays import array_names, read_arrays
from common.model.layers import held_by
from common.model.network import build_network

MakeConfig = Callable[..., RunConfig]
PRIVATE = ("privacy.enabled=true", "privacy.steps_per_round=3", "privacy.sample_rate=0.3")


def a_trainer(shards: dict[str, Path], state: Path, *, processes: int = 1) -> Trainer:
    return Trainer(
        LocalSite(
            name="valley",
            task="retina",
            shard=shards["valley"],
            state=state,
            num_threads=1,
            processes=processes,
        )
    )


def a_request(config: RunConfig, **changes: object) -> TrainRequest:
    network = build_network(config.model, config.task_table(), seed=config.seed)
    values = {
        "run": "run-1",
        "server_round": 1,
        "global_step": 0,
        "total_steps": 20,
        "proximal_mu": 0.0,
        "evaluates": False,
        "config_json": canonical_json(config),
        "arrays": read_arrays(network, held_by("retina", array_names(network))),
    }
    return TrainRequest(**(values | changes))  # type: ignore[arg-type]


def test_a_private_update_tells_constants_and_seconds(
    shards: dict[str, Path], make_config: MakeConfig, tmp_path: Path
) -> None:
    request = a_request(make_config(*PRIVATE))

    update = a_trainer(shards, tmp_path).train(request)

    assert isinstance(update, Update), update
    assert set(update.metrics) == {"seconds"}
    assert update.num_steps == 3
    assert set(update.arrays) == set(request.arrays)
    assert max(np.abs(array).max() for array in update.arrays.values()) > 0


def test_the_same_private_request_gives_another_update(
    shards: dict[str, Path], make_config: MakeConfig, tmp_path: Path
) -> None:
    request, trainer = a_request(make_config(*PRIVATE)), a_trainer(shards, tmp_path)

    first, second = (trainer.train(request) for _ in range(2))

    assert isinstance(first, Update)
    assert isinstance(second, Update)
    assert all((first.arrays[n] != second.arrays[n]).any() for n in first.arrays)


def test_where_a_round_lies_in_the_schedule_does_not_come_from_counts(
    shards: dict[str, Path], make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config(*PRIVATE, "privacy.steps_per_round=1")
    # By these numbers the run would be over and the learning rate zero.
    request = a_request(config, global_step=19, total_steps=20)

    update = a_trainer(shards, tmp_path).train(request)

    assert isinstance(update, Update)
    assert max(np.abs(a).max() for a in update.arrays.values()) == pytest.approx(
        config.train.learning_rate, rel=0.05
    )


def test_local_layers_stay_at_the_site_in_private_training_too(
    shards: dict[str, Path], make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config(*PRIVATE, "federation.local_layers=[heads.retina]")

    update = a_trainer(shards, tmp_path).train(a_request(config, proximal_mu=0.1))

    assert isinstance(update, Update)
    assert not any(name.startswith("heads.") for name in update.arrays)
    [kept] = (tmp_path / "valley" / "run-1").glob("noised-patient-*/*")
    assert kept.name == "unspent-layers-00001.safetensors"


def test_no_round_starts_from_noise_that_the_ledger_has_not_counted(
    shards: dict[str, Path], make_config: MakeConfig, tmp_path: Path
) -> None:
    still = (*PRIVATE, "train.learning_rate=1e-12", "train.weight_decay=0")
    config = make_config(*still, "federation.local_layers=[heads.retina]")
    moving = make_config(*PRIVATE, "federation.local_layers=[heads.retina]")
    trainer = a_trainer(shards, tmp_path)
    assert isinstance(trainer.train(a_request(moving)), Update)
    second = a_request(config, server_round=2)

    def head_after_second() -> dict[str, np.ndarray]:
        assert isinstance(trainer.train(second), Update)
        [kept] = (tmp_path / "valley" / "run-1").glob("*/unspent-layers-00002.safetensors")
        return dict(read_array_file(kept)[0])

    # The site broke down before its ledger had the first round.
    unspent = head_after_second()
    count_layers(tmp_path, site="valley", run="run-1", server_round=1)
    spent = head_after_second()

    assert max(np.abs(array - second.arrays[name]).max() for name, array in unspent.items()) < 1e-9
    assert max(np.abs(array - second.arrays[name]).max() for name, array in spent.items()) > 1e-4


@pytest.mark.parametrize("local_layers", ["[]", "[heads.retina]", "[heads.]"])
def test_a_head_trained_without_noise_has_no_part_in_a_private_run_of_the_same_name(
    shards: dict[str, Path], make_config: MakeConfig, tmp_path: Path, local_layers: str
) -> None:
    trainer = a_trainer(shards, tmp_path)
    plain = make_config("train.epochs=1", "federation.local_layers=[heads.retina]")
    assert isinstance(trainer.train(a_request(plain)), Update)
    # So small a step that nothing moves but what the site would put in by itself.
    still = (*PRIVATE, "train.learning_rate=1e-12", f"federation.local_layers={local_layers}")
    request = a_request(make_config(*still), server_round=2)

    update = trainer.train(request)

    assert isinstance(update, Update), update
    assert max(np.abs(array).max() for array in update.arrays.values()) < 1e-9
    for path in (tmp_path / "valley" / "run-1").glob("noised-*/*"):
        kept, _ = read_array_file(path)
        assert all(np.abs(kept[name] - request.arrays[name]).max() < 1e-9 for name in kept)
    # The other's layers are where they were.
    assert list((tmp_path / "valley" / "run-1").glob("plain-*/local-layers-00001.*"))


def test_a_private_run_goes_on_from_its_own_local_head_which_has_the_noise_too(
    shards: dict[str, Path], make_config: MakeConfig, tmp_path: Path
) -> None:
    # Nobody is drawn: whatever moves is noise.
    alone = ("privacy.sample_rate=1e-12", "privacy.steps_per_round=1", "train.weight_decay=0")
    config = make_config("privacy.enabled=true", *alone, "federation.local_layers=[heads.retina]")
    trainer = a_trainer(shards, tmp_path)
    first, second = (a_request(config, server_round=number) for number in (1, 2))

    for request in (first, second):
        assert isinstance(trainer.train(request), Update)
        count_layers(tmp_path, site="valley", run="run-1", server_round=request.server_round)

    [kind] = (tmp_path / "valley" / "run-1").iterdir()
    heads = [read_array_file(path)[0] for path in sorted(kind.iterdir())]
    assert [len(head) for head in heads] == [len(heads[0])] * 2
    assert heads[0]
    for name, start in first.arrays.items():
        if name in heads[0]:
            assert (heads[0][name] != start).all()
            assert (heads[1][name] != heads[0][name]).all()


def test_patients_who_are_not_named_are_not_trained_on_as_if_they_were(
    shards: dict[str, Path], make_config: MakeConfig, tmp_path: Path
) -> None:
    folder = tmp_path / "shard"
    shutil.copytree(shards["valley"], folder)
    meta = json.loads((folder / "meta.json").read_text())
    meta["card"]["parts"][0]["unnamed_pictures"] = 3
    (folder / "meta.json").write_text(json.dumps(meta))
    trainer = a_trainer({"valley": folder}, tmp_path / "state")

    answer = trainer.train(a_request(make_config(*PRIVATE, "privacy.unit=patient")))

    assert isinstance(answer, Refusal), answer
    assert answer.code is RefusalCode.UNABLE
    assert "3 of 14 pictures of part train have no patient" in answer.reason
    images = (*PRIVATE, "privacy.steps_per_round=1", "privacy.unit=image")
    assert isinstance(trainer.train(a_request(make_config(*images))), Update)


def test_several_processes_do_not_train_privately(
    shards: dict[str, Path], make_config: MakeConfig, tmp_path: Path
) -> None:
    trainer = a_trainer(shards, tmp_path, processes=2)

    answer = trainer.train(a_request(make_config(*PRIVATE)))

    assert isinstance(answer, Refusal)
    assert answer.code is RefusalCode.UNABLE
    assert "set machine.processes to 1" in answer.reason


def test_a_network_that_mixes_pictures_is_refused_before_training(
    shards: dict[str, Path], make_config: MakeConfig, tmp_path: Path
) -> None:
    batch_norm = (
        "model.encoder.name=resnet18",
        "model.encoder.options={}",
        "model.encoder.transformer_stage=3",
        "model.encoder.evidence_stage=2",
        "model.encoder.max_receptive_field=9",
        "model.encoder.allow_leaky=true",
        "model.encoder.token_stride_px=16",
    )
    config = make_config(*PRIVATE, *batch_norm)

    answer = a_trainer(shards, tmp_path).train(a_request(config))

    assert isinstance(answer, Refusal), answer
    assert answer.code is RefusalCode.UNABLE
    assert "BatchNorm2d" in answer.reason
    assert "privacy.enabled" in answer.reason
    assert not any("local-layers" in name for _, _, names in os.walk(tmp_path) for name in names)
