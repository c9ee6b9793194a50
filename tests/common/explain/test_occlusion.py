"""Occlusion, computed a second way: square by square, with scipy's blur."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from common.explain import EXPLAINERS
from common.model.network import Network

ASKED = [("chestx", 2), ("pathoscan", 0)]  # task and logit
SIDE_PX, PICTURES = 64, 3


def test_occlusion_of_a_picture_without_content_is_a_map_of_zeros(network: Network) -> None:
    # The paint equals the picture up to rounding, so nothing is painted over.
    images = torch.tensor([-1.7, 0.3, 2.4])[:, None, None, None].expand(-1, 3, SIDE_PX, SIDE_PX)

    maps = [
        EXPLAINERS.get("occlusion")(network, images, task=task, logit=logit)
        for task, logit in ASKED
    ]

    assert all(torch.equal(drawn, torch.zeros_like(drawn)) for drawn in maps)


@pytest.mark.parametrize(("task", "logit"), ASKED)
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
