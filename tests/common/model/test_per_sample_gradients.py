"""Per-sample gradients of the full loss equal a loop over pictures, for every parameter."""

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
from opacus import GradSampleModule
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from common.config.loss import LossConfig
from common.config.model import ModelConfig
from common.datasets.sample import Batch
from common.learning.loss import sample_losses
from common.model.network import Network, build_network
from common.tasks import TASKS, Task

Configured = Callable[..., ModelConfig]
Tensors = tuple[Tensor, ...]  # in the order of Batch
CONTEXT = {"chestx": ("Cardiomegaly",), "retina": ("severity",)}
LOSS = LossConfig(
    lambda_att=0.1,
    lambda_sal=1.0,
    lambda_con=0.5,
    overlap_weight=0.5,
    entropy_weight=0.1,
    coverage_threshold=0.08,
    expected_roi_fraction=dict.fromkeys(TASKS, 0.2),
    class_weights={name: dict.fromkeys(task.class_names, 2.0) for name, task in TASKS.items()},
)
CASES = [
    ("tiny", 64, "chestx"),
    ("tiny", 64, "retina"),
    ("small", 64, "retina"),
    ("small", 64, "chestx"),
    ("base", 64, "chestx"),
]
SHALLOW = {"small": {}, "base": {"options": {"depths": [1, 2, 1, 1], "width_factor": 0.25}}}


class Losses(nn.Module):
    """The network with its loss, (B,)."""

    def __init__(self, network: nn.Module, task: Task) -> None:
        super().__init__()
        self.network = network
        self.task = task

    def forward(self, *tensors: Tensor) -> Tensor:
        output = self.network(tensors[0], task=self.task.name)
        return sample_losses(output, Batch(*tensors), task=self.task, config=LOSS).total


def network_for(configured: Configured, size: str, task: Task) -> Network:
    config = configured(
        size, encoder=SHALLOW.get(size, {}), context_labels=CONTEXT, width=48, image_size_px=256
    )
    network = build_network(config, {task.name: task}, seed=0)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():  # timm starts branches at zero: no gradient there
            parameter.add_(torch.rand_like(parameter) * 0.1)
    return network.double()  # rounding must not hide a wrong rule


def pictures(network: Network, task: Task, side_px: int) -> Tensors:
    torch.manual_seed(1)
    count, logits, grid = 3, task.num_logits, network.grid(side_px)
    target = torch.randint(0, 5 if task.kind == "ordinal" else 2, (count, logits)).float()
    target[0, 0] = 1.0
    target[1, 0] = torch.nan
    coverage = torch.rand(count, logits, *grid) * (torch.rand(count, logits, *grid) > 0.7)
    has_roi = torch.rand(count, logits) > 0.5
    has_roi[0, 0] = True
    images = torch.randn(count, 3, side_px, side_px)
    signs = torch.randint(0, 2, (count, len(task.concepts))).double()
    signs[0, 0], signs[1, 0], signs[2] = 1.0, torch.nan, torch.nan
    places = torch.rand(count, len(task.concepts), *grid)
    return (
        images.double(),
        target.double(),
        coverage.double(),
        has_roi,
        signs,
        places.double(),
    )


def by_loop(losses: Losses, tensors: Tensors) -> dict[str, Tensor]:
    rows: dict[str, list[Tensor]] = {}
    for index in range(len(tensors[0])):
        losses.zero_grad()
        losses(*(tensor[index : index + 1] for tensor in tensors)).sum().backward()
        for name, parameter in losses.named_parameters():
            rows.setdefault(name, []).append(parameter.grad.clone())
    return {name: torch.stack(values) for name, values in rows.items()}


def assert_equal_to_loop(given: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert set(given) == set(expected)
    for name, rows in expected.items():
        assert rows.norm() > 0, name
        assert (given[name] - rows).norm() / rows.norm() < 1e-8, name


@pytest.mark.parametrize(("size", "side_px", "task"), CASES)
def test_opacus_functorch_gradients_equal_a_loop(
    configured: Configured, size: str, side_px: int, task: str
) -> None:
    network = network_for(configured, size, TASKS[task])
    tensors = pictures(network, TASKS[task], side_px)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Opacus' hooks meet inputs without gradient
        private = GradSampleModule(copy.deepcopy(network), force_functorch=True)
        Losses(private, TASKS[task])(*tensors).mean().backward()

    given = {f"network.{n}": p.grad_sample for n, p in private._module.named_parameters()}

    assert_equal_to_loop(given, by_loop(Losses(network, TASKS[task]), tensors))


@pytest.mark.parametrize(("size", "side_px", "task"), CASES)
def test_vmapped_gradients_equal_a_loop(
    configured: Configured, size: str, side_px: int, task: str
) -> None:
    losses = Losses(network_for(configured, size, TASKS[task]), TASKS[task])
    tensors = pictures(losses.network, TASKS[task], side_px)

    def one(parameters: dict[str, Tensor], *sample: Tensor) -> Tensor:
        rows = tuple(tensor[None] for tensor in sample)
        return functional_call(losses, parameters, rows).sum()

    parameters = {name: value.detach() for name, value in losses.named_parameters()}
    given = vmap(grad(one), in_dims=(None, *(0 for _ in tensors)))(parameters, *tensors)

    assert_equal_to_loop(given, by_loop(losses, tensors))


def test_no_module_works_in_place(configured: Configured) -> None:
    for size in ("tiny", "small", "base"):
        network = build_network(configured(size), {"retina": TASKS["retina"]}, seed=0)
        assert not [m for m in network.modules() if getattr(m, "inplace", False)]
