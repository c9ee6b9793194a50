"""Concept heads learn what is outlined, and their measures say so; others say nothing."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from common.config.reading import load_config
from common.config.run import RunConfig
from common.datasets.card import DataCard, DuplicateCount, PixelRange
from common.datasets.loader import batches
from common.datasets.shard import SITE_PARTS, Shard
from common.learning.evaluate import (
    TaskPredictions,
    TaskReport,
    evaluate,
    measure,
    released_metrics,
)
from common.learning.loss import total_loss
from common.model.network import Network, build_network
from common.model.optimiser import optimiser_of
from common.model.parameters import parameters_of

SIZE_PX, TRAINED, TESTED, EPOCHS = 64, 48, 24, 7
HAEMORRHAGE, MICROANEURYSM = 1, 0


@pytest.fixture(scope="module")
def config() -> RunConfig:
    changes = [
        f"data.image_size_px={SIZE_PX}",
        f"model.image_size_px={SIZE_PX}",
        "loss.lambda_con=1",
        "train.learning_rate=0.003",
        "evaluation.bootstrap_replicates=100",
        "evaluation.min_positive_patients=5",
    ]
    return load_config(Path("configs/experiments/demo.yaml"), changes).run


@pytest.fixture(scope="module")
def shard() -> Shard:
    """Noise of one grade; half of the pictures have a dark square, outlined as a haemorrhage."""
    draw = np.random.default_rng(0)
    count = TRAINED + TESTED
    images = draw.integers(120, 200, (count, SIZE_PX, SIZE_PX, 3)).astype(np.uint8)
    marked = np.arange(0, count, 2)
    masks = np.zeros((len(marked), SIZE_PX, SIZE_PX), np.uint8)
    for mask, picture in zip(masks, marked, strict=True):
        row, column = draw.integers(0, SIZE_PX - 16, 2)
        mask[row : row + 16, column : column + 16] = 1
        images[picture][mask > 0] = 20
    concepts = np.full((count, 5), np.nan, np.float32)
    concepts[:, HAEMORRHAGE] = np.arange(count) % 2 == 0
    return Shard(
        task="retina",
        labels=("0 none", "1 mild", "2 moderate", "3 severe", "4 proliferative"),
        images=images,
        targets=np.full((count, 1), np.nan, np.float32),
        patients=np.arange(count, dtype=np.int32),
        part=np.where(np.arange(count) < TRAINED, 0, 2).astype(np.int8),
        parts=SITE_PARTS,
        region_masks=masks,
        region_image=marked.astype(np.int32),
        region_label=np.zeros(len(marked), np.int16),
        region_kind=("lesion_mask",) * len(marked),
        region_name=("haemorrhage",) * len(marked),
        card=DataCard(
            task="retina",
            image_size_px=SIZE_PX,
            pictures=count,
            patients=count,
            parts=(),
            regions=(),
            width_px=PixelRange(SIZE_PX, SIZE_PX, SIZE_PX),
            height_px=PixelRange(SIZE_PX, SIZE_PX, SIZE_PX),
            exclusions={},
            duplicates=DuplicateCount(0, 0, 0, 0, 0, 0),
            notes=(),
        ),
        concepts=concepts,
        concept_names=("microaneurysm", "haemorrhage", "hard_exudate", "soft_exudate",
                       "neovascularisation"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(config: RunConfig, shard: Shard) -> Network:
    task = config.task("retina")
    network = build_network(config.model, {"retina": task}, seed=1)
    optimiser = optimiser_of(parameters_of(network, task), config.train)
    grid = network.grid(SIZE_PX)
    for epoch in range(EPOCHS):
        for batch in batches(
            shard, "train", task=task, batch_size=16, grid=grid, augment=None, seed=epoch
        ):
            output = network(batch.image, task=task.name)
            optimiser.zero_grad()
            total_loss(output, batch, task=task, config=config.loss).total.backward()
            optimiser.step()
    return network


@pytest.fixture(scope="module")
def predicted(config: RunConfig, shard: Shard, trained: Network) -> TaskPredictions:
    task = config.task("retina")
    return evaluate(trained, shard, "test", task=task, loss=config.loss, batch_size=12)


@pytest.fixture(scope="module")
def report(config: RunConfig, predicted: TaskPredictions) -> TaskReport:
    return measure(predicted, config=config.evaluation, seed=1)


def test_a_taught_sign_is_told_from_its_absence_in_new_pictures(
    report: TaskReport, predicted: TaskPredictions
) -> None:
    assert report.concepts is not None
    assert predicted.concepts is not None
    found = report.concepts.classification.per_class["haemorrhage"]["auroc"]
    answers = predicted.concepts.predictions
    expected = roc_auc_score(answers.truths[:, HAEMORRHAGE], answers.probabilities[:, HAEMORRHAGE])
    assert found.value == pytest.approx(expected)
    assert found.value is not None
    assert found.value >= 0.9
    assert (found.support, found.positives) == (TESTED, TESTED // 2)


def test_the_map_of_a_taught_sign_lies_on_its_region(report: TaskReport) -> None:
    assert report.concepts is not None
    energy = report.concepts.localisation.per_class["haemorrhage"]["energy_in_roi"]
    assert energy.chance == pytest.approx(16 * 16 / SIZE_PX**2)
    assert energy.value is not None
    assert energy.chance is not None
    assert energy.value > 4 * energy.chance
    assert energy.support == TESTED // 2


def test_an_untaught_sign_is_neither_right_nor_wrong(
    report: TaskReport, predicted: TaskPredictions
) -> None:
    assert report.concepts is not None
    assert predicted.concepts is not None
    assert report.concepts.classification.per_class["microaneurysm"]["auroc"].value is None
    assert "microaneurysm" not in report.concepts.localisation.per_class
    assert (predicted.concepts.predictions.probabilities[:, MICROANEURYSM] == 0.5).all()


def test_a_network_without_concepts_reports_none(config: RunConfig, shard: Shard) -> None:
    task = config.task("retina")
    model = config.model.model_copy(update={"concepts": {}})
    network = build_network(model, {"retina": task}, seed=1)
    plain = evaluate(network, shard, "test", task=task,
                     loss=config.loss, batch_size=24)  # fmt: skip
    assert plain.concepts is None
    assert measure(plain, config=config.evaluation, seed=1).concepts is None


def test_no_measure_of_a_sign_leaves_a_site_but_its_loss(report: TaskReport) -> None:
    released = released_metrics(report)
    assert released["loss_concept"] > 0
    assert not any("haemorrhage" in name for name in released)
