"""How far the loss's weights of positive answers move logits from what frequencies say.

A positive answer that weighs w moves the logit that the loss is least at by log w: Elkan 2001, The
foundations of cost-sensitive learning, theorem 2. With p the frequency of positive answers among
pictures that look alike, - w p log q - (1 - p) log(1 - q) is least at q / (1 - q) = w p / (1 - p).
No temperature takes that back, as it only divides; subtracting log w does.

Grades: the loss is a sum over the questions "grade ≥ k", each with its own weight, and its logits
severity - θ_k differ by thresholds alone. Where P(grade ≥ k) = sigmoid(s - τ_k) the sum is least at
the severity s and the thresholds θ_k = τ_k - log w_k, so that every question has its own log w_k.

Light: numpy alone.
"""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from common.config.loss import LossConfig
from common.metrics.bootstrap import Float64Array
from common.tasks import Task

# The network keeps grades' thresholds 1e-3 apart; what lies closer than this has changed places.
_LEAST_GAP = 1e-4


def class_shift(task: Task, config: LossConfig) -> dict[str, float]:
    """Return log w per class name, in logits; 0 where the loss does not weigh."""
    weights = config.class_weights.get(task.name, {})
    return {name: math.log(weights.get(name, 1.0)) for name in task.class_names}


def unshifted(
    class_logits: NDArray[np.floating], shift: Mapping[str, float], *, task: Task
) -> Float64Array:
    """Return logits less the shift, (N, C) → (N, C).

    Args:
        class_logits: One per class name, severity - θ_k for grades.
        shift: Per class name, in logits; a name that is missing has none.
        task: As the run restricts it.
    """
    lifted = np.array([shift.get(name, 0.0) for name in task.class_names])
    left: Float64Array = np.asarray(class_logits, dtype=np.float64) - lifted
    return left


def keeps_order(class_logits: NDArray[np.floating], *, task: Task) -> bool:
    """Say whether P(grade ≥ k) falls with k in every picture; always so where there are no grades.

    Weights that fall with k can break it, where a network has not learned what they ask for.
    """
    if task.kind != "ordinal":
        return True
    return bool((np.diff(class_logits, axis=1) <= -_LEAST_GAP).all())


def shift_note(shift: Mapping[str, float]) -> str:
    """Return what was done, with each weight, for a reader; "" where nothing is shifted."""
    weights = [f"{name} {math.exp(value):.3g}" for name, value in shift.items() if value]
    if not weights:
        return ""
    return (
        f"Training weighed positive answers ({', '.join(weights)}), which moves their logits by "
        "the weight's logarithm; that is taken off before the temperature."
    )
