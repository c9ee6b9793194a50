"""The local epochs of one round: Adam on the whole loss, from the round's global model."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.utils import clip_grad_norm_

from common.config import TrainConfig
from common.datasets.sample import Batch
from common.device import autocast, on_device
from common.loss import LossParts, total_loss
from common.loss_config import LossConfig
from common.model.network import Network
from common.schedule import learning_rate_factor
from common.tasks import Task


class NonFiniteLossError(ArithmeticError):
    """The loss became NaN or infinite; the site refuses the round."""


@dataclass(frozen=True)
class Steps:
    """Where in the run's schedule a round starts, and where the run ends."""

    first: int
    total: int


@dataclass(frozen=True)
class LocalResult:
    """What the local epochs amounted to."""

    num_steps: int
    metrics: dict[str, float]  # mean over pictures of each part of the loss; seconds


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
    started = time.monotonic()
    device = next(network.parameters()).device
    network.train()
    # Other tasks' heads get no gradient and must not decay either.
    trained = parameters_of(network, task)
    optimiser = _optimiser(list(trained.values()), train)
    held = [(trained[name], anchor) for name, anchor in anchors.items()] if proximal_mu else []
    sums = torch.zeros(len(fields(LossParts)), dtype=torch.float64, device="cpu")
    seen, taken = 0, 0
    for batches in epochs:
        for batch in batches:
            here = on_device(batch, device)
            factor = learning_rate_factor(
                steps.first + taken,
                total_steps=steps.total,
                warmup_fraction=train.warmup_fraction,
                final_fraction=train.final_learning_rate_fraction,
            )
            for group in optimiser.param_groups:
                group["lr"] = train.learning_rate * factor
            with autocast(train, device):
                output = network(here.image, task=task.name)
                parts = total_loss(output, here, task=task, config=loss)
            objective = parts.total
            if held:
                objective = objective + proximal_term(held, mu=proximal_mu)
            values = torch.stack([part.detach() for part in _parts(parts)]).double().cpu()
            if not bool(values.isfinite().all()):
                raise NonFiniteLossError(f"the loss was not finite at step {taken + 1}")
            optimiser.zero_grad(set_to_none=True)
            objective.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            clip_grad_norm_(trained.values(), train.clip_norm)
            optimiser.step()
            sums += values * len(batch)
            seen += len(batch)
            taken += 1
    names = [field.name for field in fields(LossParts)]
    means = dict(zip(names, (sums / max(seen, 1)).tolist(), strict=True))
    return LocalResult(taken, {**means, "seconds": time.monotonic() - started})


def proximal_term(held: Sequence[tuple[Parameter, Tensor]], *, mu: float) -> Tensor:
    """Return (μ/2)·‖w - w_t‖², the squared norm over all held parameters together.

    Li et al. 2020, arXiv:1812.06127, eq. 2.
    """
    squared = [(parameter - anchor).square().sum() for parameter, anchor in held]
    return 0.5 * mu * torch.stack(squared).sum()


def parameters_of(network: Network, task: Task) -> dict[str, Parameter]:
    """Return the trainable parameters of the trunk and of one task's head, by name."""
    groups = ("trunk.", f"heads.{task.name}.")
    return {
        name: parameter
        for name, parameter in network.named_parameters()
        if name.startswith(groups) and parameter.requires_grad
    }


def _optimiser(parameters: list[Parameter], train: TrainConfig) -> torch.optim.Optimizer:
    kind = torch.optim.AdamW if train.optimiser == "adamw" else torch.optim.Adam
    return kind(parameters, lr=train.learning_rate, weight_decay=train.weight_decay)


def _parts(parts: LossParts) -> list[Tensor]:
    return [getattr(parts, field.name) for field in fields(parts)]
