"""Grad-CAM and Grad-CAM++ against their equations, written out with loops over channels."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray
from small_network import drawn_pictures, small_network
from torch import Tensor

from common.explain.grad_cam import grad_cam
from common.explain.grad_cam_plus_plus import channel_weights, grad_cam_plus_plus
from common.model.network import Network


def features_and_gradients(
    network: Network, images: Tensor, *, task: str, logit: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Evidence features A and dlogit/dA, (B, C, h, w) each, by plain autograd."""
    tapped: list[Tensor] = []
    handle = network.trunk.project_evidence.register_forward_pre_hook(
        lambda _, inputs: tapped.append(inputs[0])
    )
    logits = network(images.clone().requires_grad_(), task=task).logits[:, logit]
    handle.remove()
    (slopes,) = torch.autograd.grad(logits.sum(), tapped[0])
    return tapped[0].detach().double().numpy(), slopes.double().numpy()


def drawn(cells: NDArray[np.float64]) -> NDArray[np.float64]:
    spread = torch.nn.functional.interpolate(
        torch.from_numpy(cells)[None, None], size=(64, 64), mode="bilinear"
    )[0, 0]
    return (spread / spread.sum()).numpy()


def deeper_network() -> Network:
    """Its transformer reads a later stage, which is made from the evidence features."""
    encoder = yaml.safe_load(Path("configs/models/tiny.yaml").read_text())["model"]["encoder"]
    return small_network(encoder=encoder | {"transformer_stage": 3})


@pytest.mark.parametrize("build", [small_network, deeper_network])
def test_grad_cam_weighs_channels_by_their_mean_gradient(build: type[Network]) -> None:
    network, images = build(), drawn_pictures(2)
    features, slopes = features_and_gradients(network, images, task="chestx", logit=1)

    maps = grad_cam(network, images, task="chestx", logit=1).numpy()

    for picture in range(2):
        cells = np.zeros(features.shape[2:])
        for channel in range(features.shape[1]):
            cells += slopes[picture, channel].mean() * features[picture, channel]
        assert (cells < 0).any()
        assert np.allclose(maps[picture], drawn(np.maximum(cells, 0)), atol=2e-6)


@pytest.mark.parametrize("build", [small_network, deeper_network])
def test_grad_cam_plus_plus_weighs_channels_where_they_raise_the_logit(
    build: type[Network],
) -> None:
    network, images = build(), drawn_pictures(2)
    features, slopes = features_and_gradients(network, images, task="retina", logit=0)

    maps = grad_cam_plus_plus(network, images, task="retina", logit=0).numpy()

    for picture in range(2):
        cells = np.zeros(features.shape[2:])
        for activation, slope in zip(features[picture], slopes[picture], strict=True):
            mass = activation[activation > 0].sum()
            weight = sum(g**2 / (2 * g**2 + g**3 * mass) * g for g in slope[slope > 0].ravel())
            cells += weight * activation
        assert np.allclose(maps[picture], drawn(np.maximum(cells, 0)), atol=2e-6)


def test_on_rectified_features_the_weights_are_the_papers() -> None:
    features = torch.tensor([[[[1.0, 3.0]], [[0.0, 2.0]]]])  # one picture, two channels, 1 x 2
    slopes = torch.tensor([[[[0.5, -1.0]], [[0.0, 0.0]]]])

    weights = channel_weights(features, slopes)

    # α = g² / (2 g² + g³ Σ A) with g = 0.5, Σ A = 4; the falling gradient and zeros add nothing.
    alpha = 0.25 / (0.5 + 0.125 * 4)
    assert weights.flatten().tolist() == pytest.approx([alpha * 0.5, 0.0])


def test_negative_features_cannot_blow_a_weight_up() -> None:
    # With the plain sum the divisor 2 + g·ΣA would be zero here.
    features = torch.tensor([[[[-4.0, 0.0]]]])
    slopes = torch.tensor([[[[0.5, 0.0]]]])

    assert channel_weights(features, slopes).item() == pytest.approx(0.25)
