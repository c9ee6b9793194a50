"""What leaves a site after one step, with and without protection, as an attacker receives it."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.config.run import RunConfig, TrainConfig
from common.learning.loss import total_loss
from common.messages.kinds import Update
from common.model.arrays import array_names, read_arrays
from common.model.network import Network
from common.model.optimiser import optimiser_of
from common.model.parameters import parameters_of
from common.private.gradients import add_clipped
from common.private.secure_random import SecureRandom
from common.private.step import release_mean
from common.secure_sum.contribution import contribution
from common.secure_sum.layout import layouts
from common.secure_sum.masks import MaskPlace, add_pair_mask, add_self_mask
from common.studies.audit_config import NoiseConfig
from common.studies.audit_pictures import Patients, batch_of
from common.tasks import Task

Gradient = Mapping[str, Tensor]  # parameter → gradient

_ADAM_EPSILON = 1e-8  # torch's


@dataclass(frozen=True)
class Observed:
    """A gradient as the attacker works it out, and how far each number may be off."""

    gradient: Gradient  # float64
    deviation: Gradient | None  # float64, of each number; None: all alike


def gradient_of(
    network: Network, patients: Patients, *, task: Task, run: RunConfig
) -> dict[str, Tensor]:
    """Return the gradient of the mean loss: the update of one plain step, up to its size."""
    parameters = parameters_of(network, task)
    batch = batch_of(patients, network)
    loss = total_loss(network(batch.image, task=task.name), batch, task=task, config=run.loss)
    found = torch.autograd.grad(loss.total, list(parameters.values()), allow_unused=True)
    return {
        name: torch.zeros_like(value) if grad is None else grad.detach()
        for (name, value), grad in zip(parameters.items(), found, strict=True)
    }


def seen_plainly(gradient: Gradient) -> Observed:
    """Return what a coordinator reads from a gradient that is sent as it is."""
    return Observed({name: value.double() for name, value in gradient.items()}, None)


def seen_after_adam(
    network: Network, gradient: Gradient, *, task: Task, train: TrainConfig
) -> Observed:
    """Take the round's first Adam step, and return what its update tells of the gradient.

    The update is lr · g / (|g| + ε) with ε = 1e-8: nearly the sign, and yet
    |g| = ε r / (1 - r) with r = |update| / lr. What limits it is that the update is the
    difference of numbers of single precision; ``deviation`` follows from their spacing.
    """
    parameters = parameters_of(network, task)
    before = {name: value.detach().clone() for name, value in parameters.items()}
    for name, value in parameters.items():
        value.grad = gradient[name].clone()
    optimiser_of(parameters, train).step()
    estimate, deviation = {}, {}
    for name, value in parameters.items():
        change = (value.detach() - before[name]).double() / -train.learning_rate
        spacing = _spacing(before[name].abs() + train.learning_rate) / train.learning_rate
        ratio = torch.minimum(change.abs(), 1 - spacing / 2)
        size = _ADAM_EPSILON * ratio / (1 - ratio)
        decay = train.weight_decay if train.optimiser == "adam" else 0.0
        estimate[name] = change.sign() * size - decay * before[name].double()
        deviation[name] = _ADAM_EPSILON / (1 - ratio).square() * spacing / 2
        value.data.copy_(before[name])
        value.grad = None
    return Observed(estimate, deviation)


def seen_with_noise(gradient: Gradient, *, noise: NoiseConfig) -> Observed:
    """Return what is read from one private step in which the victim alone was drawn."""
    total = {name: torch.zeros(value.shape) for name, value in gradient.items()}
    one_unit = {name: value.contiguous().clone()[None] for name, value in gradient.items()}
    add_clipped(total, one_unit, clip_norm=noise.clip_norm)
    release_mean(total, privacy=noise.privacy(expected_units=1), random=SecureRandom())
    return seen_plainly(total)


def seen_masked(network: Network, gradient: Gradient, *, run: RunConfig, pictures: int) -> Observed:
    """Return what is read from a masked vector as if it were none: all that a server gets."""
    vectors = _vectors(network, gradient, run=run, site=0, pictures=pictures)
    names = [site.name for site in run.sites]
    for group, vector in vectors.items():
        place = MaskPlace(run=run.name, server_round=1, group=group, roster="of the study")
        for peer in names[1:]:
            add_pair_mask(vector, os.urandom(32), site=names[0], peer=peer, place=place)
        add_self_mask(vector, os.urandom(32), site=names[0], place=place)
    return _read(network, vectors, run)


def seen_summed(
    network: Network, gradients: Sequence[Gradient], *, run: RunConfig, pictures: Sequence[int]
) -> Observed:
    """Return what is read from the opened sum over all sites, weighted by their pictures."""
    total: dict[str, NDArray[np.uint32]] = {}
    for site, (gradient, count) in enumerate(zip(gradients, pictures, strict=True)):
        for group, vector in _vectors(
            network, gradient, run=run, site=site, pictures=count
        ).items():
            # Modulo 2^32: the masks have cancelled.
            total[group] = total[group] + vector if group in total else vector
    return _read(network, total, run)


def _vectors(
    network: Network, gradient: Gradient, *, run: RunConfig, site: int, pictures: int
) -> dict[str, NDArray[np.uint32]]:
    arrays = read_arrays(network, array_names(network))
    update = Update(
        run=run.name,
        server_round=1,
        site=run.sites[site].name,
        task=run.sites[site].task,
        num_examples=pictures,
        num_steps=1,
        metrics={},
        evaluation={},
        arrays={
            name: -gradient[name].numpy() if name in gradient else np.zeros_like(array)
            for name, array in arrays.items()
        },
    )
    return contribution(update, run, shapes=_shapes(network))


def _read(network: Network, vectors: Mapping[str, NDArray[np.uint32]], run: RunConfig) -> Observed:
    gradient = {}
    for group, layout in layouts(run, _shapes(network), task=run.sites[0].task).items():
        for name, array in layout.decode(vectors[group]).arrays.items():
            gradient[name] = torch.from_numpy(-array)  # of the weighted sum: the size is unknown
    return Observed(gradient, None)


def _shapes(network: Network) -> dict[str, tuple[int, ...]]:
    arrays = read_arrays(network, array_names(network))
    return {name: array.shape for name, array in arrays.items()}


def _spacing(values: Tensor) -> Tensor:
    """Return the distance from each single precision number to the next, as float64."""
    return (torch.nextafter(values, torch.full_like(values, torch.inf)) - values).double()
