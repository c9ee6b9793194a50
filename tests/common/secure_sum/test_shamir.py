"""Enough shares give the secret, fewer fit every secret equally well: by other arithmetic."""

import itertools
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import AggregationError
from common.secure_sum.shamir import (
    PRIME,
    coefficients,
    combine,
    split,
    with_check,
    without_check,
)


def lagrange(points: dict[int, int], at: int, prime: int) -> int:
    """The value at a place of the polynomial through these points, by fractions and one inverse."""
    total = 0
    for x, y in points.items():
        factor = Fraction(1)
        for other in points:
            if other != x:
                factor *= Fraction(at - other, x - other)
        total += y * factor.numerator * pow(factor.denominator, prime - 2, prime)  # Fermat
    return total % prime


@st.composite
def cases(draw: st.DrawFn) -> tuple[int, int, list[int]]:
    shares = draw(st.integers(1, 12))
    threshold = draw(st.integers(1, shares))
    chosen = draw(st.permutations(range(1, shares + 1)))
    return threshold, shares, list(chosen)[:threshold]


@settings(max_examples=60)
@given(secret=st.integers(0, PRIME - 1), case=cases())
def test_any_threshold_of_the_shares_gives_the_secret(
    secret: int, case: tuple[int, int, list[int]]
) -> None:
    threshold, shares, chosen = case
    parts = split(secret, threshold=threshold, shares=shares)
    came = {number: parts[number - 1] for number in chosen}
    assert combine(came, coefficients(came)) == secret
    assert lagrange(came, 0, PRIME) == secret


def test_fewer_shares_fit_every_secret_equally_often() -> None:
    prime, threshold, shares = 5, 3, 4
    for numbers in itertools.combinations(range(1, shares + 1), threshold - 1):
        seen: dict[tuple[int, ...], set[int]] = {}
        for polynomial in itertools.product(range(prime), repeat=threshold):
            values = [
                sum(c * x**power for power, c in enumerate(polynomial)) % prime for x in numbers
            ]
            seen.setdefault(tuple(values), set()).add(polynomial[0])
        assert all(secrets == set(range(prime)) for secrets in seen.values())
        # And what split draws are such polynomials, all of them.
        drawn = Counter(
            tuple(split(1, threshold=threshold, shares=shares, prime=prime)[x - 1] for x in numbers)
            for _ in range(600)
        )
        assert len(drawn) == prime ** (threshold - 1)
        expected = 600 / len(drawn)
        chi_square = sum((count - expected) ** 2 / expected for count in drawn.values())
        assert chi_square < 70  # 24 degrees of freedom: exceeded once in 500 000 times


def test_a_value_elsewhere_is_found_from_the_same_shares() -> None:
    parts = split(12345, threshold=4, shares=9)
    came = {number: parts[number - 1] for number in (2, 3, 7, 9)}
    for place in (0, 1, 5):
        expected = 12345 if place == 0 else parts[place - 1]
        assert combine(came, coefficients(came, at=place)) == expected


def test_equal_secrets_are_split_differently_every_time() -> None:
    assert split(7, threshold=2, shares=3) != split(7, threshold=2, shares=3)


def test_a_checked_secret_comes_back_for_its_own_use_alone() -> None:
    secret = bytes(range(32))
    number = with_check(secret, "this")
    assert number < PRIME
    assert without_check(number, "this") == secret
    for wrong, use in ((number, "that"), (number ^ 1, "this"), (PRIME - 1, "this"), (0, "this")):
        with pytest.raises(AggregationError, match="do not fit"):
            without_check(wrong, use)


@pytest.mark.parametrize(("threshold", "shares"), [(0, 3), (4, 3)])
def test_impossible_divisions_are_refused(threshold: int, shares: int) -> None:
    with pytest.raises(ValueError, match="shares"):
        split(1, threshold=threshold, shares=shares)
