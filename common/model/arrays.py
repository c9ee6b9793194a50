"""A network's state as named float32 arrays, the form that travels."""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from common.errors import ModelError
from common.messages.kinds import Arrays


def array_names(network: nn.Module) -> list[str]:
    """Return the names of all floating point parameters and buffers, in state order.

    Whole-number buffers (BatchNorm's batch counter) mean nothing averaged and do not travel.
    """
    return [name for name, value in network.state_dict().items() if value.is_floating_point()]


def read_arrays(network: nn.Module, names: Iterable[str]) -> dict[str, NDArray[np.float32]]:
    """Return copies of the named arrays."""
    state = network.state_dict()
    return {
        name: state[name].detach().to(device="cpu", dtype=torch.float32).numpy().copy()
        for name in names
    }


def write_arrays(network: nn.Module, arrays: Arrays) -> None:
    """Set the named arrays in place.

    Raises ModelError for a name or shape that is not the network's.
    """
    state = network.state_dict()
    with torch.no_grad():
        for name, array in arrays.items():
            if name not in state:
                raise ModelError(
                    f"array {name!r} is not part of this network. Both ends must build it from "
                    "the same configuration and version."
                )
            if tuple(state[name].shape) != array.shape:
                raise ModelError(
                    f"array {name!r} has shape {array.shape}, this network needs "
                    f"{tuple(state[name].shape)}. Both ends must use the same configuration."
                )
            # A copy: numpy arrays from messages may be read-only.
            state[name].copy_(torch.from_numpy(np.array(array)))
