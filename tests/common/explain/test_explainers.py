"""Every explanation method keeps one contract, and its numbers can be had in a second way."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from common.explain import EXPLAINERS
from common.model.network import Network, build_network
from common.model_config import ModelConfig
from common.tasks import task_named

SIDE_PX = 64
TOKENS = 8  # per side
PICTURES = 3
ASKED = [("chestx", 0), ("chestx", 2), ("retina", 0), ("pathoscan", 0)]  # task and logit

every_method = pytest.mark.parametrize("method", list(EXPLAINERS))
every_logit = pytest.mark.parametrize(("task", "logit"), ASKED)


@pytest.fixture
def network() -> Network:
    """A small network whose maps differ from place to place and from logit to logit."""
    config = ModelConfig.model_validate(
        yaml.safe_load(Path("configs/models/tiny.yaml").read_text())["model"]
    )
    tasks = {
        "chestx": task_named("chestx", ("Effusion", "Mass", "Nodule")),
        "retina": task_named("retina", None),
        "pathoscan": task_named("pathoscan", None),
    }
    network = build_network(config, tasks, seed=5)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in network.heads.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return network.eval()


@pytest.fixture
def images() -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randn((PICTURES, 3, SIDE_PX, SIDE_PX), generator=generator)


@every_method
@every_logit
def test_maps_are_shares_of_one_over_the_picture(
    network: Network, images: Tensor, method: str, task: str, logit: int
) -> None:
    maps = EXPLAINERS.get(method)(network, images, task=task, logit=logit)

    assert maps.shape == (PICTURES, SIDE_PX, SIDE_PX)
    assert bool((maps >= 0).all())
    assert torch.allclose(maps.sum(dim=(1, 2)), torch.ones(PICTURES), atol=1e-5)


@every_method
def test_logits_of_one_picture_have_maps_of_their_own(
    network: Network, images: Tensor, method: str
) -> None:
    first, second = (
        EXPLAINERS.get(method)(network, images, task="chestx", logit=logit) for logit in (0, 1)
    )

    assert not torch.allclose(first, second)


@every_method
def test_a_map_does_not_depend_on_the_other_pictures_of_the_batch(
    network: Network, images: Tensor, method: str
) -> None:
    explain = EXPLAINERS.get(method)

    together = explain(network, images, task="chestx", logit=1)

    for number in range(PICTURES):
        alone = explain(network, images[number : number + 1], task="chestx", logit=1)
        assert torch.allclose(together[number], alone[0], atol=1e-5)


@every_method
@pytest.mark.parametrize("training", [True, False])
def test_network_and_pictures_are_left_as_they_came(
    network: Network, images: Tensor, method: str, training: bool
) -> None:
    network.train(training)
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    wanted = [parameter.requires_grad for parameter in network.parameters()]
    shown = images.clone()

    maps = EXPLAINERS.get(method)(network, images, task="chestx", logit=0)

    assert all(module.training is training for module in network.modules())
    assert all(torch.equal(tensor, weights[name]) for name, tensor in network.state_dict().items())
    assert [parameter.requires_grad for parameter in network.parameters()] == wanted
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.equal(images, shown)
    assert not maps.requires_grad
    assert torch.is_grad_enabled()


@every_method
def test_gradients_that_training_has_gathered_stay(
    network: Network, images: Tensor, method: str
) -> None:
    network(images, task="chestx").logits.sum().backward()
    gathered = {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}

    EXPLAINERS.get(method)(network, images, task="chestx", logit=0)

    left = {n: p.grad for n, p in network.named_parameters() if p.grad is not None}
    assert left.keys() == gathered.keys()
    assert all(torch.equal(left[name], gathered[name]) for name in gathered)


@every_method
def test_picture_in_which_nothing_speaks_for_the_logit_has_a_map_of_zeros(
    network: Network, images: Tensor, method: str
) -> None:
    with torch.no_grad():
        for parameter in network.heads["pathoscan"].parameters():
            parameter.zero_()
        # The same everywhere and against the logit, whatever is painted over.
        network.get_parameter("heads.pathoscan.parts.evidence.bias").fill_(-1.0)

    maps = EXPLAINERS.get(method)(network, images, task="pathoscan", logit=0)

    assert torch.equal(maps, torch.zeros(PICTURES, SIDE_PX, SIDE_PX))


def test_occlusion_of_a_picture_without_content_is_a_map_of_zeros(network: Network) -> None:
    # The paint equals the picture up to rounding, so nothing is painted over.
    images = torch.tensor([-1.7, 0.3, 2.4])[:, None, None, None].expand(-1, 3, SIDE_PX, SIDE_PX)

    maps = [
        EXPLAINERS.get("occlusion")(network, images, task=task, logit=logit)
        for task, logit in ASKED
    ]

    assert all(torch.equal(drawn, torch.zeros_like(drawn)) for drawn in maps)


def bilinear(tokens: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """(h, h) -> (side, side): straight lines between the centres of neighbouring cells."""
    centres = (np.arange(side) + 0.5) * len(tokens) / side - 0.5
    hats = 1 - np.abs(np.clip(centres, 0, len(tokens) - 1)[:, None] - np.arange(len(tokens)))
    spread = np.clip(hats, 0, None)  # (side, h), rows sum to 1
    return spread @ tokens @ spread.T


@every_logit
def test_evidence_is_the_positive_part_of_what_the_logit_is_made_of(
    network: Network, images: Tensor, task: str, logit: int
) -> None:
    output = network(images, task=task)
    parts = (output.gate * output.evidence)[:, logit].detach().double().numpy()

    maps = EXPLAINERS.get("evidence")(network, images, task=task, logit=logit).numpy()

    for drawn, of_picture in zip(maps, parts, strict=True):
        assert (of_picture < 0).any()  # otherwise this test would not see the sign
        expected = bilinear(np.maximum(of_picture, 0), SIDE_PX)
        assert np.allclose(drawn, expected / expected.sum(), atol=1e-7)


@every_logit
def test_occlusion_is_the_fall_of_the_logit_square_by_square(
    network: Network, images: Tensor, task: str, logit: int
) -> None:
    square, sigma = SIDE_PX // 8, SIDE_PX / 8
    # A Gaussian cut off at two standard deviations, mirrored at the border.
    paint = torch.from_numpy(
        gaussian_filter(images.numpy(), sigma, axes=(2, 3), truncate=2.0, mode="mirror")
    )
    fall = np.zeros((PICTURES, 8, 8))
    with torch.no_grad():
        whole = network(images, task=task).logits[:, logit]
        for row in range(8):
            for column in range(8):
                y, x = (slice(square * place, square * (place + 1)) for place in (row, column))
                painted = images.clone()
                painted[:, :, y, x] = paint[:, :, y, x]
                fall[:, row, column] = whole - network(painted, task=task).logits[:, logit]
    expected = np.kron(np.maximum(fall, 0), np.ones((square, square)))
    expected /= expected.sum(axis=(1, 2), keepdims=True)

    maps = EXPLAINERS.get("occlusion")(network, images, task=task, logit=logit).numpy()

    assert (fall < 0).any()
    assert np.allclose(maps, expected, atol=1e-5)
    assert np.abs(maps - expected).max() < 0.02 * expected.max()
