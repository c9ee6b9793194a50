"""What the real trainer says, for each task, with and without noise, is what the guard lets out."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from client.consent.policy_file import read_policy
from client.desk.outgoing import at_precision, limits_of
from client.guard.what_leaves import reason_to_keep
from client.home.own_shard import counts_of
from client.training.trainer import Trainer
from common.config.reading import canonical_json
from common.config.run import RunConfig
from common.local_site import LocalSite
from common.messages.kinds import EvaluateRequest, QueryRequest, TrainRequest, Update
from common.messages.manifest import Manifest
from common.model.arrays import array_names, read_arrays
from common.model.layers import held_by
from common.model.network import build_network
from hospital import Hospital, make_hospital

SITES = {"north": "chestx", "valley": "retina", "lakeside": "pathoscan"}


@pytest.fixture
def policy_of(short_path: Path, door_config: RunConfig) -> Hospital:
    made = make_hospital(short_path / "site", config=door_config)
    made.set_policy(bounds__min_training_patients=1, bounds__min_validation_patients=1)
    return made


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("noise", [False, True], ids=["plain", "noise"])
def test_real_answers_may_leave(
    policy_of: Hospital,
    shards: dict[str, Path],
    make_config: Callable[..., RunConfig],
    site: str,
    noise: bool,
) -> None:
    private = ["privacy.steps_per_round=2", f"privacy.enabled={str(noise).lower()}"]
    config = make_config("train.epochs=1", *private)
    task = SITES[site]
    local = LocalSite(
        name=site, task=task, shard=shards[site], state=policy_of.home.state, num_threads=1
    )
    trainer = Trainer(local)
    network = build_network(config.model, config.task_table(), seed=config.seed)
    arrays = read_arrays(network, held_by(task, array_names(network)))
    card = trainer.describe()
    entry = policy_of.entry.model_copy(update={"name": site, "task": task})
    signed = policy_of.manifest(sites=(entry,), config=config)
    manifest = Manifest.model_validate_json(signed.manifest_json)
    text = canonical_json(config)
    train = TrainRequest("run-1", 1, 0, 10, 0.0, True, text, arrays)
    evaluate = EvaluateRequest("run-1", 1, text, arrays)

    update = trainer.train(train)
    assert isinstance(update, Update), update
    answers = [
        (QueryRequest("run-1"), card),
        (train, at_precision(update, config)),
        (evaluate, trainer.evaluate(evaluate)),
    ]

    for request, answer in answers:
        limits = limits_of(
            manifest,
            request,
            site=site,
            counts=counts_of(card),
            policy=read_policy(policy_of.home.policy_file),
        )
        assert reason_to_keep(request, answer, limits) is None  # type: ignore[arg-type]
        assert reason_to_keep(request, replace(answer, task="another"), limits) is not None  # type: ignore[arg-type]
    assert update.evaluation
    assert not noise or set(update.metrics) == {"seconds"}
