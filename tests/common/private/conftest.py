"""A tiny network, and pictures of patients that have between one and four each."""

from pathlib import Path

import numpy as np
import pytest

from common.config.reading import load_config
from common.config.run import RunConfig
from common.datasets.card import DataCard, DuplicateCount, PartCount, PixelRange
from common.datasets.record import EVERY_POSITIVE_LABEL
from common.datasets.shard import SITE_PARTS, Shard
from common.model.network import Network, build_network
from common.tasks import Task

SIZE_PX = 64
DEMO = Path(__file__).parents[3] / "configs" / "experiments" / "demo.yaml"
STILL = [
    "data.augment.chestx.rotation_deg=0",
    "data.augment.chestx.translate_fraction=0",
    "data.augment.chestx.scale=[1.0, 1.0]",
    "data.augment.chestx.shear_deg=0",
    "data.augment.chestx.elastic_alpha_px=0",
    "data.augment.chestx.brightness=0",
    "data.augment.chestx.contrast=0",
]


@pytest.fixture(scope="session")
def config() -> RunConfig:
    size = [f"data.image_size_px={SIZE_PX}", f"model.image_size_px={SIZE_PX}"]
    private = ["privacy.enabled=true", "privacy.steps_per_round=2", "train.batch_size=5"]
    return load_config(DEMO, [*size, *private, *STILL]).run


@pytest.fixture(scope="session")
def task(config: RunConfig) -> Task:
    return config.task("chestx")


@pytest.fixture
def network(config: RunConfig) -> Network:
    return build_network(config.model, config.task_table(), seed=3).train()


@pytest.fixture(scope="session")
def shard(task: Task) -> Shard:
    """Pictures of noise, a bright square outlined in those that are positive."""
    draw = np.random.default_rng(0)
    patients = np.repeat(np.arange(8, dtype=np.int32), [1, 2, 3, 4, 1, 2, 3, 1])
    count = len(patients)
    targets = (draw.random((count, task.num_logits)) < 0.5).astype(np.float32)
    targets[0], targets[1, 0] = 1.0, np.nan
    positive = np.flatnonzero((targets >= 1).any(axis=1))
    images = draw.integers(0, 120, (count, SIZE_PX, SIZE_PX, task.channels)).astype(np.uint8)
    masks = np.zeros((len(positive), SIZE_PX, SIZE_PX), np.uint8)
    for mask, picture in zip(masks, positive, strict=True):
        row, column = draw.integers(0, SIZE_PX - 24, 2)
        mask[row : row + 24, column : column + 24] = 1
        images[picture][mask > 0] = 230
    return Shard(
        task=task.name,
        labels=task.labels,
        images=images,
        targets=targets,
        patients=patients,
        part=np.where(patients < 7, 0, 1).astype(np.int8),
        parts=SITE_PARTS,
        region_masks=masks,
        region_image=positive.astype(np.int32),
        region_label=np.full(len(masks), EVERY_POSITIVE_LABEL, np.int16),
        region_kind=("lesion_mask",) * len(masks),
        region_name=("square",) * len(masks),
        card=DataCard(
            task=task.name,
            image_size_px=SIZE_PX,
            pictures=count,
            patients=8,
            parts=(PartCount("train", 16, 7, (), 0), PartCount("val", 1, 1, (), 0)),
            regions=(),
            width_px=PixelRange(SIZE_PX, SIZE_PX, SIZE_PX),
            height_px=PixelRange(SIZE_PX, SIZE_PX, SIZE_PX),
            exclusions={},
            duplicates=DuplicateCount(0, 0, 0, 0, 0, 0),
            notes=(),
        ),
    )
