"""A small network and pictures that every method of this folder is asked about."""

import pytest
from small_network import drawn_pictures, small_network
from torch import Tensor

from common.model.network import Network


@pytest.fixture
def network() -> Network:
    """A small network whose maps differ from place to place and from logit to logit."""
    return small_network()


@pytest.fixture
def images() -> Tensor:
    return drawn_pictures(3)
