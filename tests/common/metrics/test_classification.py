"""Classification numbers: right by other libraries, with support, and honest when undefined."""

import importlib
import json
import math
import time
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from common.errors import ConfigError, DataError
from common.metrics.binary import METRICS
from common.metrics.bootstrap import IntArray
from common.metrics.classification import (
    ClassificationReport,
    Predictions,
    classification_metrics,
)


def make_predictions(
    *,
    pictures: int = 200,
    classes: int = 3,
    unknown: float = 0.2,
    patients: IntArray | None = None,
) -> Predictions:
    rng = np.random.default_rng(0)
    truths = (rng.random((pictures, classes)) < 0.4).astype(np.float32)
    noise = rng.random((pictures, classes))
    truths_or_unknown = np.where(rng.random(truths.shape) < unknown, np.nan, truths)
    return Predictions(
        task="chestx",
        class_names=tuple(f"finding {k}" for k in range(classes)),
        probabilities=(0.35 * truths + 0.65 * noise).astype(np.float32),
        truths=truths_or_unknown.astype(np.float32),
        patients=np.arange(pictures) if patients is None else patients,
    )


def measure(
    predictions: Predictions,
    *,
    replicates: int = 0,
    threshold: float | dict[str, float] = 0.5,
) -> ClassificationReport:
    return classification_metrics(
        predictions,
        replicates=replicates,
        min_positive_patients=20,
        rng=np.random.default_rng(0),
        threshold=threshold,
    )


@pytest.fixture(scope="module")
def torchmetrics_functional() -> ModuleType:
    # Importing torchmetrics imports torchvision, which needs this first.
    importlib.import_module("common.machine.torchvision_ops")
    return importlib.import_module("torchmetrics.functional.classification")


@pytest.mark.parametrize(
    ("metric", "function", "options"),
    [
        ("accuracy", "binary_accuracy", {}),
        ("precision", "binary_precision", {}),
        ("sensitivity", "binary_recall", {}),
        ("specificity", "binary_specificity", {}),
        ("f1", "binary_f1_score", {}),
        ("auroc", "binary_auroc", {}),
        ("auprc", "binary_average_precision", {}),
        ("calibration_error", "binary_calibration_error", {"n_bins": 15, "norm": "l1"}),
    ],
)
def test_per_class_values_equal_torchmetrics(
    torchmetrics_functional: ModuleType, metric: str, function: str, options: dict[str, object]
) -> None:
    import torch

    predictions = make_predictions()
    report = measure(predictions)
    for k, name in enumerate(predictions.class_names):
        known = ~np.isnan(predictions.truths[:, k])
        expected = getattr(torchmetrics_functional, function)(
            torch.tensor(predictions.probabilities[known, k]),
            torch.tensor(predictions.truths[known, k]).long(),
            **options,
        )
        assert report.per_class[name][metric].value == pytest.approx(expected.item(), abs=1e-6)


def test_average_equals_torchmetrics_macro_average(torchmetrics_functional: ModuleType) -> None:
    import torch

    predictions = make_predictions(unknown=0)
    expected = torchmetrics_functional.multilabel_auroc(
        torch.tensor(predictions.probabilities),
        torch.tensor(predictions.truths).long(),
        num_labels=3,
        average="macro",
    )
    assert measure(predictions).average["auroc"].value == pytest.approx(expected.item(), abs=1e-6)


def test_auroc_interval_agrees_with_resampling_by_hand() -> None:
    predictions = make_predictions(pictures=150, classes=1, unknown=0)
    estimate = measure(predictions, replicates=2000).per_class["finding 0"]["auroc"]
    rng = np.random.default_rng(99)
    drawn = []
    for _ in range(800):
        rows = rng.integers(150, size=150)
        drawn.append(roc_auc_score(predictions.truths[rows, 0], predictions.probabilities[rows, 0]))
    expected = np.quantile(drawn, [0.025, 0.975])
    assert [estimate.low, estimate.high] == pytest.approx(expected.tolist(), abs=0.02)


def test_repeated_patients_widen_the_interval() -> None:
    alone = make_predictions(pictures=80, unknown=0)
    five = np.tile(np.arange(80), 5)
    repeated = Predictions(
        task=alone.task,
        class_names=alone.class_names,
        probabilities=alone.probabilities[five],
        truths=alone.truths[five],
        patients=five,
    )
    naive = replace(repeated, patients=np.arange(400))
    width = {}
    for name, predictions in {"alone": alone, "repeated": repeated, "naive": naive}.items():
        auroc = measure(predictions, replicates=500).average["auroc"]
        width[name] = auroc.high - auroc.low
    assert width["repeated"] == pytest.approx(width["alone"], rel=1e-9)
    assert width["repeated"] > 1.8 * width["naive"]


def test_every_estimate_carries_its_support() -> None:
    predictions = make_predictions(patients=np.arange(200) // 2)
    estimate = measure(predictions).per_class["finding 1"]["auroc"]
    column = predictions.truths[:, 1]
    assert estimate.support == (~np.isnan(column)).sum()
    assert estimate.positives == (column == 1).sum()
    assert estimate.positive_patients == len(np.unique(predictions.patients[column == 1]))


@pytest.mark.parametrize(("positives", "kind"), [(12, "positive"), (88, "negative")])
def test_few_patients_on_either_side_give_a_value_but_no_interval(
    positives: int, kind: str
) -> None:
    truths = (np.arange(100) < positives).astype(float)[:, None]
    predictions = Predictions(
        task="pathoscan",
        class_names=("malignant",),
        probabilities=np.random.default_rng(0).random((100, 1)),
        truths=truths,
        patients=np.arange(100),
    )
    estimate = measure(predictions, replicates=100).per_class["malignant"]["auroc"]
    assert estimate.value is not None
    assert estimate.low is None
    assert estimate.high is None
    assert estimate.note == f"no interval: 12 {kind} patients, 20 needed"


def test_average_names_its_classes_and_leaves_out_those_with_one_label_only() -> None:
    predictions = make_predictions(unknown=0)
    truths = predictions.truths.copy()
    truths[:, 1] = 0
    report = measure(replace(predictions, truths=truths), replicates=100)
    auroc = report.average["auroc"]
    assert auroc.note == "average of 2 of 3 classes: finding 0, finding 2"
    expected = [report.per_class[f"finding {k}"]["auroc"].value for k in (0, 2)]
    assert auroc.value == pytest.approx(np.mean(expected))
    assert auroc.low < auroc.value < auroc.high
    assert report.per_class["finding 1"]["auroc"].note == "not defined: no positive picture"
    assert report.per_class["finding 1"]["accuracy"].value is not None


def test_average_over_a_thin_class_has_no_interval_but_the_supported_average_has() -> None:
    predictions = make_predictions(unknown=0)
    truths = predictions.truths.copy()
    truths[5:, 2] = 0
    truths[:5, 2] = 1
    report = measure(replace(predictions, truths=truths), replicates=100)
    assert report.average["auroc"].low is None
    assert report.average["auroc"].note.endswith("5 positive patients, 20 needed (finding 2)")
    supported = report.supported_average["auroc"]
    assert supported.low < supported.value < supported.high
    assert supported.note == "average of 2 of 3 classes: finding 0, finding 1"


def test_chance_and_baseline_are_those_of_the_commonest_answer() -> None:
    truths = (np.arange(100) < 30).astype(float)[:, None]
    predictions = Predictions(
        task="pathoscan",
        class_names=("malignant",),
        probabilities=np.linspace(0, 1, 100)[:, None],
        truths=truths,
        patients=np.arange(100),
    )
    report = measure(predictions)
    chance = {m: e.chance for m, e in report.per_class["malignant"].items()}
    assert chance["accuracy"] == pytest.approx(0.7)
    assert chance["auroc"] == 0.5
    assert chance["auprc"] == pytest.approx(0.3)
    assert chance["brier"] == pytest.approx(0.21)
    assert report.baseline == pytest.approx(
        {
            "accuracy": 0.7,
            "balanced_accuracy": 0.5,
            "precision": 0,
            "sensitivity": 0,
            "specificity": 1,
            "f1": 0,
            "auroc": 0.5,
            "auprc": 0.3,
        }
    )


def test_a_model_that_knows_nothing_scores_what_chance_says() -> None:
    rng = np.random.default_rng(11)
    predictions = Predictions(
        task="pathoscan",
        class_names=("malignant",),
        probabilities=rng.random((20_000, 1)),
        truths=(rng.random((20_000, 1)) < 0.3).astype(float),
        patients=np.arange(20_000),
    )
    estimates = measure(predictions).per_class["malignant"]
    for metric in ("balanced_accuracy", "precision", "auroc", "auprc"):
        assert estimates[metric].value == pytest.approx(estimates[metric].chance, abs=0.015)


def test_each_class_may_have_its_own_threshold() -> None:
    predictions = make_predictions(unknown=0)
    strict = {"finding 0": 1.0, "finding 1": 0.5, "finding 2": 0.0}
    per_class = measure(predictions, threshold=strict).per_class
    assert per_class["finding 0"]["sensitivity"].value == 0
    assert per_class["finding 2"]["sensitivity"].value == 1
    assert per_class["finding 0"]["precision"].note.startswith("0 by convention")


def test_a_probability_equal_to_the_threshold_is_a_yes() -> None:
    predictions = Predictions(
        task="pathoscan",
        class_names=("malignant",),
        probabilities=np.array([[0.5], [0.25]]),
        truths=np.array([[1.0], [0.0]]),
        patients=np.arange(2),
    )
    assert measure(predictions).per_class["malignant"]["accuracy"].value == 1


def test_a_class_without_threshold_is_named() -> None:
    with pytest.raises(ConfigError, match="finding 1"):
        measure(make_predictions(), threshold={"finding 0": 0.5})


@pytest.mark.parametrize("pictures", [0, 1, 30])
def test_an_empty_or_unlabelled_set_has_no_values_and_says_so(pictures: int) -> None:
    predictions = Predictions(
        task="chestx",
        class_names=("a", "b"),
        probabilities=np.full((pictures, 2), 0.5),
        truths=np.full((pictures, 2), np.nan),
        patients=np.zeros(pictures, dtype=int),
    )
    report = measure(predictions, replicates=10)
    for metric in METRICS:
        assert report.per_class["a"][metric].value is None
        assert report.per_class["a"][metric].note == "not defined: no picture with a known label"
        assert report.average[metric].value is None
        assert report.supported_average[metric].note == "not defined: no class could be averaged"
    assert report.baseline == {}


def test_a_diverged_class_has_no_value_and_the_others_keep_theirs() -> None:
    predictions = make_predictions()
    probabilities = predictions.probabilities.copy()
    probabilities[:, 1] = np.nan
    report = measure(replace(predictions, probabilities=probabilities), replicates=50)
    assert report.per_class["finding 1"]["accuracy"].note == (
        "not defined: the model's output is not finite"
    )
    assert report.per_class["finding 0"]["auroc"].low is not None
    assert report.average["auroc"].note.startswith("average of 2 of 3 classes")


def test_report_holds_nothing_that_json_cannot() -> None:
    report = measure(make_predictions(), replicates=20)
    everything = [*report.average.values(), *report.per_class["finding 0"].values()]
    for estimate in everything:
        json.dumps(estimate.as_dict(), allow_nan=False)
    assert all(math.isfinite(value) for value in report.baseline.values())


def test_same_seed_gives_the_same_intervals() -> None:
    predictions = make_predictions()
    assert measure(predictions, replicates=50) == measure(predictions, replicates=50)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"probabilities": np.zeros((5, 3))}, "probabilities of task chestx must have shape"),
        ({"truths": np.full((200, 3), 2.0)}, "truths of task chestx must be in"),
        ({"probabilities": np.full((200, 3), 1.5)}, "not logits"),
        ({"grades": np.zeros(200)}, "both grades and predicted_grades"),
        (
            {"grades": np.full(200, 7), "predicted_grades": np.zeros(200, dtype=int)},
            "grades of task chestx must be in",
        ),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(
    wrong: dict[str, object], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        replace(make_predictions(), **wrong)


def test_negative_replicates_are_refused() -> None:
    with pytest.raises(ConfigError, match="replicates"):
        measure(make_predictions(), replicates=-1)


def test_a_thousand_replicates_of_fourteen_findings_take_seconds() -> None:
    predictions = make_predictions(pictures=300, classes=14)
    start = time.process_time()
    measure(predictions, replicates=1000)
    assert time.process_time() - start < 6  # about 1 s on one quiet core
