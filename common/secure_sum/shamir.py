"""A secret in shares, of which a set number opens it and fewer say nothing at all.

Shamir 1979, "How to share a secret", https://doi.org/10.1145/359168.359176: the secret is the value
at 0 of a polynomial of degree threshold − 1, drawn at random, over the whole numbers modulo a
prime; share number x is its value at x = 1, 2, … Secrets of 32 bytes are shared with a check
beside them, so that a wrong share is noticed when they are put together again.
"""

import hashlib
import secrets
from collections.abc import Collection, Mapping

from common.errors import AggregationError

PRIME = 2**521 - 1  # a Mersenne prime; room for a secret and its check

SECRET_BYTES = 32
_CHECK_BYTES = 16


def split(secret: int, *, threshold: int, shares: int, prime: int = PRIME) -> tuple[int, ...]:
    """Return shares 1, 2, … of a secret in [0, prime), any ``threshold`` of which open it."""
    if not 0 <= secret < prime:
        raise ValueError(f"the secret must lie in [0, {prime:#x}).")
    if not 1 <= threshold <= shares < prime:
        raise ValueError(f"cannot ask for {threshold} of {shares} shares.")
    rest = [secrets.randbelow(prime) for _ in range(threshold - 1)]
    polynomial = (secret, *rest)
    return tuple(_value_at(x, polynomial, prime) for x in range(1, shares + 1))


def coefficients(numbers: Collection[int], *, at: int = 0, prime: int = PRIME) -> dict[int, int]:
    """Return by what the shares of these numbers are multiplied to give the polynomial's value.

    Lagrange's formula; it depends on who gives shares alone, so one table opens all secrets of the
    same givers.
    """
    table = {}
    for here in numbers:
        above, below = 1, 1
        for other in numbers:
            if other != here:
                above = above * (at - other) % prime
                below = below * (here - other) % prime
        table[here] = above * pow(below, -1, prime) % prime
    return table


def combine(shares: Mapping[int, int], factors: Mapping[int, int], *, prime: int = PRIME) -> int:
    """Return Σ factor · share, the polynomial's value for which the factors were made."""
    return sum(factor * shares[number] for number, factor in factors.items()) % prime


def with_check(secret: bytes, context: str) -> int:
    """Return a secret of 32 bytes and a check of what it is for, as one number to be split."""
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"expected a secret of {SECRET_BYTES} bytes, got {len(secret)}.")
    return int.from_bytes(secret + _check(secret, context), "big")


def without_check(number: int, context: str) -> bytes:
    """Return the secret of a number that shares gave. Raises AggregationError for a wrong one."""
    size = SECRET_BYTES + _CHECK_BYTES
    if number < 2 ** (8 * size):
        whole = number.to_bytes(size, "big")
        secret, check = whole[:SECRET_BYTES], whole[SECRET_BYTES:]
        if check == _check(secret, context):
            return secret
    raise AggregationError("its shares do not fit together")


def _value_at(x: int, polynomial: tuple[int, ...], prime: int) -> int:
    value = 0
    for coefficient in reversed(polynomial):
        value = (value * x + coefficient) % prime
    return value


def _check(secret: bytes, context: str) -> bytes:
    # Fewer than the threshold of shares say nothing of the secret, and so nothing of this either.
    return hashlib.sha256(secret + context.encode()).digest()[:_CHECK_BYTES]
