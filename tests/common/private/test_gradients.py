"""Sums of clipped gradients against a loop written out in numpy."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from common.config.run import RunConfig
from common.datasets.loader import make_batch
from common.datasets.sample import Batch
from common.datasets.shard import Shard
from common.learning.loss import sample_losses
from common.model.network import Network, build_network
from common.model.parameters import parameters_of
from common.private.gradients import METHODS, Method, add_clipped, clipped_sum, unit_norms
from common.private.sampling import Pictures, units_of
from common.tasks import Task

EVERY: list[Method] = list(METHODS)


@dataclass(frozen=True)
class Setting:
    """A network, its pictures, and both ways to a sum."""

    network: Network
    shard: Shard
    task: Task
    config: RunConfig

    def units(self, unit: str = "patient") -> tuple[Pictures, ...]:
        return units_of(self.shard, "train", unit=unit)  # type: ignore[arg-type]

    def load(self, pictures: Pictures) -> Batch:
        return make_batch(self.shard, pictures, task=self.task, grid=self.network.grid(64))

    def summed(
        self,
        units: Sequence[Pictures],
        method: Method,
        *,
        clip_norm: float = 1.0,
        batch_size: int = 8,
        load: Callable[[Pictures], Batch] | None = None,
    ) -> dict[str, Tensor]:
        return clipped_sum(
            self.network,
            units,
            load=load or self.load,
            task=self.task,
            loss=self.config.loss,
            method=method,
            clip_norm=clip_norm,
            batch_size=batch_size,
        )

    def by_hand(self, units: Sequence[Pictures], clip_norm: float) -> dict[str, np.ndarray]:
        """Backward passes of one picture each; means, norms and sums in float64 numpy."""
        trained = parameters_of(self.network, self.task)
        total = {name: np.zeros(value.shape) for name, value in trained.items()}
        for unit in units:
            mean = {name: np.zeros(value.shape) for name, value in trained.items()}
            for picture in unit:
                batch = self.load(np.array([picture]))
                self.network.zero_grad()
                output = self.network(batch.image, task=self.task.name)
                losses = sample_losses(output, batch, task=self.task, config=self.config.loss)
                losses.total[0].backward()
                for name, value in trained.items():
                    if value.grad is not None:
                        mean[name] += value.grad.double().numpy() / len(unit)
            factor = min(1.0, clip_norm / norm_of(mean))
            for name, gradient in mean.items():
                total[name] += gradient * factor
        self.network.zero_grad()
        return total


def norm_of(values: dict[str, np.ndarray]) -> float:
    return float(np.sqrt(sum((g**2).sum() for g in values.values())))


@pytest.fixture
def setting(network: Network, shard: Shard, task: Task, config: RunConfig) -> Setting:
    return Setting(network, shard, task, config)


@dataclass(frozen=True)
class Truth:
    """What the sum of all patients is, at a norm that clips some of them and not others."""

    clip_norm: float
    total: dict[str, np.ndarray]


@pytest.fixture(scope="module")
def truth(shard: Shard, task: Task, config: RunConfig) -> Truth:
    network = build_network(config.model, config.task_table(), seed=3).train()
    setting = Setting(network, shard, task, config)
    units = setting.units()
    clip_norm = float(np.median([norm_of(setting.by_hand([unit], 1e9)) for unit in units]))
    return Truth(clip_norm, setting.by_hand(units, clip_norm))


@pytest.mark.parametrize("batch_size", [3, 16])
@pytest.mark.parametrize("method", EVERY)
def test_the_sum_is_that_of_each_patient_s_clipped_mean(
    setting: Setting, truth: Truth, method: Method, batch_size: int
) -> None:
    # With 3 the patient of four pictures is computed in pieces.
    total = setting.summed(
        setting.units(), method, clip_norm=truth.clip_norm, batch_size=batch_size
    )

    expected = truth.total
    assert list(total) == list(expected)
    for name, right in expected.items():
        error = np.linalg.norm(total[name].numpy() - right)
        assert error < 2e-5 * np.linalg.norm(right) + 1e-6 * norm_of(expected), name


@pytest.mark.parametrize("method", EVERY)
def test_many_pictures_do_not_let_a_patient_count_more(setting: Setting, method: Method) -> None:
    patient = setting.units()[3]

    total = setting.summed([patient], method, clip_norm=1e-3)

    assert len(patient) == 4
    norm = torch.stack([value.norm() for value in total.values()]).norm()
    assert norm.item() == pytest.approx(1e-3, rel=1e-5)


def test_no_units_make_a_sum_of_zeros(setting: Setting) -> None:
    total = setting.summed([], "loop")

    assert set(total) == set(parameters_of(setting.network, setting.task))
    assert not any(value.any() for value in total.values())


@pytest.mark.parametrize("method", EVERY)
def test_a_picture_whose_gradient_is_not_finite_adds_nothing(
    setting: Setting, method: Method
) -> None:
    def broken(pictures: Pictures) -> Batch:
        batch = setting.load(pictures)
        batch.image[torch.from_numpy(pictures == 4)] = torch.inf
        return batch

    units = [np.array([picture]) for picture in (0, 4, 6)]

    total = setting.summed(units, method, load=broken)

    for name, value in setting.summed([units[0], units[2]], method).items():
        torch.testing.assert_close(total[name], value, rtol=1e-4, atol=1e-6)


def test_clipping_scales_only_what_is_too_long() -> None:
    gradients = {
        "a": torch.tensor([[3.0, 0.0], [0.3, 0.0], [0.0, 0.0]]),
        "b": torch.tensor([[[4.0]], [[0.4]], [[0.0]]]),
    }
    total = {"a": torch.ones(2), "b": torch.zeros(1, 1)}

    norms = unit_norms(gradients)
    add_clipped(total, gradients, clip_norm=1.0)

    assert norms.tolist() == pytest.approx([5.0, 0.5, 0.0])
    assert total["a"].tolist() == pytest.approx([1 + 0.6 + 0.3, 1.0])
    assert total["b"].item() == pytest.approx(0.8 + 0.4)


@pytest.mark.parametrize("method", EVERY)
def test_the_network_is_left_as_it_was(setting: Setting, method: Method) -> None:
    network = setting.network

    def marks() -> list[object]:
        kept: list[object] = [list(network.state_dict()), network.training]
        for name, module in network.named_modules():
            kept.append((name, sorted(vars(module)), len(module._forward_hooks)))
            kept.append((len(module._backward_hooks), len(module._forward_pre_hooks)))
        kept += [(name, sorted(vars(p)), p.grad) for name, p in network.named_parameters()]
        return kept

    before = marks()
    values = {name: value.clone() for name, value in network.state_dict().items()}

    setting.summed(setting.units("image")[:3], method)

    assert marks() == before
    assert all(torch.equal(value, values[name]) for name, value in network.state_dict().items())


def test_hooks_go_even_where_a_pass_breaks_off(setting: Setting) -> None:
    def break_off(*_: object) -> None:
        raise RuntimeError("broken")

    network = setting.network
    network.heads[setting.task.name].parts.gate.register_forward_hook(break_off)
    hooks = sum(len(m._forward_hooks) for m in network.modules())

    with pytest.raises(RuntimeError, match="broken"):
        setting.summed([np.array([0])], "hooks")

    assert sum(len(m._forward_hooks) for m in network.modules()) == hooks
    assert not any(hasattr(m, "activations") for m in network.modules())
    assert not any(hasattr(p, "grad_sample") for p in network.parameters())


@pytest.mark.parametrize("method", EVERY)
def test_frozen_parameters_have_no_part(setting: Setting, method: Method) -> None:
    setting.network.trunk.project_evidence.requires_grad_(requires_grad=False)

    total = setting.summed([np.array([0])], method)

    assert not any("project_evidence" in name for name in total)
    assert any(value.any() for value in total.values())
