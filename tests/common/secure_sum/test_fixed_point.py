"""Sums modulo 2^32 are the sums of the numbers, to within the stated error, and never overflow."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import DataError
from common.secure_sum.fixed_point import LARGEST_SUM, FixedPoint


@given(
    sites=st.integers(1, 200),
    bound=st.floats(1e-3, 1e4),
    shares=st.lists(st.floats(-1, 1), min_size=1, max_size=200),
)
def test_a_sum_is_off_by_no_more_than_stated(sites: int, bound: float, shares: list[float]) -> None:
    point = FixedPoint(sites, bound)
    values = [share * bound for share in shares[:sites]]
    total = np.zeros(1, np.uint32)
    for value in values:
        total += point.encode(np.array([value]))
    exact = sum(map(Fraction, values))
    stated = point.largest_error(len(values))
    assert abs(Fraction(float(point.decode(total)[0])) - exact) <= Fraction(stated * (1 + 1e-6))


@pytest.mark.parametrize("sites", [1, 3, 10, 100, 4097])
@pytest.mark.parametrize("sign", [-1, 1])
def test_the_largest_numbers_of_all_sites_do_not_overflow(sites: int, sign: int) -> None:
    point = FixedPoint(sites, 10.0)
    largest = point.encode(np.array([sign * 10.0]))
    total = np.zeros(1, np.uint32)
    for _ in range(sites):
        total += largest
    assert point.decode(total)[0] == pytest.approx(sign * 10.0 * sites)
    assert sites * point.limit <= LARGEST_SUM


@pytest.mark.parametrize("value", [10.001, -10.001, np.nan, np.inf, -np.inf])
def test_what_no_sum_can_hold_is_refused(value: float) -> None:
    with pytest.raises(DataError, match="cannot be summed"):
        FixedPoint(3, 10.0).encode(np.array([0.0, value]))


def test_rounding_is_to_the_nearest_step() -> None:
    point = FixedPoint(1, float(LARGEST_SUM))  # one step is one
    coded = point.encode(np.array([1.4, 1.6, -1.4, -1.6]))
    assert coded.view(np.int32).tolist() == [1, 2, -1, -2]
