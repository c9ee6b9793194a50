"""A site's trainer on real, tiny shards."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from client.operations.trainer_process import LazyTrainer
from client.training.trainer import Trainer
from common.config.reading import canonical_json
from common.config.run import RunConfig
from common.errors import DataError, RunError
from common.local_site import LocalSite
from common.messages.digests import architecture_digest
from common.messages.kinds import (
    EvaluateRequest,
    Evaluation,
    Refusal,
    RefusalCode,
    TrainRequest,
    Update,
)
from common.model.arrays import array_names, read_arrays
from common.model.layers import held_by
from common.model.network import build_network

MakeConfig = Callable[..., RunConfig]


@pytest.fixture(scope="module")
def config(make_config: MakeConfig) -> RunConfig:
    return make_config()


def a_site(name: str, task: str, shard: Path, state: Path) -> LocalSite:
    return LocalSite(name=name, task=task, shard=shard, state=state, num_threads=1)


@pytest.fixture
def valley(shards: dict[str, Path], tmp_path: Path) -> Trainer:
    return Trainer(a_site("valley", "retina", shards["valley"], tmp_path / "state"))


def global_model(config: RunConfig, task: str) -> dict[str, np.ndarray]:
    network = build_network(config.model, config.task_table(), seed=config.seed)
    return read_arrays(network, held_by(task, array_names(network)))


def a_request(
    config: RunConfig,
    task: str = "retina",
    *,
    server_round: int = 1,
    mu: float = 0.0,
    evaluates: bool = False,
) -> TrainRequest:
    return TrainRequest(
        run="run-1",
        server_round=server_round,
        global_step=0,
        total_steps=20,
        proximal_mu=mu,
        evaluates=evaluates,
        config_json=canonical_json(config),
        arrays=global_model(config, task),
    )


def train(trainer: Trainer | LazyTrainer, request: TrainRequest) -> Update:
    answer = trainer.train(request)
    assert isinstance(answer, Update), answer
    return answer


def test_a_site_says_who_it_is_and_how_much_it_holds(valley: Trainer) -> None:
    card = valley.describe()

    assert (card.site, card.task) == ("valley", "retina")
    assert (card.num_examples, card.num_val) == (14, 4)
    assert "valley-" not in card.data_card_json  # counts only, no patients


def test_an_update_is_what_changed_in_trunk_and_own_head(
    valley: Trainer, config: RunConfig
) -> None:
    request = a_request(config)

    update = train(valley, request)

    assert list(update.arrays) == list(request.arrays)
    assert {name.split(".")[1] for name in update.arrays if name.startswith("heads")} == {"retina"}
    assert all(array.dtype == np.float32 for array in update.arrays.values())
    assert max(np.abs(array).max() for array in update.arrays.values()) > 0
    assert (update.num_examples, update.num_steps) == (14, 4)  # 2 epochs of 2 batches
    parts = {"total", "classification", "attention", "saliency", "concept"}
    assert set(update.metrics) == {*parts, "seconds"}


def test_the_same_request_gives_the_same_bits(valley: Trainer, config: RunConfig) -> None:
    first, second = (train(valley, a_request(config)) for _ in range(2))

    assert all(first.arrays[n].tobytes() == second.arrays[n].tobytes() for n in first.arrays)


def test_another_round_draws_other_pictures_first(valley: Trainer, config: RunConfig) -> None:
    first = train(valley, a_request(config))
    second = train(valley, a_request(config, server_round=2))

    assert any((first.arrays[name] != second.arrays[name]).any() for name in first.arrays)


def test_the_proximal_term_reaches_the_training(valley: Trainer, config: RunConfig) -> None:
    free = train(valley, a_request(config))
    held = train(valley, a_request(config, mu=10.0))

    assert any((free.arrays[name] != held.arrays[name]).any() for name in free.arrays)


def test_local_layers_stay_and_last(
    shards: dict[str, Path], make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config("federation.local_layers=[heads.retina]")
    site = a_site("valley", "retina", shards["valley"], tmp_path)
    update = train(Trainer(site), a_request(config))

    # A new trainer, as after a restart, goes on from the site's own head.
    following = train(Trainer(site), a_request(config, server_round=2))
    elsewhere = Trainer(a_site("valley", "retina", shards["valley"], tmp_path / "empty"))
    without = train(elsewhere, a_request(config, server_round=2))

    assert not any(name.startswith("heads.") for name in update.arrays)
    assert list((tmp_path / "valley" / "run-1").glob("plain-*/local-layers-00001.safetensors"))
    assert any((following.arrays[name] != without.arrays[name]).any() for name in update.arrays)


def test_a_round_that_is_trained_again_starts_from_the_same_local_layers(
    shards: dict[str, Path], make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config("federation.local_layers=[heads.retina]")
    trainer = Trainer(a_site("valley", "retina", shards["valley"], tmp_path))
    train(trainer, a_request(config))
    first = train(trainer, a_request(config, server_round=2))

    again = train(trainer, a_request(config, server_round=2))

    assert all(first.arrays[n].tobytes() == again.arrays[n].tobytes() for n in first.arrays)


def test_local_layers_of_one_run_are_not_those_of_another(
    shards: dict[str, Path], make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config("federation.local_layers=[heads.retina]")
    trainer = Trainer(a_site("valley", "retina", shards["valley"], tmp_path))
    first = train(trainer, a_request(config))

    other = train(trainer, TrainRequest(**{**vars(a_request(config)), "run": "run-2"}))

    assert all(first.arrays[n].tobytes() == other.arrays[n].tobytes() for n in first.arrays)


def test_damaged_local_layers_are_an_error(
    shards: dict[str, Path], make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config("federation.local_layers=[heads.retina]")
    trainer = Trainer(a_site("valley", "retina", shards["valley"], tmp_path))
    train(trainer, a_request(config))
    [kept] = (tmp_path / "valley" / "run-1").glob("*/local-layers-00001.safetensors")
    kept.write_bytes(b"damaged")

    with pytest.raises(DataError, match="cannot be read"):
        trainer.train(a_request(config, server_round=2))


def test_a_run_s_name_cannot_lead_out_of_the_state_folder(
    valley: Trainer, config: RunConfig
) -> None:
    with pytest.raises(RunError, match="cannot name a folder"):
        valley.train(TrainRequest(**{**vars(a_request(config)), "run": "../../elsewhere"}))


def test_one_network_serves_two_sites_without_mixing_them(
    shards: dict[str, Path], valley: Trainer, config: RunConfig, tmp_path: Path
) -> None:
    alone = train(valley, a_request(config))
    coast = Trainer(a_site("coast", "pathoscan", shards["coast"], tmp_path))
    train(coast, a_request(config, "pathoscan"))

    after = train(valley, a_request(config))

    assert all(alone.arrays[n].tobytes() == after.arrays[n].tobytes() for n in alone.arrays)


def altered(shard: Path, out: Path, name: str, change: Callable[[np.ndarray], np.ndarray]) -> Path:
    shutil.copytree(shard, out)
    np.save(out / f"{name}.npy", change(np.load(out / f"{name}.npy")))
    return out


def test_a_site_without_training_pictures_refuses(
    shards: dict[str, Path], config: RunConfig, tmp_path: Path
) -> None:
    shard = altered(shards["valley"], tmp_path / "shard", "part", np.ones_like)
    trainer = Trainer(a_site("valley", "retina", shard, tmp_path))

    answer = trainer.train(a_request(config))

    assert isinstance(answer, Refusal)
    assert (answer.site, answer.reason) == ("valley", "no training pictures")
    assert answer.code is RefusalCode.UNABLE


def test_a_site_whose_loss_is_not_finite_refuses(
    shards: dict[str, Path], config: RunConfig, tmp_path: Path
) -> None:
    shard = altered(
        shards["coast"], tmp_path / "shard", "targets", lambda t: np.full_like(t, np.inf)
    )
    trainer = Trainer(a_site("coast", "pathoscan", shard, tmp_path))

    answer = trainer.train(a_request(config, "pathoscan"))

    assert isinstance(answer, Refusal)
    assert answer.reason.startswith("non-finite")


def test_a_class_that_is_absent_at_a_site_is_no_reason_to_refuse(
    shards: dict[str, Path], config: RunConfig, tmp_path: Path
) -> None:
    shard = altered(shards["coast"], tmp_path / "shard", "targets", np.zeros_like)
    trainer = Trainer(a_site("coast", "pathoscan", shard, tmp_path))

    update = train(trainer, a_request(config, "pathoscan"))

    assert update.metrics["saliency"] == 0.0


def test_a_site_refuses_a_run_of_other_labels(
    shards: dict[str, Path], make_config: MakeConfig, tmp_path: Path
) -> None:
    other = make_config("tasks.chestx.labels=[Nodule, Mass]")
    trainer = Trainer(a_site("north", "chestx", shards["north"], tmp_path))

    answer = trainer.train(a_request(other, "chestx"))

    assert isinstance(answer, Refusal)
    assert "other labels" in answer.reason


def test_a_site_refuses_arrays_that_are_not_its_network_s(
    valley: Trainer, config: RunConfig
) -> None:
    request = a_request(config)
    fewer = dict(list(request.arrays.items())[1:])

    answer = valley.train(TrainRequest(**{**vars(request), "arrays": fewer}))

    assert isinstance(answer, Refusal)
    assert "not this network's" in answer.reason


def test_a_site_evaluates_on_its_validation_split(valley: Trainer, config: RunConfig) -> None:
    request = EvaluateRequest("run-1", 1, canonical_json(config), global_model(config, "retina"))

    answer = valley.evaluate(request)

    assert isinstance(answer, Evaluation)
    assert (answer.site, answer.task, answer.num_examples) == ("valley", "retina", 4)
    assert all(np.isfinite(list(answer.metrics.values())))
    assert "loss_total" in answer.metrics


def test_the_model_that_is_sent_is_measured_before_training_and_training_stays_the_same(
    valley: Trainer, config: RunConfig
) -> None:
    alone = train(valley, a_request(config))
    measured = valley.evaluate(
        EvaluateRequest("run-1", 0, canonical_json(config), global_model(config, "retina"))
    )

    both = train(valley, a_request(config, evaluates=True))

    assert isinstance(measured, Evaluation)
    assert both.evaluation == measured.metrics
    assert alone.evaluation == {}
    assert all(alone.arrays[n].tobytes() == both.arrays[n].tobytes() for n in alone.arrays)


def test_a_site_without_a_validation_split_trains_and_has_nothing_to_tell(
    shards: dict[str, Path], config: RunConfig, tmp_path: Path
) -> None:
    shard = altered(shards["valley"], tmp_path / "shard", "part", np.zeros_like)
    trainer = Trainer(a_site("valley", "retina", shard, tmp_path))

    update = train(trainer, a_request(config, evaluates=True))

    assert update.evaluation == {}
    assert update.num_examples == 20


def test_the_last_model_is_measured_with_the_layers_its_round_left_at_the_site(
    shards: dict[str, Path], make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config("federation.local_layers=[heads.retina]")
    trainer = Trainer(a_site("valley", "retina", shards["valley"], tmp_path))
    model = global_model(config, "retina")
    train(trainer, a_request(config))

    def loss_of(server_round: int) -> float:
        answer = trainer.evaluate(
            EvaluateRequest("run-1", server_round, canonical_json(config), model)
        )
        assert isinstance(answer, Evaluation)
        return answer.metrics["loss_total"]

    assert loss_of(1) != loss_of(0)


def test_the_networks_digest_is_the_one_that_the_coordinator_signs(
    valley: Trainer, config: RunConfig
) -> None:
    network = build_network(config.model, config.task_table(), seed=config.seed)
    whole = architecture_digest(read_arrays(network, array_names(network)))
    encoder = config.model.encoder.model_copy(update={"pretrained": True})
    model = config.model.model_copy(update={"encoder": encoder})
    with_weights = config.model_copy(update={"model": model})

    assert valley.architecture_digest(canonical_json(config)) == whole
    assert valley.architecture_digest(canonical_json(with_weights)) == whole


def test_a_trainer_that_is_told_so_trains_on_the_shard_that_lies_there_now(
    shards: dict[str, Path], config: RunConfig, tmp_path: Path
) -> None:
    folder = tmp_path / "shard"
    shutil.copytree(shards["valley"], folder)
    trainer = LazyTrainer(a_site("valley", "retina", folder, tmp_path / "state"))
    train(trainer, a_request(config))
    shutil.rmtree(folder)
    shutil.copytree(shards["valley"], folder)
    targets = np.load(folder / "targets.npy")
    np.save(folder / "targets.npy", np.flip(targets, axis=0))
    fresh = train(
        Trainer(a_site("valley", "retina", folder, tmp_path / "other")), a_request(config)
    )

    trainer.reopen()
    update = train(trainer, a_request(config))

    assert all(update.arrays[n].tobytes() == fresh.arrays[n].tobytes() for n in fresh.arrays)
