"""What a network says to a part of a shard, picture by picture."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from common.config.reading import load_config
from common.config.run import PhantomSource
from common.datasets.phantom_source import open_phantom
from common.datasets.prepare import prepare_shard
from common.datasets.shard import Shard
from common.errors import DataError
from common.model.network import Network
from common.package.loading import network_input
from common.package.responses import respond
from common.tasks import Task


@pytest.fixture(scope="module")
def shard(tasks: Mapping[str, Task], tmp_path_factory: pytest.TempPathFactory) -> Shard:
    small = ["data.image_size_px=64", "model.image_size_px=64"]
    data = load_config(Path("configs/experiments/demo.yaml"), small).run.data
    source = PhantomSource(
        kind="phantom",
        patients=10,
        pictures_per_patient=2,
        scanner_strength=0.0,
        lesion_contrast=1.5,
        roi_fraction=1.0,
        marker_agreement=None,
        prevalence=None,
    )
    return prepare_shard(
        open_phantom(source, task=tasks["retina"], site="reference", seed=1),
        task=tasks["retina"],
        parts={"selection": 0.5, "calibration": 0.5, "gate": 0.0},
        data=data,
        seed=1,
        out=tmp_path_factory.mktemp("shards") / "retina",
    )


def test_responses_are_those_of_the_pictures_one_by_one(
    network: Network, shard: Shard, tasks: Mapping[str, Task]
) -> None:
    found = respond(network, shard, "calibration", task=tasks["retina"], batch_size=3)
    rows = shard.indices("calibration")
    assert len(found) == len(rows)
    assert found.num_patients == 5
    for number, row in enumerate(rows):
        with torch.inference_mode():
            alone = network(network_input(shard.images[row : row + 1]), task="retina")
        assert found.class_logits[number] == pytest.approx(alone.class_logits[0].numpy(), abs=1e-5)
        assert found.logits[number] == pytest.approx(alone.logits[0].numpy(), abs=1e-5)
        assert found.features[number] == pytest.approx(alone.pooled[0].numpy(), abs=1e-5)
        assert found.targets[number] == shard.targets[row]
        assert found.patients[number] == shard.patients[row]
    assert found.is_finite()


def test_a_part_may_be_empty(network: Network, shard: Shard, tasks: Mapping[str, Task]) -> None:
    found = respond(network, shard, "gate", task=tasks["retina"], batch_size=3)
    assert len(found) == 0
    assert found.class_logits.shape == (0, 4)
    assert found.features.shape == (0, network.config.width)


def test_the_network_keeps_its_mode(
    network: Network, shard: Shard, tasks: Mapping[str, Task]
) -> None:
    network.train()
    try:
        respond(network, shard, "calibration", task=tasks["retina"], batch_size=8)
        assert network.training
    finally:
        network.eval()


def test_another_task_s_shard_is_refused(
    network: Network, shard: Shard, tasks: Mapping[str, Task]
) -> None:
    with pytest.raises(DataError, match="prepared for retina"):
        respond(network, shard, "calibration", task=tasks["pathoscan"], batch_size=3)


def test_diverged_responses_are_seen(
    network: Network, shard: Shard, tasks: Mapping[str, Task]
) -> None:
    found = respond(network, shard, "calibration", task=tasks["retina"], batch_size=8)
    found.logits[0] = np.inf
    assert not found.is_finite()
