"""An explanation method and a model's answer, with everything decided but the pictures."""

from collections.abc import Callable

import torch
from torch import Tensor

from common.errors import ExplanationError
from common.explain import Explainer
from common.model.network import Network, Output
from common.tasks import Task

AT_ONCE = 8  # pictures that a method is asked about together

Maps = Callable[[Tensor], Tensor]  # pictures (B, 3, H, W) -> maps (B, H, W)


def answer_of(network: Network, task: Task, logit: int) -> Callable[[Tensor], Tensor]:
    """Return the uncalibrated probability that curves are drawn of, from pictures to (B,).

    For a grade, of the middle question: grade 2 or worse, which refers a retina to a specialist.
    """
    question = (len(task.class_names) - 1) // 2 if task.kind == "ordinal" else logit

    def answer(pictures: Tensor) -> Tensor:
        output: Output = network(pictures, task=task.name)
        return output.class_logits[:, question].sigmoid()

    return answer


def bound(explain: Explainer, network: Network, task: Task, logit: int) -> Maps:
    """Return a method with everything but the pictures decided; refuses what breaks its contract.

    The method raises ExplanationError, then, for maps of another shape or not finite.
    """

    def of_pictures(pictures: Tensor) -> Tensor:
        maps = explain(network, pictures, task=task.name, logit=logit).detach()
        expected = (len(pictures), *pictures.shape[-2:])
        if tuple(maps.shape) != expected or not bool(maps.isfinite().all()):
            raise ExplanationError(
                f"the map must be finite and of shape {expected}, got {tuple(maps.shape)}. The "
                "method breaks its contract: correct it."
            )
        return maps

    return of_pictures


def in_batches(explain: Maps) -> Maps:
    """Return the same method, asked about a few pictures at a time."""
    return lambda pictures: torch.cat([explain(part) for part in torch.split(pictures, AT_ONCE)])
