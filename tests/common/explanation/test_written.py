"""Numbers are written with six significant digits, alone or in rows, and read back the same."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.explanation.written import SMALLEST, written, written_all

numbers = st.floats(min_value=-1e12, max_value=1e12).filter(lambda x: abs(x) > 1e-11)


def digits(value: float) -> int:
    mantissa = repr(value).lower().split("e")[0].replace(".", "").replace("-", "")
    return len(mantissa.strip("0"))


@given(numbers)
def test_a_number_keeps_six_digits_and_is_near(value: float) -> None:
    kept = written(value)

    assert digits(kept) <= 6
    assert math.isclose(kept, value, rel_tol=5.1e-6)
    assert json.loads(json.dumps(kept)) == kept


@given(st.lists(numbers, min_size=1, max_size=40))
def test_rows_are_written_like_single_numbers_but_for_halves(values: list[float]) -> None:
    for row, value in zip(written_all(values), values, strict=True):
        # Five at the seventh digit may go either way: binary fractions are not decimal ones.
        assert digits(row) <= 6
        assert math.isclose(row, written(value), rel_tol=1.1e-5)
        assert row == written(row)


def test_known_numbers() -> None:
    values = [0.123456789, -123456.789, 2.0, 1e-5, 1234567.0, 0.0, 1e-13]
    wanted = [0.123457, -123457.0, 2.0, 1e-5, 1234570.0, 0.0, 0.0]

    assert list(written_all(values)) == wanted
    assert [written(value) for value in values] == wanted


def test_maps_are_written_row_by_row() -> None:
    assert written_all(np.arange(6.0).reshape(2, 3)) == (0.0, 1.0, 2.0, 3.0, 4.0, 5.0)


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused(broken: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        written(broken)
    with pytest.raises(ValueError, match="finite"):
        written_all([1.0, broken])


def test_rounding_noise_is_nothing() -> None:
    assert written(SMALLEST / 2) == 0.0
    assert written_all([SMALLEST / 2, SMALLEST * 2]) == (0.0, SMALLEST * 2)
