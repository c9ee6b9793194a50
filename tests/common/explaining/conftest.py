"""An untrained small model and pictures for it."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from common.explaining.picture_file import PreparedPicture
from common.explanation.anatomy import WHOLE
from common.package.loading import LoadedModel
from small_model import SIDE_PX, small_model

Drawn = Callable[..., PreparedPicture]


@pytest.fixture(scope="session")
def model() -> LoadedModel:
    torch.set_num_threads(1)
    return small_model(is_weighted=True)


@pytest.fixture
def drawn() -> Drawn:
    """A function: a prepared picture of noise, the same for the same seed."""

    def draw(seed: int = 1, *, region: bool = False) -> PreparedPicture:
        rng = np.random.default_rng(seed)
        inside = np.zeros((SIDE_PX, SIDE_PX), dtype=bool)
        inside[8:30, 20:50] = True
        return PreparedPicture(
            name=f"picture {seed}.png",
            sha256=f"{seed:064x}",
            width_px=SIDE_PX,
            height_px=SIDE_PX,
            image=rng.integers(0, 256, (SIDE_PX, SIDE_PX, 3), dtype=np.uint8),
            skipped=(),
            extent=WHOLE,
            region=inside if region else None,
            eye=None,
        )

    return draw
