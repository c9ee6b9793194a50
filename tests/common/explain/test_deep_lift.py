"""DeepLIFT is complete where captum's rules reach, and says how far it is from it elsewhere."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from captum.attr import DeepLift
from small_network import drawn_pictures
from torch import Tensor, nn
from torch.nn import functional

from common.errors import ExplanationError
from common.explain.attribution import FLOOR
from common.explain.baseline import blurred
from common.explain.deep_lift import attribute, deep_lift, rescaled
from common.model.network import Network


class PreActivation(nn.Module):
    """A residual block that begins with its activation, as those of nf_resnet do."""

    def __init__(self) -> None:
        super().__init__()
        self.activation = nn.ReLU()
        self.convolution = nn.Conv2d(6, 6, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.convolution(self.activation(x))


def built(*middle: nn.Module) -> nn.Sequential:
    """A network of one score whose weights want no gradients, in double precision."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            *(module.apply(_redraw) for module in middle),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(6, 1),
            nn.Flatten(0),
        )
    return layers.double().eval().requires_grad_(False)


def _redraw(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        module.reset_parameters()


def pictures() -> Tensor:
    return drawn_pictures(2, side_px=16).double()


def by_captum(network: nn.Module, images: Tensor) -> Tensor:
    """What captum says when it is left alone with the network."""
    with pytest.warns(UserWarning, match="Setting forward, backward hooks"):
        values: Tensor = DeepLift(network).attribute(
            images.clone().requires_grad_(), baselines=blurred(images)
        )
    return values.detach()


def traces(network: nn.Module) -> set[str]:
    """Everything that is stored on the modules, and how many hooks."""
    return {
        f"{name}.{key} {len(value) if 'hooks' in key else ''}"
        for name, module in network.named_modules()
        for key, value in vars(module).items()
    }


def test_plain_network_is_complete_and_agrees_with_captum() -> None:
    network = built(nn.ReLU(), nn.Conv2d(6, 6, 3, stride=2))
    images = pictures()

    found = rescaled(network, network, images)

    assert torch.allclose(found.values, by_captum(network, images))
    assert float(found.gap.max()) < 1e-9
    assert float(found.difference.abs().min()) > 1e-3


@pytest.fixture(autouse=True)
def any_algorithm() -> Iterator[None]:
    """Undo what a training in this process asked of torch, captum's own unpooling cannot."""
    was_fixed = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)
    yield
    torch.use_deterministic_algorithms(was_fixed)


def test_pooling_is_explained_where_training_has_asked_for_fixed_algorithms() -> None:
    network = built(nn.MaxPool2d(3, 2, 1))
    torch.use_deterministic_algorithms(True)

    found = rescaled(network, network, pictures())

    assert float(found.gap.max()) < 1e-9
    assert torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(
    "middle",
    [
        [PreActivation(), PreActivation()],
        [nn.MaxPool2d(3, 2, 1)],
        [PreActivation(), nn.MaxPool2d(3, 2), PreActivation()],
    ],
    ids=["shortcut", "overlapping pooling", "both"],
)
def test_shortcuts_and_overlapping_pooling_are_complete_where_captum_alone_is_not(
    middle: list[nn.Module],
) -> None:
    network = built(*middle)
    images = pictures()

    found = rescaled(network, network, images)

    missing = (by_captum(network, images).sum(dim=(1, 2, 3)) - found.difference).abs()
    assert float(found.gap.max()) < 1e-9
    assert float((missing / found.difference.abs()).min()) > 0.05


def test_smooth_activation_is_rescaled() -> None:
    network = nn.Sequential(nn.GELU(), nn.Flatten())
    images = pictures()
    reader = torch.linspace(-1, 1, 3 * 16 * 16, dtype=torch.float64)

    found = rescaled(network, lambda x: network(x) @ reader, images)

    change = functional.gelu(images) - functional.gelu(blurred(images))
    assert torch.allclose(found.values, change * reader.view(3, 16, 16))


def test_picture_equal_to_its_baseline_has_no_attribution() -> None:
    network = built(nn.MaxPool2d(3, 2, 1), PreActivation())
    even = torch.ones(1, 3, 16, 16, dtype=torch.float64)

    found = rescaled(network, network, even)

    assert float(found.values.abs().max()) < 1e-12
    assert float(found.gap.max()) < 1e-9


def test_gap_of_our_network_is_what_is_missing_and_is_not_small(network: Network) -> None:
    images = drawn_pictures(8)

    found = attribute(network, images, task="chestx", logit=0)

    with torch.no_grad():
        change = (
            network(images, task="chestx").logits - network(blurred(images), task="chestx").logits
        )[:, 0].numpy()
    missing = np.abs(found.values.numpy().sum(axis=(1, 2, 3)) - change)
    assert np.allclose(found.gap.numpy(), missing / np.maximum(np.abs(change), FLOOR), atol=1e-4)
    assert 0.02 < float(found.gap.median()) < 1  # approximate; a cut shortcut would be 1


def test_pictures_that_go_through_in_parts_come_out_in_order(
    network: Network, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = attribute(network, images, task="chestx", logit=0)
    monkeypatch.setattr("common.explain.deep_lift.PICTURES_AT_ONCE", 2)

    in_parts = attribute(network, images, task="chestx", logit=0)

    assert torch.allclose(in_parts.values, together.values, atol=1e-6)
    assert torch.allclose(in_parts.difference, together.difference, atol=1e-6)
    assert torch.allclose(in_parts.gap, together.gap, atol=1e-4)


def test_map_is_the_positive_part_of_what_pixels_contribute(
    network: Network, images: Tensor
) -> None:
    values = attribute(network, images, task="retina", logit=0).values.sum(dim=1).numpy()

    maps = deep_lift(network, images, task="retina", logit=0).numpy()

    positive = np.maximum(values, 0)
    assert (values < 0).any()
    assert np.allclose(maps, positive / positive.sum(axis=(1, 2), keepdims=True), atol=1e-7)


def test_nothing_of_captum_stays_on_the_network(network: Network, images: Tensor) -> None:
    before = traces(network)

    deep_lift(network, images, task="chestx", logit=0)

    assert traces(network) == before


class Idle(nn.Module):
    """Runs an activation whose result it does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.idle = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        self.idle(x)
        return x


def test_features_do_not_stay_on_an_activation_that_the_score_does_not_use() -> None:
    network = built(Idle())
    before = traces(network)

    rescaled(network, network, pictures())

    assert traces(network) == before


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.GELU()], ids=["relu", "gelu"])
def test_activation_that_runs_twice_is_refused_and_leaves_nothing(activation: nn.Module) -> None:
    network = built(activation, nn.Conv2d(6, 6, 1), activation)
    before = traces(network)

    with pytest.raises(ExplanationError, match="more than once"):
        rescaled(network, network, pictures())

    assert traces(network) == before
