"""The optimiser of one round and its learning rate, alike for plain and for private training."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.nn import Parameter

from common.config.run import TrainConfig
from common.model.layers import is_of_concepts
from common.model.schedule import learning_rate_factor


@dataclass(frozen=True)
class Steps:
    """Where in the run's schedule a round starts, and where the run ends."""

    first: int
    total: int


def optimiser_of(parameters: Mapping[str, Parameter], train: TrainConfig) -> torch.optim.Optimizer:
    """Return a fresh Adam or AdamW for named parameters, as the configuration says.

    Concept heads do not decay: a site without labels of a concept has a gradient of exactly zero
    for it and must leave it where it is. Adam does so; weight decay would shrink it.
    """
    kind = torch.optim.AdamW if train.optimiser == "adamw" else torch.optim.Adam
    concepts = [value for name, value in parameters.items() if is_of_concepts(name)]
    others = [value for name, value in parameters.items() if not is_of_concepts(name)]
    optimiser = kind(others, lr=train.learning_rate, weight_decay=train.weight_decay)
    if concepts:
        optimiser.add_param_group({"params": concepts, "weight_decay": 0.0})
    return optimiser


def set_learning_rate(
    optimiser: torch.optim.Optimizer, train: TrainConfig, steps: Steps, *, taken: int
) -> None:
    """Set the rate of the whole run's schedule for the step after ``taken`` steps of the round."""
    factor = learning_rate_factor(
        steps.first + taken,
        total_steps=steps.total,
        warmup_fraction=train.warmup_fraction,
        final_fraction=train.final_learning_rate_fraction,
    )
    for group in optimiser.param_groups:
        group["lr"] = train.learning_rate * factor
