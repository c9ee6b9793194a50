"""From a model's responses to a reference set to what the package knows of its certainty.

Fitted on the part ``calibration``, judged on the part ``gate``, which chose nothing.
"""

from collections.abc import Mapping

import numpy as np

from common.metrics.bootstrap import Float64Array, once_each
from common.metrics.calibration import expected_calibration_error
from common.metrics.estimate import finite_or_none
from common.metrics.temperature import calibrated, fit_temperature
from common.package.known import FEWEST_CALIBRATION_PATIENTS, NotKnown, lack
from common.package.prediction_sets import prediction_sets
from common.package.responses import Responses
from common.package.schema import Calibration, Conformal
from common.package.shift import keeps_order, shift_note, unshifted
from common.tasks import Task


def calibrate(
    calibration: Responses,
    gate: Responses,
    *,
    task: Task,
    coverage: float,
    seed: int,
    shift: Mapping[str, float] | None = None,
) -> Calibration | NotKnown:
    """Fit the temperature and the thresholds of the prediction sets.

    The shift comes from the loss and not from pictures. It is taken off the logits before the
    temperature is fitted; prediction sets are of the logits as they are. Where grades would lose
    their order by it nothing is shifted, and the note says so.

    Args:
        calibration: To the part that decides.
        gate: To the part that judges; it may be empty.
        task: As the run restricts it.
        coverage: Wanted of the prediction sets, in (0, 1).
        seed: The run's; draws one picture per patient.
        shift: Per class name, in logits, of :func:`common.package.shift.class_shift`; None: the
            loss weighs no answer.
    """
    why = lack(calibration, FEWEST_CALIBRATION_PATIENTS, "a temperature")
    if why:
        return NotKnown(why)
    asked = {name: (shift or {}).get(name, 0.0) for name in task.class_names}
    logits = unshifted(calibration.class_logits, asked, task=task)
    is_kept = not any(asked.values()) or keeps_order(logits, task=task)
    done = asked if is_kept else dict.fromkeys(asked, 0.0)
    as_they_are = fit_temperature(calibration.class_logits, calibration.targets, kind=task.kind)
    found = fit_temperature(logits, calibration.targets, kind=task.kind) if is_kept else as_they_are
    if found is None or as_they_are is None:
        return NotKnown("No picture of the reference set's calibration part has a known answer.")
    # Pictures that are all answered right, or all have one answer, would make every answer as sure
    # as the range allows, eight times its logit, because no mistake was seen. Too sure is worse.
    temperature = 1.0 if found.is_bounded and found.value < 1 else found.value
    rows = (~np.isnan(calibration.targets)).any(axis=1)
    notes = [shift_note(done)]
    if not is_kept:
        notes.append(
            "Training weighed positive answers; taking that off would put grades out of order, so "
            "that it was left: probabilities lie off how often they are right."
        )
    if as_they_are.loss_after < found.loss_after:
        notes.append(
            "The calibration pictures themselves speak for the logits as they are: positive "
            "answers may be more frequent among them than in training, or training was too short "
            "to move the logits."
        )
    if found.is_bounded:
        notes.append(
            f"The temperature of {found.value:.3g} lies at the end of its range: the calibration "
            "pictures do not settle it. More of them would."
        )
        if temperature != found.value:
            notes.append("Nothing vouches for answers as sure as that, so that it is left at one.")
    conformal = prediction_sets(calibration, gate, task=task, coverage=coverage, seed=seed)
    return Calibration(
        shift=done,
        temperature=temperature,
        pictures=int(rows.sum()),
        patients=len(np.unique(calibration.patients[rows])),
        error_before=calibration_error(gate, task=task, temperature=1.0),
        error_after=calibration_error(gate, task=task, temperature=temperature, shift=done),
        gate_pictures=len(gate),
        note=" ".join(filter(None, notes)),
        conformal=conformal if isinstance(conformal, Conformal) else None,
        why_not_conformal=conformal.why if isinstance(conformal, NotKnown) else "",
    )


def calibration_error(
    responses: Responses,
    *,
    task: Task,
    temperature: float,
    shift: Mapping[str, float] | None = None,
) -> float | None:
    """Return the expected calibration error over all known questions, None where there is none.

    Of sigmoid((class logit - shift) / temperature); without a shift nothing is taken off.
    """
    truths = _truths(responses, task)
    known = ~np.isnan(truths)
    if not known.any() or not responses.is_finite():
        return None
    logits = unshifted(responses.class_logits, shift or {}, task=task)
    chances = calibrated(logits, temperature)[known]
    weights = once_each(int(known.sum()))
    return finite_or_none(float(expected_calibration_error(chances, truths[known], weights)[0]))


def _truths(responses: Responses, task: Task) -> Float64Array:
    """Return the truth of each class name, (N, C), NaN where unknown."""
    targets = responses.targets.astype(np.float64)
    if task.kind != "ordinal":
        return targets
    steps = np.arange(1, len(task.labels))
    truths: Float64Array = np.where(np.isnan(targets), np.nan, targets >= steps)
    return truths
