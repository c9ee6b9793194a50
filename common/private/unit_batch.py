"""Pictures of several units in one batch, and the gradients that a method makes of them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Protocol

import torch
from torch import Tensor

from common.config.loss import LossConfig
from common.datasets.sample import Batch
from common.model.network import Network
from common.tasks import Task

Gradients = Mapping[str, Tensor]  # parameter → its gradient
UnitGradients = Mapping[str, Tensor]  # parameter → (U, *shape), one gradient for each of U units


@dataclass(frozen=True)
class UnitBatch:
    """The pictures of U units, one unit after the other."""

    batch: Batch
    counts: tuple[int, ...]  # (U,) pictures of each unit, at least one; their sum is the batch's


class GradientMethod(Protocol):
    """A way to every unit's own gradient."""

    def __call__(
        self, network: Network, units: UnitBatch, *, task: Task, loss: LossConfig
    ) -> Iterator[UnitGradients]:
        """Yield each unit's gradient once, of some units at a time, in any order.

        A unit's gradient is that of the mean of its pictures' losses
        (``sample_losses``). It covers the parameters of ``parameters_of``, zeros where
        the loss does not depend on one. The network is left as it was, in the mode it was.
        """


def rows_of(batch: Batch, rows: slice | Tensor) -> Batch:
    """Return some pictures of a batch."""
    return Batch(**{field.name: getattr(batch, field.name)[rows] for field in fields(batch)})


def mean_per_unit(pictures: Tensor, counts: tuple[int, ...]) -> Tensor:
    """Return the mean over each unit's pictures, (B, *shape) -> (U, *shape)."""
    if all(count == 1 for count in counts):
        return pictures
    return torch.stack([part.mean(dim=0) for part in torch.split(pictures, list(counts))])
