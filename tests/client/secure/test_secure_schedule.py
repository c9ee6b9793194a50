"""Under masks a site takes its place in the schedule from the run, not from the coordinator."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.training.trainer import Trainer
from common.config.reading import canonical_json
from common.config.run import RunConfig
from common.local_site import LocalSite
from common.messages.kinds import Arrays, TrainRequest, Update
from common.model.arrays import array_names, read_arrays
from common.model.layers import held_by
from common.model.network import build_network

MakeConfig = Callable[..., RunConfig]
STEPS = 2  # 14 pictures, one epoch of two batches


@pytest.fixture
def valley(shards: dict[str, Path], tmp_path: Path) -> Trainer:
    shard = shards["valley"]
    return Trainer(
        LocalSite(name="valley", task="retina", shard=shard, state=tmp_path, num_threads=1)
    )


def changes(trainer: Trainer, config: RunConfig, *places: tuple[int, int]) -> list[Arrays]:
    """The change of a second round, for every place that is asked for."""
    network = build_network(config.model, config.task_table(), seed=1)
    arrays = read_arrays(network, held_by("retina", array_names(network)))
    request = TrainRequest("run-1", 2, 0, 1, 0.0, False, canonical_json(config), arrays)
    found = []
    for first, total in places:
        update = trainer.train(replace(request, global_step=first, total_steps=total))
        assert isinstance(update, Update), update
        found.append(update.arrays)
    return found


def is_same(one: Arrays, other: Arrays) -> bool:
    return all(np.array_equal(one[name], other[name]) for name in one)


def test_a_place_at_the_end_of_the_schedule_is_not_believed(
    valley: Trainer, make_config: MakeConfig
) -> None:
    masked = make_config("train.epochs=1", "secure_aggregation.enabled=true")
    in_the_open = make_config("train.epochs=1")
    total = masked.federation.rounds * STEPS

    true, trick = changes(valley, masked, (STEPS, total), (1, 1))
    plain, plain_trick = changes(valley, in_the_open, (STEPS, total), (1, 1))

    assert is_same(true, trick)
    assert is_same(true, plain)  # the place is the one that the coordinator reckons
    assert not is_same(plain, plain_trick)
