"""Masks cancel in the sum and hide each part of it; keystreams are those of the standards."""

import itertools

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB
from numpy.typing import NDArray

from common.errors import TrustError
from common.secure_sum.masks import (
    MaskPlace,
    add_pair_mask,
    add_self_mask,
    agreed,
    as_base64,
    derived,
    new_key,
    public_half,
    remove_pair_mask,
    remove_self_mask,
)

PLACE = MaskPlace(run="r", server_round=3, group="trunk", roster="0")
SIZE = 2**17 + 5  # more than one piece, and not whole blocks


def vectors(sites: str, size: int = SIZE) -> dict[str, NDArray[np.uint32]]:
    rng = np.random.default_rng(0)
    return {site: rng.integers(0, 2**32, size, dtype=np.uint32) for site in sites}


def masked(
    plain: dict[str, NDArray[np.uint32]], keys: dict[str, bytes], seeds: dict[str, bytes]
) -> dict[str, NDArray[np.uint32]]:
    under = {site: vector.copy() for site, vector in plain.items()}
    for site, peer in itertools.permutations(plain, 2):
        agreement = agreed(keys[site], public_half(keys[peer]))
        add_pair_mask(under[site], agreement, site=site, peer=peer, place=PLACE)
    for site, seed in seeds.items():
        add_self_mask(under[site], seed, site=site, place=PLACE)
    return under


def test_masked_vectors_add_up_to_the_plain_sum() -> None:
    plain = vectors("cabd")
    keys, seeds = {s: new_key() for s in plain}, {s: new_key() for s in plain}
    under = masked(plain, keys, seeds)
    total = np.sum(list(under.values()), axis=0, dtype=np.uint32)
    for site, seed in seeds.items():
        remove_self_mask(total, seed, site=site, place=PLACE)
    expected = np.sum([v.astype(np.uint64) for v in plain.values()], axis=0) % 2**32
    np.testing.assert_array_equal(total, expected.astype(np.uint32))


def test_the_masks_of_one_who_dropped_out_come_off() -> None:
    plain = vectors("abc", 100)
    keys, seeds = {s: new_key() for s in plain}, dict.fromkeys("abc", bytes(32))
    under = masked(plain, keys, seeds)
    total = under["a"] + under["c"]
    for site in "ac":
        agreement = agreed(keys["b"], public_half(keys[site]))
        remove_pair_mask(total, agreement, site=site, peer="b", place=PLACE)
        remove_self_mask(total, seeds[site], site=site, place=PLACE)
    np.testing.assert_array_equal(total, plain["a"] + plain["c"])


def test_one_masked_vector_alone_looks_drawn_at_random() -> None:
    zeros = {site: np.zeros(2**18, np.uint32) for site in "ab"}
    under = masked(zeros, {s: new_key() for s in "ab"}, {s: new_key() for s in "ab"})
    octets = np.bincount(under["a"].view(np.uint8), minlength=256)
    expected = under["a"].nbytes / 256
    chi_square = ((octets - expected) ** 2 / expected).sum()
    assert 130 < chi_square < 420  # 255 degrees of freedom, mean 255, deviation 23
    assert len(np.unique(under["a"])) > 0.9998 * under["a"].size
    shared = np.corrcoef(under["a"].astype(float), under["b"].astype(float))[0, 1]
    assert abs(shared + 1) > 0.5  # self-masks: the pair's sum is not zero either


def test_the_keystream_is_aes_in_counter_mode() -> None:
    vector = np.zeros(6, np.uint32)
    seed = new_key()
    add_self_mask(vector, seed, site="a", place=PLACE)
    info = {
        "purpose": "fovea secure sum self mask v1",
        "run": "r",
        "round": 3,
        "group": "trunk",
        "roster": "0",
        "site": "a",
    }
    block = Cipher(AES(derived(seed, info)), ECB()).encryptor()  # noqa: S305 - one counter block
    stream = b"".join(block.update(n.to_bytes(16, "big")) for n in range(2))
    np.testing.assert_array_equal(vector, np.frombuffer(stream, "<u4")[:6])


def test_every_use_has_its_own_mask() -> None:
    secret, seen = new_key(), set()
    places = [
        PLACE,
        MaskPlace("s", 3, "trunk", "0"),
        MaskPlace("r", 4, "trunk", "0"),
        MaskPlace("r", 3, "chestx", "0"),
        MaskPlace("r", 3, "trunk", "1"),
    ]
    for place in places:
        for site, peer in (("a", "b"), ("a", "c")):
            vector = np.zeros(4, np.uint32)
            add_pair_mask(vector, secret, site=site, peer=peer, place=place)
            seen.add(vector.tobytes())
        vector = np.zeros(4, np.uint32)
        add_self_mask(vector, secret, site="a", place=place)
        seen.add(vector.tobytes())
    assert len(seen) == 3 * len(places)


def test_two_sites_agree_and_a_worthless_key_is_refused() -> None:
    one, other = new_key(), new_key()
    assert agreed(one, public_half(other)) == agreed(other, public_half(one))
    published = X25519PrivateKey.from_private_bytes(other).public_key()
    assert agreed(one, public_half(other)) == X25519PrivateKey.from_private_bytes(one).exchange(
        published
    )
    with pytest.raises(TrustError, match="X25519"):
        agreed(one, as_base64(bytes(32)))
