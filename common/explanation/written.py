"""Numbers as they are written: at most six significant digits, so that a reader can do sums again.

What is derived (a share, a probability, a sentence) is derived from the written numbers and not
from what stood behind them.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

DIGITS = 6
SMALLEST = 1e-12  # below it a float of the network holds nothing but rounding
# All powers that a double holds: looking them up is twenty times faster.
_POWERS = 10.0 ** np.arange(309, dtype=np.float64)
_NOT_FINITE = (
    "an explanation holds finite numbers only, got NaN or infinity; "
    "the network's weights or the picture are damaged."
)


def written(value: float) -> float:
    """Return a number as it is written. Raises ValueError for what is not finite."""
    # A hundred of them in an explanation: formatting one is fifty times faster than numpy's way.
    if not math.isfinite(value):
        raise ValueError(_NOT_FINITE)
    return float(f"{value:.{DIGITS}g}") if abs(value) >= SMALLEST else 0.0


def written_all(values: ArrayLike) -> tuple[float, ...]:
    """Return numbers of any shape, row by row, as they are written.

    Raises ValueError for what is not finite: an explanation holds no such number.
    """
    exact: NDArray[np.float64] = np.asarray(values, dtype=np.float64).ravel()
    if not np.isfinite(exact).all():
        raise ValueError(_NOT_FINITE)
    size = np.abs(exact)
    tiny = size < SMALLEST
    size = np.where(tiny, 1.0, size)
    places = DIGITS - 1 - np.floor(np.log10(size)).astype(np.int64)
    # Whole numbers below 10^6 over exact powers of ten (10^22 is the last): the division gives the
    # double nearest to the decimal, which is the one that JSON reads back.
    up, down = _POWERS[np.maximum(places, 0)], _POWERS[np.maximum(-places, 0)]
    rounded = np.rint(exact / down * up) / up * down
    rows: Sequence[float] = np.where(tiny, 0.0, rounded).tolist()
    return tuple(rows)
