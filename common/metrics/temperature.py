"""One number per task that makes probabilities mean what they say: temperature scaling.

Guo et al. 2017, arXiv:1706.04599, section 4.2: logits are divided by one temperature T > 0, which
moves no order of pictures and no decision at one half, only how sure the model says it is.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_expit

from common.metrics.bootstrap import Float64Array
from common.tasks import TargetKind

# Beyond these a temperature says that the pictures are too few or too easy, not how sure to be.
LOWEST, HIGHEST = 1 / 8, 8.0


@dataclass(frozen=True)
class Temperature:
    """What the negative log likelihood is least at."""

    value: float  # in [LOWEST, HIGHEST]; above 1 the model was too sure, below it too modest
    is_bounded: bool  # the search ended at LOWEST or HIGHEST: the pictures do not settle it
    loss_before: float  # mean negative log likelihood at 1, nats per answer
    loss_after: float  # at ``value``


def fit_temperature(
    class_logits: NDArray[np.floating], targets: NDArray[np.floating], *, kind: TargetKind
) -> Temperature | None:
    """Find the temperature under which the known answers are the most likely.

    The loss is convex in 1/T for every kind, so that the bounded search finds the one minimum.

    Args:
        class_logits: One per class name, (N, C): findings, severity - θ_k, or the positive class.
        targets: The task's, (N, T): 0/1 per finding, the grade 0..C, or 0/1; NaN where unknown.
        kind: Of the task. Multi-label: all known findings count alike, under one temperature.

    Returns:
        None where no answer is known or a logit is not finite: there is nothing to fit.
    """
    loss = _loss(class_logits.astype(np.float64), targets.astype(np.float64), kind)
    if loss is None:
        return None
    found = minimize_scalar(
        lambda log_temperature: loss(float(np.exp(log_temperature))),
        bounds=(np.log(LOWEST), np.log(HIGHEST)),
        method="bounded",
        options={"xatol": 1e-8},
    )
    value = float(np.exp(found.x))
    is_bounded = value < LOWEST * 1.001 or value > HIGHEST / 1.001
    return Temperature(value, is_bounded, loss_before=loss(1.0), loss_after=loss(value))


def calibrated(class_logits: NDArray[np.floating], temperature: float) -> Float64Array:
    """Return the probability of each class name, (N, C) → (N, C), in [0, 1].

    For ordinal tasks P(grade ≥ k), which keeps falling with k.
    """
    probabilities: Float64Array = expit(class_logits.astype(np.float64) / temperature)
    return probabilities


def grade_chances(at_least: Float64Array) -> Float64Array:
    """Return P(grade = g) of P(grade ≥ k), (N, G - 1) → (N, G); rows sum to 1."""
    one = np.ones((len(at_least), 1))
    bounded: Float64Array = np.concatenate([one, at_least, np.zeros_like(one)], axis=1)
    chances: Float64Array = bounded[:, :-1] - bounded[:, 1:]
    return chances


def _loss(
    class_logits: Float64Array, targets: Float64Array, kind: TargetKind
) -> Callable[[float], float] | None:
    """Return the mean negative log likelihood as a function of the temperature."""
    known = ~np.isnan(targets)
    if not known.any() or not np.isfinite(class_logits).all():
        return None
    if kind == "ordinal":
        rows = known[:, 0]
        grades = targets[rows, 0].astype(np.int64)
        infinity = np.full((int(rows.sum()), 1), np.inf)
        edges = np.concatenate([infinity, class_logits[rows], -infinity], axis=1)
        upper = np.take_along_axis(edges, grades[:, None], axis=1)[:, 0]
        lower = np.take_along_axis(edges, grades[:, None] + 1, axis=1)[:, 0]

        def cumulative(temperature: float) -> float:
            # σ(a) - σ(b) = σ(a) σ(-b) (1 - e^(b - a)): exact where both are near 0 or near 1.
            a, b = upper / temperature, lower / temperature
            return float(-np.mean(log_expit(a) + log_expit(-b) + np.log1p(-np.exp(b - a))))

        return cumulative
    signed = np.where(targets[known] > 0, class_logits[known], -class_logits[known])
    return lambda temperature: float(-np.mean(log_expit(signed / temperature)))
