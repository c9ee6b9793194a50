"""The model's own map, computed a second way from the parts of the logit."""

import numpy as np
import pytest
from numpy.typing import NDArray
from torch import Tensor

from common.explain import EXPLAINERS
from common.model.network import Network

ASKED = [("chestx", 0), ("chestx", 2), ("retina", 0), ("pathoscan", 0)]  # task and logit
SIDE_PX = 64


def bilinear(tokens: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """(h, h) -> (side, side): straight lines between the centres of neighbouring cells."""
    centres = (np.arange(side) + 0.5) * len(tokens) / side - 0.5
    hats = 1 - np.abs(np.clip(centres, 0, len(tokens) - 1)[:, None] - np.arange(len(tokens)))
    spread = np.clip(hats, 0, None)  # (side, h), rows sum to 1
    return spread @ tokens @ spread.T


@pytest.mark.parametrize(("task", "logit"), ASKED)
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
