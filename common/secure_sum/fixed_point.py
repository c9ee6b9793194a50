"""Real numbers as whole numbers modulo 2^32, so that masks can be added and taken off again.

A number x with |x| ≤ bound becomes round(x · scale) with scale = limit / bound and
limit = ⌊(2^31 − 1) / sites⌋. So many numbers never leave ±(2^31 − 1) when they are added: the sum
modulo 2^32, read as a signed number, is the sum itself.

The error: each of K ≤ sites numbers is rounded by at most 1 / (2·scale), so their sum is off by at
most K·bound / (2·limit), which is about K·sites·bound / 2^32.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.errors import DataError

LARGEST_SUM = 2**31 - 1


@dataclass(frozen=True)
class FixedPoint:
    """How numbers of one kind are written, for sums over at most so many sites."""

    sites: int
    bound: float  # no number is larger in size

    @property
    def limit(self) -> int:
        """The largest whole number that one site adds."""
        return LARGEST_SUM // self.sites

    @property
    def scale(self) -> float:
        """Steps per unit."""
        return self.limit / self.bound

    def largest_error(self, added: int) -> float:
        """Return by how much the sum of so many numbers may be off, in units of the numbers."""
        return added / (2 * self.scale)

    def encode(self, values: NDArray[np.floating], *, factor: float = 1.0) -> NDArray[np.uint32]:
        """Return round(factor · values · scale) modulo 2^32, in the values' shape.

        Raises DataError for what is beyond the bound or not finite.
        """
        steps = np.multiply(values, factor * self.scale, dtype=np.float64)
        np.rint(steps, out=steps)
        largest = max(float(steps.max()), -float(steps.min())) if steps.size else 0.0
        if not largest <= self.limit:  # so that NaN is refused as well
            raise DataError(
                f"a number of size {largest / self.scale:.6g} cannot be summed: expected a finite "
                f"one of at most {self.bound:.6g}. Scale the update down first."
            )
        coded: NDArray[np.uint32] = steps.astype(np.int32).view(np.uint32)
        return coded

    def decode(self, sums: NDArray[np.uint32]) -> NDArray[np.float64]:
        """Return the sum of the numbers, in the shape of what was summed modulo 2^32."""
        signed: NDArray[np.int32] = np.ascontiguousarray(sums).view(np.int32)
        return np.divide(signed, self.scale, dtype=np.float64)
