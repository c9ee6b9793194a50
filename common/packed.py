"""A model's named arrays as one array of bytes: Flower sends every array of a record by itself.

A network has some 150 arrays; each would be an HTTP request of its own on each leg of the way.
The bytes are a safetensors file: names, shapes and types checked by its reader, nothing executed.
"""

import json
from collections.abc import Mapping

import numpy as np
from flwr.app import Array
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from common.errors import WireError

_ORDER = (
    "__order__"  # names one array of bytes: the names in their order, which safetensors changes
)


def pack(arrays: Mapping[str, NDArray[np.float32]]) -> Array:
    """Return the arrays as one. Raises WireError for one that is not float32."""
    flat: dict[str, NDArray[np.generic]] = {}
    for name, array in arrays.items():
        if array.dtype != np.float32:
            raise WireError(f"arrays.{name}: expected float32, got {array.dtype}.")
        # safetensors ignores strides: a transposed view would be written in the wrong order.
        flat[name] = np.asarray(array, order="C")
    if _ORDER in flat:
        raise WireError(f"arrays.{_ORDER}: this name is taken by the contract.")
    flat[_ORDER] = np.frombuffer(json.dumps(list(arrays)).encode(), dtype=np.uint8)
    return Array(np.frombuffer(save(flat), dtype=np.uint8))


def unpack(record: Array) -> dict[str, NDArray[np.float32]]:
    """Return the arrays that were packed, in their order. Raises WireError naming what is wrong."""
    try:
        content = record.numpy()
    except (TypeError, ValueError, OSError, EOFError) as error:
        raise WireError(f"arrays: not a readable array: {error}.") from error
    if content.dtype != np.uint8 or content.ndim != 1:
        raise WireError(
            f"arrays: expected bytes, got {content.dtype} of {content.ndim} dimensions."
        )
    try:
        arrays = load(content.tobytes())
        names = json.loads(arrays.pop(_ORDER).tobytes())
    except (SafetensorError, KeyError, ValueError) as error:
        raise WireError(f"arrays: cannot be unpacked ({type(error).__name__}).") from error
    if not isinstance(names, list) or sorted(names) != sorted(arrays):
        raise WireError("arrays: the names do not agree with what was packed.")
    for name, array in arrays.items():
        if array.dtype != np.float32:
            raise WireError(f"arrays.{name}: expected float32, got {array.dtype}.")
    return {name: arrays[name] for name in names}
