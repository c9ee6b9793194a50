"""A small network and pictures that explanation methods are asked about."""

import json
from copy import deepcopy
from functools import cache
from pathlib import Path

import torch
import yaml
from torch import Tensor

from common.config.model import ModelConfig
from common.model.network import Network, build_network
from common.tasks import task_named


def small_network(**keys: object) -> Network:
    """A network with tiny.yaml's model, single keys changed, and heads that tell places apart.

    Every call gives one of its own, to be changed at will.
    """
    return deepcopy(_built(json.dumps(keys)))


@cache
def _built(keys: str) -> Network:
    values = yaml.safe_load(Path("configs/models/tiny.yaml").read_text())["model"]
    tasks = {
        "chestx": task_named("chestx", ("Effusion", "Mass", "Nodule")),
        "retina": task_named("retina", None),
        "pathoscan": task_named("pathoscan", None),
    }
    network = build_network(ModelConfig.model_validate(values | json.loads(keys)), tasks, seed=5)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in network.heads.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return network.eval()


def drawn_pictures(count: int, *, side_px: int = 64) -> Tensor:
    """Pictures (count, 3, side, side) of noise, the same every time."""
    generator = torch.Generator().manual_seed(7)
    return torch.randn((count, 3, side_px, side_px), generator=generator)
