"""Fewer bits, rounded as they should be, and once rounded kept to the last bit."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from common.errors import WireError
from common.messages.packed import pack_rounded, unpack_rounded
from common.messages.precision import (
    PRECISIONS,
    SMALLEST_NORMAL,
    Precision,
    from_bfloat16,
    from_steps,
    rounded,
    same_bits,
    to_bfloat16,
    to_steps,
)

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
shapes = array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5)
any_arrays = arrays(np.float32, shapes, elements=finite)
any_bits = arrays(np.uint32, st.integers(1, 64))


@settings(deadline=None)  # torch loads with the first example
@given(any_bits)
def test_bfloat16_is_torchs_bit_for_bit(bits: np.ndarray) -> None:
    numbers = bits.view(np.float32)
    expected = torch.from_numpy(numbers.copy()).to(torch.bfloat16)

    found = to_bfloat16(numbers)

    told = torch.from_numpy(found.copy()).view(torch.bfloat16)
    torch.testing.assert_close(told, expected, rtol=0, atol=0, equal_nan=True)
    assert np.array_equal(from_bfloat16(found), expected.float().numpy(), equal_nan=True)


@given(any_arrays, st.sampled_from(PRECISIONS))
def test_what_is_rounded_travels_to_the_last_bit_and_rounds_to_itself(
    array: np.ndarray, precision: Precision
) -> None:
    once = rounded({"a": array, "b": array.T}, precision)

    arrived = unpack_rounded(pack_rounded(once, precision=precision), precision=precision)

    assert list(arrived) == ["a", "b"]
    assert all(same_bits(arrived[name], once[name]) for name in once)
    again = rounded(once, precision)
    assert all(same_bits(again[name], once[name]) for name in once)
    assert (once["a"].shape, once["b"].shape) == (array.shape, array.T.shape)


@given(any_arrays)
def test_int8_is_off_by_half_a_step_and_the_largest_by_one(array: np.ndarray) -> None:
    steps = to_steps(array)
    step = 2.0**steps.exponent

    found = from_steps(steps).astype(np.float64)

    off = np.abs(found - array.astype(np.float64))
    is_large = np.abs(array.astype(np.float64)) > 127 * step
    assert (off[~is_large] <= step / 2).all()
    assert (off[is_large] <= step).all()
    largest = np.max(np.abs(array), initial=0.0)
    assert largest < SMALLEST_NORMAL * 64 or 64 <= np.max(np.abs(steps.counts)) <= 127


def test_int8_of_a_small_array_by_hand() -> None:
    steps = to_steps(np.array([1.0, -0.5, 0.004, 0.99], dtype=np.float32))

    # The largest is 1 = 1/2 * 2^1: a step is 2^-6.
    assert (steps.counts.tolist(), steps.exponent) == ([64, -32, 0, 63], -6)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_subnormal_numbers_become_zero(precision: Precision) -> None:
    tiny = np.array([1e-40, -1e-45, SMALLEST_NORMAL, 0.0], dtype=np.float32)

    found = rounded({"a": tiny}, precision)["a"]

    assert found.tolist() == [0.0, 0.0, SMALLEST_NORMAL, 0.0]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_int8_holds_no_number_that_is_not_finite(bad: float) -> None:
    kept = rounded({"a": np.array([1.0, bad], dtype=np.float32)}, "int8")

    assert np.array_equal(kept["a"], np.array([1.0, bad], dtype=np.float32), equal_nan=True)
    with pytest.raises(WireError, match=r"arrays\.a: .* not finite"):
        pack_rounded(kept, precision="int8")
