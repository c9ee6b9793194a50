"""What a weight of positive answers does to a logit is taken back exactly, and only that."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from common.config.loss import LossConfig
from common.learning.loss import classification_loss
from common.metrics.temperature import grade_chances
from common.package.calibrating import calibrate, calibration_error
from common.package.responses import Responses
from common.package.schema import Calibration
from common.package.shift import class_shift, keeps_order, shift_note, unshifted
from common.tasks import Task

MakeResponses = Callable[..., Responses]
TASKS = ("chestx", "retina", "pathoscan")
WEIGHTS = {
    "chestx": {"Effusion": 2.7, "Mass": 6.3},
    "retina": {"grade>=1": 1.0, "grade>=2": 1.3, "grade>=3": 1.7, "grade>=4": 2.7},
    "pathoscan": {"malignant": 0.4},
}


def shift_of(task: Task, weights: Mapping[str, Mapping[str, float]] = WEIGHTS) -> dict[str, float]:
    config = LossConfig.model_validate(
        {
            "lambda_att": 0,
            "lambda_sal": 0,
            "lambda_con": 0,
            "overlap_weight": 0,
            "entropy_weight": 0,
            "coverage_threshold": 1,
            "expected_roi_fraction": {},
            "class_weights": weights,
        }
    )
    return class_shift(task, config)


def moved(responses: Responses, shift: Mapping[str, float], task: Task) -> Responses:
    """The responses of a network that training has moved by the shift."""
    logits = responses.class_logits + np.array([shift[name] for name in task.class_names])
    return replace(responses, class_logits=logits.astype(np.float32))


def calibrated(*parts: Responses, task: Task, shift: Mapping[str, float] | None) -> Calibration:
    found = calibrate(*parts, task=task, coverage=0.9, seed=1, shift=shift)
    assert isinstance(found, Calibration)
    return found


def test_a_shift_is_the_logarithm_of_the_weight_by_hand(tasks: Mapping[str, Task]) -> None:
    chest = tasks["chestx"]
    assert shift_of(chest, {"chestx": {"Effusion": 2.0}}) == {
        "Effusion": pytest.approx(0.6931472),
        "Mass": 0.0,
    }
    assert shift_of(chest, {}) == {"Effusion": 0.0, "Mass": 0.0}
    # Two pictures; Mass is weighed three times: log 3 = 1.0986123.
    found = unshifted(np.array([[1.0, 1.0], [0.0, -2.0]]), {"Mass": 1.0986123}, task=chest)
    assert found == pytest.approx(np.array([[1.0, -0.0986123], [0.0, -3.0986123]]))
    # A logit of log 3 at weight 3 is an even chance.
    assert expit(unshifted(np.array([[0.0, np.log(3)]]), {"Mass": np.log(3)}, task=chest))[
        0, 1
    ] == pytest.approx(0.5)


@pytest.mark.parametrize("name", TASKS)
def test_the_training_loss_is_least_where_the_frequencies_plus_the_shift_are(
    tasks: Mapping[str, Task], name: str
) -> None:
    """The expected loss over all answers, by the frequencies of a picture that is drawn often."""
    task = tasks[name]
    shift = shift_of(task)
    true_logits = np.array([2.0, 0.4, -0.3, -1.5][: len(task.class_names)])
    chances = expit(true_logits)
    if task.kind == "ordinal":
        frequencies = grade_chances(chances[None])[0]
        answers = torch.arange(5.0)[:, None]
    else:
        answers = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * len(chances))
        answers = answers.reshape(-1, len(chances))
        frequencies = np.where(answers.numpy() > 0, chances, 1 - chances).prod(axis=1)
    weights = tuple(WEIGHTS[name][each] for each in task.class_names)

    def slope(at: NDArray[np.float64]) -> NDArray[np.float64]:
        logits = torch.tensor(at, requires_grad=True)
        losses = classification_loss(
            logits.expand(len(answers), -1), answers.double(), task=task, weights=weights
        )
        (losses * torch.from_numpy(frequencies)).sum().backward()  # type: ignore[no-untyped-call]
        assert logits.grad is not None
        return logits.grad.numpy()

    lifted = true_logits + np.array([shift[each] for each in task.class_names])
    assert slope(lifted) == pytest.approx(np.zeros_like(lifted), abs=1e-12)
    assert np.abs(slope(true_logits)).max() > 0.01  # and not where frequencies alone are
    assert unshifted(lifted[None], shift, task=task)[0] == pytest.approx(true_logits)


def test_a_weighted_logistic_regression_is_recalibrated_by_the_shift(
    tasks: Mapping[str, Task],
) -> None:
    """One positive answer in twelve; scikit-learn trains with and without the weight."""
    task, weight = tasks["pathoscan"], 8.8
    rng = np.random.default_rng(7)
    features = rng.standard_normal((24000, 3))
    true_logits = features @ np.array([1.2, -0.8, 0.5]) - 3.3
    targets = rng.random(24000) < expit(true_logits)
    assert targets.mean() == pytest.approx(1 / 12, abs=0.01)
    train, calibration, gate = slice(0, 8000), slice(8000, 16000), slice(16000, 24000)
    heavy = LogisticRegression(C=1e6, class_weight={False: 1.0, True: weight})
    heavy.fit(features[train], targets[train])
    plain = LogisticRegression(C=1e6).fit(features[train], targets[train])

    def responses(part: slice) -> Responses:
        logits = heavy.decision_function(features[part])[:, None].astype(np.float32)
        return Responses(
            class_logits=logits,
            logits=logits,
            concept_logits=np.zeros((len(logits), 0), np.float32),
            features=features[part].astype(np.float32),
            targets=targets[part, None].astype(np.float32),
            patients=np.arange(len(logits), dtype=np.int32),
        )

    shift = shift_of(task, {"pathoscan": {"malignant": weight}})
    found = calibrated(responses(calibration), responses(gate), task=task, shift=shift)
    by_temperature = calibrated(responses(calibration), responses(gate), task=task, shift=None)

    assert found.error_before == by_temperature.error_before
    assert found.error_before is not None
    assert found.error_before > 0.15
    assert found.error_after is not None
    assert found.error_after < 0.02
    assert by_temperature.error_after is not None
    assert by_temperature.error_after > 0.1  # a temperature does not take it back
    assert found.temperature == pytest.approx(1.0, abs=0.1)
    logits = unshifted(responses(gate).class_logits, found.shift, task=task)[:, 0]
    chances = expit(logits / found.temperature)
    assert chances.mean() == pytest.approx(targets[gate].mean(), abs=0.01)
    assert np.abs(chances - plain.predict_proba(features[gate])[:, 1]).mean() < 0.01
    assert np.abs(chances - expit(true_logits[gate])).mean() < 0.01


@pytest.mark.parametrize("name", TASKS)
def test_a_moved_network_gets_the_temperature_and_error_of_one_that_was_not(
    tasks: Mapping[str, Task], make_responses: MakeResponses, name: str
) -> None:
    task = tasks[name]
    shift = shift_of(task)
    parts = [make_responses(task, pictures=600, seed=seed, too_sure_by=1.6) for seed in (1, 2)]
    lifted = [moved(part, shift, task) for part in parts]

    found = calibrated(*lifted, task=task, shift=shift)
    plain = calibrated(*parts, task=task, shift=None)

    assert found.shift == shift
    assert found.temperature == pytest.approx(plain.temperature, rel=1e-4)
    assert found.error_after == pytest.approx(plain.error_after, abs=2e-3)  # bins have edges
    assert found.error_before == calibration_error(lifted[1], task=task, temperature=1.0)
    assert found.error_before is not None
    assert plain.error_before is not None
    assert found.error_before != pytest.approx(plain.error_before, abs=1e-3)
    assert found.note == shift_note(shift)
    assert plain.note == ""
    assert set(plain.shift.values()) == {0.0}


@pytest.mark.parametrize("name", TASKS)
def test_prediction_sets_stay_as_they_are(
    tasks: Mapping[str, Task], make_responses: MakeResponses, name: str
) -> None:
    task = tasks[name]
    parts = [make_responses(task, pictures=400, seed=seed) for seed in (1, 2)]
    with_shift = calibrated(*parts, task=task, shift=shift_of(task))
    without = calibrated(*parts, task=task, shift=None)
    assert with_shift.conformal is not None
    assert with_shift.conformal == without.conformal


def test_grades_that_would_change_places_are_not_shifted(
    tasks: Mapping[str, Task], make_responses: MakeResponses
) -> None:
    """Thresholds one apart, and a weight of 20 on the lowest: log 20 is 3."""
    task = tasks["retina"]
    parts = [make_responses(task, pictures=200, seed=seed) for seed in (1, 2)]
    shift = shift_of(task, {"retina": {"grade>=1": 20.0}})
    assert not keeps_order(unshifted(parts[0].class_logits, shift, task=task), task=task)

    found = calibrated(*parts, task=task, shift=shift)

    plain = calibrated(*parts, task=task, shift=None)
    assert found.shift == plain.shift
    assert found.temperature == plain.temperature
    assert "would put grades out of order" in found.note
    # Weights that rise with the grade only move thresholds apart.
    rising = unshifted(parts[0].class_logits, shift_of(task), task=task)
    assert keeps_order(rising, task=task)


def test_pictures_that_speak_against_the_shift_are_told_of(
    tasks: Mapping[str, Task], make_responses: MakeResponses
) -> None:
    task = tasks["pathoscan"]
    parts = [make_responses(task, pictures=400, seed=seed) for seed in (1, 2)]
    shift = shift_of(task, {"pathoscan": {"malignant": 9.0}})  # that the network has not learned
    found = calibrated(*parts, task=task, shift=shift)
    assert found.shift == shift
    assert "speak for the logits as they are" in found.note


def test_the_note_names_each_weight() -> None:
    note = shift_note({"Effusion": float(np.log(2.7)), "Mass": 0.0, "Hernia": float(logit(0.9))})
    assert "(Effusion 2.7, Hernia 9)" in note
    assert shift_note({"Effusion": 0.0}) == ""
