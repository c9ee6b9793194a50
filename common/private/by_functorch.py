"""Gradients of all units at once: torch's function transforms over the whole network.

The network is a function of its parameters; its gradient is taken and mapped over units, so no
layer needs a rule of its own.
"""

from collections.abc import Iterator
from dataclasses import fields
from typing import cast

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from common.config.loss import LossConfig
from common.datasets.sample import Batch
from common.learning.loss import sample_losses
from common.model.network import Network
from common.model.parameters import parameters_of
from common.private.unit_batch import UnitBatch, UnitGradients
from common.tasks import Task


def gradients_by_functorch(
    network: Network, units: UnitBatch, *, task: Task, loss: LossConfig
) -> Iterator[UnitGradients]:
    """Yield the gradients of all units that have equally many pictures, for each such number."""
    trained = {n: p.detach() for n, p in parameters_of(network, task).items()}
    names = [field.name for field in fields(Batch)]

    def mean_loss(parameters: dict[str, Tensor], *values: Tensor) -> Tensor:
        pictures = Batch(**dict(zip(names, values, strict=True)))
        output = functional_call(network, parameters, (pictures.image,), {"task": task.name})
        return sample_losses(output, pictures, task=task, config=loss).total.mean()

    # Dropout draws anew for every unit.
    of_units = vmap(grad(mean_loss), in_dims=(None, *(0 for _ in names)), randomness="different")
    owners = torch.arange(len(units.counts)).repeat_interleave(torch.tensor(units.counts))
    for count in sorted(set(units.counts)):
        chosen = torch.tensor([c == count for c in units.counts])[owners]
        everyone = bool(chosen.all())
        values = []
        for name in names:
            value: Tensor = getattr(units.batch, name)
            mine = value if everyone else value[chosen.to(value.device)]
            # (B, …) -> (U, count, …); -1 would not do where there are no concepts.
            values.append(mine.reshape(len(mine) // count, count, *mine.shape[1:]))
        found = cast(UnitGradients, of_units(trained, *values))
        # Where the loss does not depend on a parameter, all units share one zero.
        yield {name: value.contiguous() for name, value in found.items()}
