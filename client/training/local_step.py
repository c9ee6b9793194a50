"""The local epochs of one round: Adam on the whole loss, from the round's global model."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.utils import clip_grad_norm_

from common.config.loss import LossConfig
from common.config.run import TrainConfig
from common.datasets.sample import Batch
from common.learning.device import autocast, on_device
from common.learning.loss import LossParts, total_loss
from common.model.network import Network
from common.model.optimiser import Steps, optimiser_of, set_learning_rate
from common.model.parameters import parameters_of
from common.tasks import Task

Compute = Callable[[], tuple[Tensor, Tensor]]  # the objective, and the parts of the loss detached


class NonFiniteLossError(ArithmeticError):
    """The loss became NaN or infinite; the site refuses the round."""


@dataclass(frozen=True)
class LocalResult:
    """What the local epochs amounted to."""

    num_steps: int
    metrics: dict[str, float]  # mean over pictures of each part of the loss; seconds


@dataclass(frozen=True)
class Portion:
    """What one process is given of a batch that several processes may share."""

    batch: Batch  # never empty: a process left without pictures is lent one that does not count
    counted: int  # pictures of it that count: all or none
    whole: int  # pictures of the batch over all processes


class Processes(Protocol):
    """The processes that take each step together; see parallel_rank.py for several."""

    count: int

    def run(self, compute: Compute) -> tuple[Tensor, Tensor]:
        """Compute so that ``backward`` leaves the mean of all processes' gradients."""

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of a CPU tensor over all processes, the same in each of them."""


class OneProcess:
    """The only process that takes part."""

    count = 1

    def run(self, compute: Compute) -> tuple[Tensor, Tensor]:
        """Compute."""
        return compute()

    def total(self, values: Tensor) -> Tensor:
        """Return the values."""
        return values


def train_locally(
    network: Network,
    epochs: Sequence[Iterable[Batch]],
    *,
    task: Task,
    train: TrainConfig,
    loss: LossConfig,
    steps: Steps,
    proximal_mu: float,
    anchors: Mapping[str, Tensor],
) -> LocalResult:
    """Train in place over the given epochs of batches.

    The optimiser is fresh, the learning rate follows the whole run's schedule, gradients are
    clipped to a norm. ``anchors`` are the global model's parameters that the proximal term pulls
    towards, by name. Raises NonFiniteLossError when a loss is not finite.
    """
    return train_together(
        network,
        [
            (Portion(batch, counted=len(batch), whole=len(batch)) for batch in batches)
            for batches in epochs
        ],
        OneProcess(),
        task=task,
        train=train,
        loss=loss,
        steps=steps,
        proximal_mu=proximal_mu,
        anchors=anchors,
    )


def train_together(
    network: Network,
    epochs: Sequence[Iterable[Portion]],
    processes: Processes,
    *,
    task: Task,
    train: TrainConfig,
    loss: LossConfig,
    steps: Steps,
    proximal_mu: float,
    anchors: Mapping[str, Tensor],
) -> LocalResult:
    """Take the steps of :func:`train_locally` as one of several processes.

    Each process calls this with its portion of every batch and equal parameters. Every part of
    the loss is a mean over pictures, so the mean over the whole batch is the sum of the
    portions' means, each weighted by its share of the pictures.
    """
    started = time.monotonic()
    device = next(network.parameters()).device
    network.train()
    # Other tasks' heads get no gradient and must not decay either.
    trained = parameters_of(network, task)
    optimiser = optimiser_of(trained, train)
    held = [(trained[name], anchor) for name, anchor in anchors.items()] if proximal_mu else []
    sums = torch.zeros(len(fields(LossParts)), dtype=torch.float64, device="cpu")
    seen, taken = 0, 0
    for portions in epochs:
        for portion in portions:
            here = on_device(portion.batch, device)
            set_learning_rate(optimiser, train, steps, taken=taken)
            objective, values = processes.run(
                partial(
                    _objective,
                    network,
                    here,
                    task=task,
                    train=train,
                    loss=loss,
                    # Gradients are averaged over processes: times their number, to add them up.
                    weight=processes.count * portion.counted / portion.whole,
                    # Alike in every process, so the average counts it once.
                    held=held,
                    mu=proximal_mu,
                )
            )
            # Whatever is not finite in one process is not finite in the sum: all stop at once.
            values = processes.total(values * portion.counted)
            if not bool(values.isfinite().all()):
                raise NonFiniteLossError(f"the loss was not finite at step {taken + 1}")
            optimiser.zero_grad(set_to_none=True)
            objective.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            clip_grad_norm_(trained.values(), train.clip_norm)
            optimiser.step()
            sums += values
            seen += portion.whole
            taken += 1
    names = [field.name for field in fields(LossParts)]
    means = dict(zip(names, (sums / max(seen, 1)).tolist(), strict=True))
    return LocalResult(taken, {**means, "seconds": time.monotonic() - started})


def _objective(
    network: Network,
    batch: Batch,
    *,
    task: Task,
    train: TrainConfig,
    loss: LossConfig,
    weight: float,
    held: Sequence[tuple[Parameter, Tensor]],
    mu: float,
) -> tuple[Tensor, Tensor]:
    """Return what is minimised, and the parts of the loss as float64 on the CPU."""
    with autocast(train, batch.image.device):
        output = network(batch.image, task=task.name)
        parts = total_loss(output, batch, task=task, config=loss)
    objective = parts.total * weight
    if held:
        objective = objective + proximal_term(held, mu=mu)
    return objective, torch.stack([part.detach() for part in _parts(parts)]).double().cpu()


def proximal_term(held: Sequence[tuple[Parameter, Tensor]], *, mu: float) -> Tensor:
    """Return (μ/2)·‖w - w_t‖², the squared norm over all held parameters together.

    Li et al. 2020, arXiv:1812.06127, eq. 2.
    """
    squared = [(parameter - anchor).square().sum() for parameter, anchor in held]
    return 0.5 * mu * torch.stack(squared).sum()


def _parts(parts: LossParts) -> list[Tensor]:
    return [getattr(parts, field.name) for field in fields(parts)]
