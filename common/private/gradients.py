"""The sum of clipped gradients: what one unit adds to it has a norm of at most the clip norm.

Abadi et al. 2016, https://arxiv.org/abs/1607.00133, algorithm 1: each unit's gradient is scaled by
1 / max(1, ‖g‖ / C), all parameters together.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from common.config.loss import LossConfig
from common.datasets.sample import Batch
from common.model.network import Network
from common.model.parameters import parameters_of
from common.private.by_functorch import gradients_by_functorch
from common.private.by_hooks import gradients_by_hooks
from common.private.by_loop import gradients_by_loop
from common.private.sampling import Pictures, packed
from common.private.unit_batch import GradientMethod, UnitBatch, UnitGradients
from common.tasks import Task

Method = Literal["loop", "hooks", "functorch"]
Compute = Callable[[UnitBatch], Iterator[UnitGradients]]

METHODS: Mapping[Method, GradientMethod] = {
    "loop": gradients_by_loop,
    "hooks": gradients_by_hooks,
    "functorch": gradients_by_functorch,
}


def clipped_sum(
    network: Network,
    units: Sequence[Pictures],
    *,
    load: Callable[[Pictures], Batch],
    task: Task,
    loss: LossConfig,
    method: Method,
    clip_norm: float,
    batch_size: int,
) -> dict[str, Tensor]:
    """Return Σ over units of the clipped gradient of the mean loss of the unit's pictures.

    Args:
        network: In training mode; left as it was.
        units: The pictures of each unit that takes part; none: zeros.
        load: From pictures to a batch on the network's device; may augment at random.
        task: Whose loss, and whose head beside the trunk.
        loss: Weights of the loss's parts.
        method: How to come by each unit's gradient.
        clip_norm: L2, C.
        batch_size: Pictures in memory at once; a unit of more is computed in pieces.
    """
    compute = partial(METHODS[method], network, task=task, loss=loss)
    total = {
        name: torch.zeros_like(value, memory_format=torch.contiguous_format).detach()
        for name, value in parameters_of(network, task).items()
    }
    for group in packed(units, at_most=batch_size):
        for gradients in _of_group(group, load, compute, batch_size):
            add_clipped(total, gradients, clip_norm=clip_norm)
    return total


def add_clipped(total: Mapping[str, Tensor], gradients: UnitGradients, *, clip_norm: float) -> None:
    """Add the clipped gradients of U units to contiguous sums, in place.

    A unit whose gradient is not finite adds nothing: it is as if it had not been drawn. To stop
    at it would tell that such a unit is there. The gradients may be overwritten.
    """
    norms = unit_norms(gradients)
    factors = (clip_norm / norms).clamp(max=1.0)  # 1 where the norm is 0
    finite = norms.isfinite()
    if not bool(finite.all()):
        factors = torch.where(finite, factors, 0.0)
        for value in gradients.values():
            value[~finite] = 0.0  # 0 · inf would be NaN
    for name, value in gradients.items():
        total[name].view(-1).addmv_(value.flatten(1).t(), factors.to(value.dtype))


def unit_norms(gradients: UnitGradients) -> Tensor:
    """Return each unit's L2 norm over all parameters together, (U,) float64."""
    parts = [
        torch.linalg.vector_norm(value.flatten(1), dim=1, dtype=torch.float64)
        for value in gradients.values()
    ]
    return torch.stack(parts).square().sum(dim=0).sqrt()


def _of_group(
    group: Sequence[Pictures], load: Callable[[Pictures], Batch], compute: Compute, batch_size: int
) -> Iterator[UnitGradients]:
    if len(group) == 1 and len(group[0]) > batch_size:
        yield _in_pieces(group[0], load, compute, batch_size)
        return
    yield from compute(UnitBatch(load(np.concatenate(group)), tuple(map(len, group))))


def _in_pieces(
    unit: Pictures, load: Callable[[Pictures], Batch], compute: Compute, batch_size: int
) -> UnitGradients:
    """Return the gradient of one unit that is too large for one batch."""
    whole: dict[str, Tensor] = {}
    for start in range(0, len(unit), batch_size):
        piece = unit[start : start + batch_size]
        for gradients in compute(UnitBatch(load(piece), (len(piece),))):
            for name, value in gradients.items():
                share = value * (len(piece) / len(unit))
                whole[name] = whole[name] + share if name in whole else share
    return whole
