"""Private training: optimiser steps on noised sums of clipped gradients (DP-SGD).

Abadi et al. 2016, https://arxiv.org/abs/1607.00133, algorithm 1, with Poisson sampling and, in
place of the number of units drawn, a constant divisor: nothing in a step but the noised sum
depends on the pictures.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from common.config.privacy import PrivacyConfig
from common.config.run import RunConfig
from common.datasets.loader import make_batch
from common.datasets.sample import Batch
from common.datasets.shard import Shard
from common.datasets.transforms import Augmentation
from common.learning.device import on_device
from common.model.network import Network
from common.model.optimiser import Steps, optimiser_of, set_learning_rate
from common.model.parameters import parameters_of
from common.private.check import require_exact_gradients
from common.private.gradients import clipped_sum
from common.private.sampling import Pictures, draw_units, units_of
from common.private.secure_random import SecureRandom
from common.tasks import Task


@dataclass(frozen=True)
class PrivateResult:
    """What may be said of private training: nothing that the pictures had a part in."""

    num_steps: int
    seconds: float


def train_privately(
    network: Network,
    shard: Shard,
    *,
    task: Task,
    config: RunConfig,
    server_round: int,
    proximal_mu: float,
    anchors: Mapping[str, Tensor],
) -> PrivateResult:
    """Train in place for one round: ``privacy.steps_per_round`` noised steps on the train part.

    All is in single precision. The noise, the draws, augmentation and dropout come from
    :class:`SecureRandom`, nothing from the run's seed. The optimiser is fresh and the learning
    rate follows the run's schedule, counted in the configuration's constants. A step whose draw is
    empty is a step of noise alone. ``train.clip_norm`` is not used: the parts are clipped already.

    Args:
        network: What to train.
        shard: Where the pictures are.
        task: This site's, as the run restricts it.
        config: The run's.
        server_round: From 1; where in the schedule the steps lie.
        proximal_mu: Weight of the proximal term; 0: none.
        anchors: The parameters that it pulls towards, by name.

    Raises:
        ModelError: The network does not let each unit's gradient be told from the others', or
            ``privacy.per_sample_gradients`` names a method that is wrong for it.
        DataError: Patients are protected and a training picture's patient is not known.
    """
    started = time.monotonic()
    privacy = config.privacy
    method = require_exact_gradients(network, task=task, config=config)
    network.train()
    random = SecureRandom()
    trained = parameters_of(network, task)
    optimiser = optimiser_of(trained, config.train)
    steps = Steps(
        first=(server_round - 1) * privacy.steps_per_round,
        total=config.federation.rounds * privacy.steps_per_round,
    )
    units = units_of(shard, "train", unit=privacy.unit)
    load = _loader(network, shard, task=task, config=config, random=random)
    with _unforeseen_dropout(random, next(network.parameters()).device):
        for taken in range(privacy.steps_per_round):
            total = clipped_sum(
                network,
                draw_units(units, privacy=privacy, random=random),
                load=load,
                task=task,
                loss=config.loss,
                method=method,
                clip_norm=privacy.clip_norm,
                batch_size=config.train.batch_size,
            )
            # Of all parameters that are trained, those included that stay at the site: the
            # shared layers' next gradients depend on them, and so tell no more than is spent.
            release_mean(total, privacy=privacy, random=random)
            for name, parameter in trained.items():
                parameter.grad = total[name]
                if proximal_mu and name in anchors:
                    # After the noise: the distance to the global model is known to both ends.
                    parameter.grad.add_(parameter.detach() - anchors[name], alpha=proximal_mu)
            set_learning_rate(optimiser, config.train, steps, taken=taken)
            optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return PrivateResult(privacy.steps_per_round, time.monotonic() - started)


def release_mean(
    total: Mapping[str, Tensor], *, privacy: PrivacyConfig, random: SecureRandom
) -> None:
    """Turn a sum of clipped gradients into the noised mean that may be used, in place.

    (Σ + N(0, (σ C)²)) / expected units; the only place where what was computed from pictures
    becomes what an update may be made of.
    """
    for value in total.values():
        random.add_normals(value, deviation=privacy.noise_multiplier * privacy.clip_norm)
        value.div_(privacy.expected_units)


def _loader(
    network: Network, shard: Shard, *, task: Task, config: RunConfig, random: SecureRandom
) -> Callable[[Pictures], Batch]:
    grid = network.grid(config.data.image_size_px)
    device = next(network.parameters()).device
    augment = config.data.augment[task.name]

    def load(pictures: Pictures) -> Batch:
        augmentation = Augmentation(augment, random.generator())
        batch = make_batch(shard, pictures, task=task, grid=grid, augmentation=augmentation)
        return on_device(batch, device)

    return load


@contextmanager
def _unforeseen_dropout(random: SecureRandom, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators, which dropout draws from, by chance; then put them back."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(random.seed())
        yield
