"""Fewer bits for an update: rounded at the site before it leaves, exactly what travels.

``bfloat16`` keeps float32's range and 8 bits of fraction. ``int8`` holds every array as whole
numbers from -127 to 127 times one power of two, so that writing the rounded numbers again gives the
same bytes. Rounding looks at an update alone: of noise that was added before, nothing is lost.
Subnormal numbers (below 2^-126) become zero at every precision: no training means them, and they
would carry anything past a bound on an update's norm.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from common.errors import WireError

Precision = Literal["float32", "bfloat16", "int8"]  # federation.update_precision
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

SMALLEST_NORMAL = float(np.finfo(np.float32).tiny)  # 2^-126

_MOST = 127  # of an int8, on both sides of zero
_LOWEST_EXPONENT = -126  # one step is then still a normal float32
_HIGHEST_EXPONENT = 121  # 127 steps are then still a finite float32


@dataclass(frozen=True, eq=False)
class Steps:
    """An array in whole steps: ``count * 2^exponent``."""

    counts: NDArray[np.int8]
    exponent: int


def rounded(
    arrays: Mapping[str, NDArray[np.float32]], precision: Precision
) -> dict[str, NDArray[np.float32]]:
    """Return arrays of the same names and shapes whose numbers the precision holds exactly.

    Rounding twice changes nothing. Each number is off by at most half of the last place that is
    kept; with ``int8`` an array's largest by at most one step, 1/64 of it. What is not finite stays
    so: there is no int8 of it, and the guard keeps it at the site.

    Args:
        arrays: float32 of any shape.
        precision: See the module.
    """
    return {name: _rounded(array, precision) for name, array in arrays.items()}


def to_bfloat16(array: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return the upper halves of float32, rounded to the nearest, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(array).view(np.uint32)
    # Half of what is cut off, less one bit where the part that stays is even.
    nearest = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    cut = bits >> np.uint32(16) | np.uint32(0x40)  # of a NaN the carry would make an infinity
    halves = np.where(np.isnan(array), cut, nearest).astype(np.uint16)
    return halves.reshape(array.shape)


def from_bfloat16(halves: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Return the float32 that upper halves stand for, exactly."""
    bits = halves.astype(np.uint32) << np.uint32(16)
    return np.ascontiguousarray(bits).view(np.float32).reshape(halves.shape)


def to_steps(array: NDArray[np.float32]) -> Steps:
    """Return an array as int8 and the power of two that makes the most of them.

    With m·2^p the largest number's size, 1/2 ≤ m < 1, a step is 2^(p-7): the largest is then 64
    to 127 steps. Raises WireError for an array that is not finite.
    """
    if not np.isfinite(array).all():
        raise WireError("an array that is to be int8 is not finite.")
    largest = float(np.max(np.abs(array), initial=0.0))
    exponent = _LOWEST_EXPONENT
    if largest > 0.0:
        exponent = max(int(np.frexp(largest)[1]) - 7, _LOWEST_EXPONENT)
    steps = np.rint(np.ldexp(array.astype(np.float64), -exponent))
    return Steps(np.clip(steps, -_MOST, _MOST).astype(np.int8).reshape(array.shape), exponent)


def from_steps(steps: Steps) -> NDArray[np.float32]:
    """Return the float32 that steps stand for, exactly. Raises WireError for what none would be."""
    if not _LOWEST_EXPONENT <= steps.exponent <= _HIGHEST_EXPONENT:
        raise WireError(
            f"a step of 2^{steps.exponent}: expected 2^{_LOWEST_EXPONENT} to 2^{_HIGHEST_EXPONENT}."
        )
    numbers = np.ldexp(steps.counts.astype(np.float32), steps.exponent)
    return np.asarray(numbers, dtype=np.float32).reshape(steps.counts.shape)


def same_bits(left: NDArray[np.float32], right: NDArray[np.float32]) -> bool:
    """Say whether two arrays are the same to the last bit, the sign of zero included."""
    return left.shape == right.shape and np.array_equal(_bits(left), _bits(right))


def _bits(array: NDArray[np.float32]) -> NDArray[np.uint32]:
    return np.ascontiguousarray(array).view(np.uint32)


def _rounded(array: NDArray[np.float32], precision: Precision) -> NDArray[np.float32]:
    whole = np.where(np.abs(array) < SMALLEST_NORMAL, np.float32(0.0), array)
    whole = whole.astype(np.float32).reshape(array.shape)
    if precision == "bfloat16":
        return from_bfloat16(to_bfloat16(whole))
    if precision == "int8" and np.isfinite(whole).all():
        return from_steps(to_steps(whole))
    return whole
