"""One evaluation loop: every picture once, truth beside prediction, lesions and never anatomy."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from common.config.reading import load_config
from common.config.run import RunConfig
from common.datasets.card import DataCard, DuplicateCount, PixelRange
from common.datasets.record import EVERY_POSITIVE_LABEL
from common.datasets.shard import REFERENCE_PARTS, Shard
from common.errors import DataError
from common.learning.evaluate import (
    TaskPredictions,
    TaskReport,
    context_share,
    evaluate,
    measure,
    positive_logits,
    released_metrics,
)
from common.model.network import Network, build_network

SIZE_PX = 96


@pytest.fixture(scope="module")
def config() -> RunConfig:
    overrides = ["evaluation.bootstrap_replicates=100", "evaluation.min_positive_patients=5"]
    return load_config(Path("configs/experiments/demo.yaml"), overrides).run


@pytest.fixture(scope="module")
def network(config: RunConfig) -> Network:
    return build_network(config.model, config.task_table(), seed=3)


def shard_of(config: RunConfig, name: str, targets: NDArray[np.float32], *, kind: str) -> Shard:
    """Return pictures of noise, with a bright square as region wherever something is positive."""
    task = config.task(name)
    rng = np.random.default_rng(0)
    pictures = len(targets)
    images = rng.integers(0, 120, (pictures, SIZE_PX, SIZE_PX, task.channels)).astype(np.uint8)
    masks, owners = [], []
    for picture in np.flatnonzero((targets >= 1).any(axis=1)):
        mask = np.zeros((SIZE_PX, SIZE_PX), np.uint8)
        row, column = rng.integers(0, SIZE_PX - 24, 2)
        mask[row : row + 24, column : column + 24] = 1
        images[picture][mask > 0] = 230
        masks.append(mask)
        owners.append(picture)
    part = np.where(np.arange(pictures) < 0.8 * pictures, 0, 2).astype(np.int8)
    return Shard(
        task=name,
        labels=task.labels,
        images=images,
        targets=targets,
        patients=np.arange(pictures, dtype=np.int32) // 2,
        part=part,
        parts=REFERENCE_PARTS,
        region_masks=np.stack(masks),
        region_image=np.array(owners, np.int32),
        region_label=np.full(len(masks), EVERY_POSITIVE_LABEL, np.int16),
        region_kind=(kind,) * len(masks),
        region_name=("square",) * len(masks),
        card=DataCard(
            task=name,
            image_size_px=SIZE_PX,
            pictures=pictures,
            patients=pictures // 2,
            parts=(),
            regions=(),
            width_px=PixelRange(SIZE_PX, SIZE_PX, SIZE_PX),
            height_px=PixelRange(SIZE_PX, SIZE_PX, SIZE_PX),
            exclusions={},
            duplicates=DuplicateCount(0, 0, 0, 0, 0, 0),
            notes=(),
        ),
    )


@pytest.fixture(scope="module")
def chest(config: RunConfig) -> Shard:
    targets = (np.random.default_rng(1).random((50, 3)) < 0.4).astype(np.float32)
    targets[:3, 1] = np.nan
    return shard_of(config, "chestx", targets, kind="lesion_mask")


@pytest.fixture(scope="module")
def retina(config: RunConfig) -> Shard:
    targets = (np.arange(50) % 5).astype(np.float32)[:, None]
    targets[4] = np.nan
    return shard_of(config, "retina", targets, kind="lesion_mask")


def look(config: RunConfig, network: Network, shard: Shard, **keys: object) -> TaskPredictions:
    settings: dict[str, object] = {"batch_size": 16, "keep_maps": ()} | keys
    return evaluate(
        network,
        shard,
        "selection",
        task=config.task(shard.task),
        loss=config.loss,
        **settings,  # type: ignore[arg-type]
    )


def judge(config: RunConfig, predicted: TaskPredictions) -> TaskReport:
    return measure(predicted, config=config.evaluation, seed=config.seed)


def test_every_picture_of_the_part_is_seen_once(
    config: RunConfig, network: Network, chest: Shard
) -> None:
    predicted = look(config, network, chest)
    assert predicted.indices.tolist() == list(range(40))
    assert predicted.logits.shape == (40, 3)
    assert predicted.predictions.probabilities.shape == (40, 3)


def test_equal_calls_give_equal_bits(config: RunConfig, network: Network, chest: Shard) -> None:
    first, second = look(config, network, chest), look(config, network, chest)
    np.testing.assert_array_equal(first.logits, second.logits)
    assert judge(config, first).classification == judge(config, second).classification
    assert first.loss == second.loss


def test_the_batch_size_does_not_matter(config: RunConfig, network: Network, chest: Shard) -> None:
    whole, small = look(config, network, chest), look(config, network, chest, batch_size=7)
    np.testing.assert_allclose(whole.logits, small.logits, atol=1e-5)
    assert whole.loss == pytest.approx(small.loss, abs=1e-5)


def test_the_network_is_left_in_its_mode_and_without_gradients(
    config: RunConfig, network: Network, chest: Shard
) -> None:
    network.train()
    look(config, network, chest)
    assert network.training
    assert all(parameter.grad is None for parameter in network.parameters())


def test_auroc_is_that_of_an_independent_implementation(
    config: RunConfig, network: Network, chest: Shard
) -> None:
    predicted = look(config, network, chest)
    report = judge(config, predicted)
    known = ~np.isnan(chest.targets[:40, 1])
    expected = roc_auc_score(chest.targets[:40, 1][known], predicted.logits[known, 1])
    assert report.classification.per_class["Mass"]["auroc"].value == pytest.approx(expected)
    assert report.classification.per_class["Mass"]["auroc"].support == 37


def test_grades_are_asked_as_cumulative_questions(
    config: RunConfig, network: Network, retina: Shard
) -> None:
    predicted = look(config, network, retina).predictions
    assert predicted.class_names == ("grade>=1", "grade>=2", "grade>=3", "grade>=4")
    assert predicted.truths[3].tolist() == [1, 1, 1, 0]
    assert np.isnan(predicted.truths[4]).all()
    assert predicted.predicted_grades is not None
    severity = look(config, network, retina).logits[:, 0]
    thresholds = network.heads["retina"].thresholds.values().detach().numpy()
    expected = (severity[:, None] >= thresholds).sum(axis=1)
    np.testing.assert_array_equal(predicted.predicted_grades, expected)


def test_every_positive_logit_is_a_case_of_localisation(
    config: RunConfig, network: Network, chest: Shard
) -> None:
    localised = look(config, network, chest).localised
    assert len(localised) == int(np.nansum(chest.targets[:40] == 1))
    assert {case.class_name for case in localised} == {"Effusion", "Mass", "Nodule"}
    assert all(case.localisation is not None for case in localised)


def test_chance_of_energy_is_the_share_of_the_picture_that_the_lesion_covers(
    config: RunConfig, network: Network, chest: Shard
) -> None:
    report = judge(config, look(config, network, chest))
    chance = report.localisation.average["energy_in_roi"].chance
    assert chance == pytest.approx(24 * 24 / SIZE_PX**2)


def test_the_map_of_a_graded_task_is_the_severity_s(
    config: RunConfig, network: Network, retina: Shard
) -> None:
    localised = look(config, network, retina).localised
    assert {case.class_name for case in localised} == {"severity"}
    assert len(localised) == int((retina.targets[:40] >= 1).sum())


def test_anatomy_is_never_scored_as_a_lesion(config: RunConfig, network: Network) -> None:
    targets = np.ones((10, 3), np.float32)
    lungs = shard_of(config, "chestx", targets, kind="organ_mask_lung")
    report = judge(config, look(config, network, lungs))
    assert report.localisation.average["energy_in_roi"].value is None
    assert report.localisation.cases_without_roi == 8 * 3


def test_unknown_and_negative_targets_are_not_positive(chest: Shard) -> None:
    positive = {index: positive_logits(chest, index) for index in range(3)}
    assert all(1 not in logits for logits in positive.values())
    assert positive[0] == [c for c in (0, 2) if chest.targets[0, c] == 1]


def test_kept_maps_are_the_parts_of_the_logit(
    config: RunConfig, network: Network, chest: Shard
) -> None:
    predicted = look(config, network, chest, keep_maps=(5, 17))
    assert set(predicted.kept_maps) == {5, 17}
    np.testing.assert_allclose(
        predicted.kept_maps[17].sum(axis=(1, 2)), predicted.logits[17], atol=1e-4
    )


def test_the_score_is_the_mean_auroc_over_classes(
    config: RunConfig, network: Network, chest: Shard
) -> None:
    report = judge(config, look(config, network, chest))
    classes = [metrics["auroc"].value for metrics in report.classification.per_class.values()]
    assert report.score == pytest.approx(np.mean(classes))


def test_without_an_auroc_the_score_is_minus_the_loss(config: RunConfig, network: Network) -> None:
    positive = shard_of(config, "chestx", np.ones((10, 3), np.float32), kind="lesion_mask")
    report = judge(config, look(config, network, positive))
    loss = report.loss["total"]
    assert loss is not None
    assert report.score == -loss
    assert report.score_is.startswith("minus the loss")


def test_a_diverged_model_has_no_score(config: RunConfig, chest: Shard) -> None:
    diverged = build_network(config.model, config.task_table(), seed=3)
    with torch.no_grad():
        for parameter in diverged.heads.parameters():
            parameter.fill_(torch.nan)
    report = judge(config, look(config, diverged, chest))
    assert report.score is None
    assert report.classification.average["auroc"].value is None
    assert report.localisation.maps_without_positive_evidence > 0


def test_a_diverged_model_gives_no_grade_rather_than_the_lowest(
    config: RunConfig, retina: Shard
) -> None:
    diverged = build_network(config.model, config.task_table(), seed=3)
    with torch.no_grad():
        for parameter in diverged.heads.parameters():
            parameter.fill_(torch.nan)
    grades = judge(config, look(config, diverged, retina)).classification.grades
    assert {estimate.value for estimate in grades.values()} == {None}
    assert {estimate.low for estimate in grades.values()} == {None}
    assert all("output is not finite" in estimate.note for estimate in grades.values())


def test_the_context_s_share_is_told_for_the_logits_that_have_one(
    config: RunConfig, chest: Shard
) -> None:
    model = config.model.model_copy(update={"context_labels": {"chestx": ("Mass",)}})
    network = build_network(model, config.task_table(), seed=3)
    predicted = look(config, network, chest, keep_maps=range(40))
    shares = judge(config, predicted).context_share
    assert (shares["Effusion"], shares["Nodule"]) == (None, None)
    seen = np.array([predicted.kept_maps[i][1].sum() for i in range(40)])
    context = predicted.logits[:, 1] - seen
    expected = np.mean(np.abs(context) / (np.abs(seen) + np.abs(context)))
    assert shares["Mass"] == pytest.approx(expected, abs=1e-3)
    assert 0 < expected < 1


def test_a_context_that_says_nothing_has_no_share() -> None:
    assert context_share(map_logits=0.0, context_logits=0.0) == 0.0
    assert context_share(map_logits=-3.0, context_logits=1.0) == pytest.approx(0.25)


def test_released_metrics_are_finite_averages(
    config: RunConfig, network: Network, retina: Shard
) -> None:
    released = released_metrics(judge(config, look(config, network, retina)))
    assert {"auroc", "grade_accuracy", "energy_in_roi", "loss_total"} <= set(released)
    assert all(np.isfinite(value) for value in released.values())


def test_a_shard_of_other_labels_is_refused(
    config: RunConfig, network: Network, chest: Shard
) -> None:
    with pytest.raises(DataError, match=r"Effusion, Mass, Nodule .*as retina"):
        evaluate(
            network,
            chest,
            "selection",
            task=config.task("retina"),
            loss=config.loss,
            batch_size=8,
        )


def test_an_empty_part_is_refused(config: RunConfig, network: Network, chest: Shard) -> None:
    with pytest.raises(DataError, match="part calibration of the chestx shard is empty"):
        evaluate(
            network,
            chest,
            "calibration",
            task=config.task("chestx"),
            loss=config.loss,
            batch_size=8,
        )
