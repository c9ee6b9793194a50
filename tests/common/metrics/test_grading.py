"""Ordinal numbers: right by another library, with support, and silent where undefined."""

import importlib
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest

from common.metrics.classification import Predictions, classification_metrics
from common.metrics.estimate import Estimate


def make_graded(pictures: int = 250) -> Predictions:
    rng = np.random.default_rng(8)
    truth = rng.integers(0, 5, pictures)
    severity = truth + rng.normal(size=pictures)
    steps = np.arange(1, 5)
    grades = truth.astype(float)
    grades[:10] = np.nan
    return Predictions(
        task="retina",
        class_names=tuple(f"grade>={k}" for k in steps),
        probabilities=1 / (1 + np.exp(-2 * (severity[:, None] - steps + 0.5))),
        truths=np.where(np.isnan(grades)[:, None], np.nan, truth[:, None] >= steps),
        patients=np.arange(pictures),
        grades=grades,
        predicted_grades=np.clip(np.round(severity), 0, 4).astype(np.int64),
    )


def measure(predictions: Predictions, *, replicates: int = 0) -> dict[str, Estimate]:
    report = classification_metrics(
        predictions,
        replicates=replicates,
        min_positive_patients=20,
        rng=np.random.default_rng(0),
    )
    return report.grades


@pytest.fixture(scope="module")
def torchmetrics_functional() -> ModuleType:
    # Importing torchmetrics imports torchvision, which needs this first.
    importlib.import_module("common.machine.torchvision_ops")
    return importlib.import_module("torchmetrics.functional.classification")


def test_ordinal_numbers_equal_torchmetrics(torchmetrics_functional: ModuleType) -> None:
    import torch

    predictions = make_graded()
    known = ~np.isnan(predictions.grades)
    called = torch.tensor(predictions.predicted_grades[known])
    truth = torch.tensor(predictions.grades[known]).long()
    expected = {
        "grade_accuracy": torchmetrics_functional.multiclass_accuracy(
            called, truth, num_classes=5, average="micro"
        ),
        "grade_balanced_accuracy": torchmetrics_functional.multiclass_accuracy(
            called, truth, num_classes=5, average="macro"
        ),
        "quadratic_weighted_kappa": torchmetrics_functional.multiclass_cohen_kappa(
            called, truth, num_classes=5, weights="quadratic"
        ),
    }
    grades = measure(predictions)
    assert {name: grade.value for name, grade in grades.items()} == pytest.approx(
        {name: value.item() for name, value in expected.items()}, abs=1e-6
    )


def test_ordinal_metrics_have_intervals_support_and_chance() -> None:
    grades = measure(make_graded(), replicates=200)
    assert all(grade.low < grade.value < grade.high for grade in grades.values())
    assert grades["grade_accuracy"].support == 240
    assert grades["grade_balanced_accuracy"].chance == 0.2
    assert grades["quadratic_weighted_kappa"].chance == 0


def test_grades_lack_an_interval_only_where_a_grade_is_rare() -> None:
    graded = make_graded()
    keep = np.ones(250, dtype=bool)
    keep[np.flatnonzero(graded.grades == 3)[2:]] = False
    rare = replace(
        graded,
        **{
            name: getattr(graded, name)[keep]
            for name in ("probabilities", "truths", "patients", "grades", "predicted_grades")
        },
    )
    grades = measure(rare, replicates=50)
    assert grades["grade_accuracy"].low is not None
    assert grades["grade_balanced_accuracy"].note == (
        "no interval: 2 patients of the rarest grade, 20 needed"
    )


def test_unknown_grades_give_no_ordinal_value() -> None:
    predictions = Predictions(
        task="retina",
        class_names=("grade>=1", "grade>=2"),
        probabilities=np.full((4, 2), 0.5),
        truths=np.full((4, 2), np.nan),
        patients=np.arange(4),
        grades=np.full(4, np.nan),
        predicted_grades=np.zeros(4, dtype=int),
    )
    grades = measure(predictions, replicates=10)
    assert {grade.note for grade in grades.values()} == {
        "not defined: no picture with a known grade"
    }
