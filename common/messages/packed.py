"""A model's named arrays as one array of bytes: Flower sends every array of a record by itself.

A network has some 150 arrays; each would be an HTTP request of its own on each leg of the way.
The bytes are a safetensors file: names, shapes and types checked by its reader, nothing executed.
There is one form for every content, and nothing else is read: no byte is without a meaning.
"""

import json
from collections.abc import Mapping
from typing import TypeVar

import numpy as np
from flwr.app import Array
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from common.errors import WireError
from common.messages.precision import (
    Precision,
    Steps,
    from_bfloat16,
    from_steps,
    same_bits,
    to_bfloat16,
    to_steps,
)

Number = TypeVar("Number", np.float32, np.uint32)
AnyArrays = Mapping[str, NDArray[np.generic]]

# Names of two arrays of bytes beside the others.
_ORDER = "__order__"  # the names in their order, which safetensors changes
_EXPONENTS = "__exponents__"  # of int8: the powers of two, in that order

_STORED: dict[Precision, type[np.generic]] = {
    "float32": np.float32,
    "bfloat16": np.uint16,
    "int8": np.int8,
}


def pack(arrays: Mapping[str, NDArray[Number]], *, dtype: type[Number] = np.float32) -> Array:  # type: ignore[assignment]  # mypy: a default for a type variable
    """Return the arrays as one. Raises WireError for one that is of another type."""
    _check_types(arrays, dtype)
    return _packed(arrays)


def unpack(record: Array, *, dtype: type[Number] = np.float32) -> dict[str, NDArray[Number]]:  # type: ignore[assignment]  # likewise
    """Return the arrays that were packed, in their order. Raises WireError naming what is wrong."""
    arrays = _unpacked(record)
    _check_types(arrays, dtype)
    return arrays  # type: ignore[return-value]  # each was checked


def pack_rounded(arrays: Mapping[str, NDArray[np.float32]], *, precision: Precision) -> Array:
    """Return arrays that were rounded to a precision as one, without losing a bit.

    Raises WireError for an array that was not: see :func:`common.messages.precision.rounded`.
    """
    _check_types(arrays, np.float32)
    if precision == "float32":
        return _packed(arrays)
    if precision == "bfloat16":
        halves = {name: to_bfloat16(array) for name, array in arrays.items()}
        _check_exact(arrays, {name: from_bfloat16(half) for name, half in halves.items()})
        return _packed(halves)
    steps = {name: _steps_of(name, array) for name, array in arrays.items()}
    _check_exact(arrays, {name: from_steps(each) for name, each in steps.items()})
    exponents = np.array([each.exponent for each in steps.values()], dtype=np.int16)
    counts = {name: each.counts for name, each in steps.items()}
    return _packed(counts, {_EXPONENTS: exponents})


def unpack_rounded(record: Array, *, precision: Precision) -> dict[str, NDArray[np.float32]]:
    """Return the float32 arrays that were packed in a precision, in their order.

    Raises WireError naming what is wrong; another precision than the one expected is.
    """
    if precision == "float32":
        return unpack(record)
    stored = _unpacked(record, beside=(_EXPONENTS,) if precision == "int8" else ())
    exponents = stored.pop(_EXPONENTS, None)
    _check_types(stored, _STORED[precision])
    if precision == "bfloat16":
        return {name: from_bfloat16(half.view(np.uint16)) for name, half in stored.items()}
    if exponents is None or exponents.dtype != np.int16 or exponents.shape != (len(stored),):
        raise WireError("arrays: expected one exponent for each array of int8.")
    powers = dict(zip(stored, exponents.tolist(), strict=True))
    arrays = {
        name: from_steps(Steps(counts.view(np.int8), powers[name]))
        for name, counts in stored.items()
    }
    # Other steps would do for small counts: of each content there is one form.
    if any(to_steps(array).exponent != powers[name] for name, array in arrays.items()):
        raise WireError("arrays: an array of int8 is not in the steps that its numbers give.")
    if any((counts == np.int8(-128)).any() for counts in stored.values()):
        raise WireError("arrays: expected int8 from -127 to 127, got -128.")
    return arrays


def _steps_of(name: str, array: NDArray[np.float32]) -> Steps:
    try:
        return to_steps(array)
    except WireError as error:
        raise WireError(f"arrays.{name}: {error}") from error


def _packed(arrays: AnyArrays, beside: AnyArrays | None = None) -> Array:
    # safetensors ignores strides: a transposed view would be written in the wrong order.
    flat = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    order = np.frombuffer(json.dumps(list(arrays)).encode(), dtype=np.uint8)
    own: dict[str, NDArray[np.generic]] = {_ORDER: order, **(beside or {})}
    if taken := sorted({_ORDER, _EXPONENTS} & set(flat)):
        raise WireError(f"arrays.{taken[0]}: this name is taken by the contract.")
    return Array(np.frombuffer(save({**flat, **own}), dtype=np.uint8))


def _unpacked(record: Array, *, beside: tuple[str, ...] = ()) -> dict[str, NDArray[np.generic]]:
    """Return named arrays in their order, and after them those beside."""
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
    extra = {name: arrays.pop(name) for name in beside if name in arrays}
    if not isinstance(names, list) or sorted(names, key=str) != sorted(arrays):
        raise WireError("arrays: the names do not agree with what was packed.")
    ordered = {name: arrays[name] for name in names}
    if not _is_same(_packed(ordered, extra), record):
        raise WireError("arrays: packed in another way than Fovea does: bytes have no meaning.")
    return ordered | extra


def _is_same(expected: Array, came: Array) -> bool:
    return (
        (expected.dtype, list(expected.shape), expected.stype, expected.data)
        == (came.dtype, list(came.shape), came.stype, came.data)
    )  # fmt: skip


def _check_types(arrays: AnyArrays, dtype: type[np.generic]) -> None:
    for name, array in arrays.items():
        if array.dtype != dtype:
            raise WireError(f"arrays.{name}: expected {dtype.__name__}, got {array.dtype}.")


def _check_exact(
    arrays: Mapping[str, NDArray[np.float32]], again: Mapping[str, NDArray[np.float32]]
) -> None:
    for name, array in arrays.items():
        if not same_bits(array, again[name]):
            raise WireError(
                f"arrays.{name}: its numbers need more bits than the update's precision has. "
                "Round it first (common/messages/precision.py)."
            )
