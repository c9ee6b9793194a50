"""Gradients of units one after the other: exact for every network, with the least memory."""

from collections.abc import Iterator

import torch

from common.config.loss import LossConfig
from common.learning.loss import sample_losses
from common.model.network import Network
from common.model.parameters import parameters_of
from common.private.unit_batch import UnitBatch, UnitGradients, rows_of
from common.tasks import Task


def gradients_by_loop(
    network: Network, units: UnitBatch, *, task: Task, loss: LossConfig
) -> Iterator[UnitGradients]:
    """Yield every unit's gradient by a forward and a backward pass of its own."""
    trained = parameters_of(network, task)
    start = 0
    for count in units.counts:
        pictures = rows_of(units.batch, slice(start, start + count))
        start += count
        output = network(pictures.image, task=task.name)
        mean = sample_losses(output, pictures, task=task, config=loss).total.mean()
        gradients = torch.autograd.grad(mean, list(trained.values()), materialize_grads=True)
        yield {name: value[None] for name, value in zip(trained, gradients, strict=True)}
