"""Masks: numbers modulo 2^32 that look drawn at random, and cancel when all sites are added up.

Bonawitz et al. 2017, https://doi.org/10.1145/3133956.3133982, section 4: two sites agree on a mask
by X25519; the one whose name comes first adds it, the other takes it off. A second mask of a site's
own seed stays until enough sites help to take it off, so that an update that came late is not bare.

Agreement → HKDF-SHA256 (RFC 5869), its info naming purpose, run, round, roster, group and sites →
key of AES-256 in counter mode → keystream, four bytes a number, lowest first. A key serves one
mask. The roster is there so that masks do not cancel between sites that were told different things.
"""

import base64
import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from common.errors import TrustError
from common.messages.signing import canonical

KEY_BYTES = 32

_PAIR_PURPOSE = "fovea secure sum pair mask v1"
_SELF_PURPOSE = "fovea secure sum self mask v1"
_BLOCK_BYTES = 16  # of AES
_PIECE = 2**17  # numbers masked at once: what stays in a processor's cache


@dataclass(frozen=True)
class MaskPlace:
    """What a mask is for."""

    run: str
    server_round: int
    group: str
    roster: str  # statements.roster_digest: members, keys and context of the round


def new_key() -> bytes:
    """Return a fresh private X25519 key or seed from the operating system."""
    return os.urandom(KEY_BYTES)


def public_half(private: bytes) -> str:
    """Return the public X25519 key of a private one, base64."""
    return as_base64(X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw())


def agreed(private: bytes, public: str) -> bytes:
    """Return what two sites share by X25519 (RFC 7748), to derive keys from.

    Raises TrustError for a public key of which the answer would be known to everybody.
    """
    try:
        other = X25519PublicKey.from_public_bytes(base64.b64decode(public, validate=True))
        return X25519PrivateKey.from_private_bytes(private).exchange(other)
    except ValueError as error:
        raise TrustError("the X25519 key is none that anything can be agreed with.") from error


def derived(secret: bytes, info: Mapping[str, str | int]) -> bytes:
    """Return a key for one use, which the info names."""
    hkdf = HKDF(SHA256(), length=KEY_BYTES, salt=None, info=canonical(dict(info)).encode())
    return hkdf.derive(secret)


def add_pair_mask(
    vector: NDArray[np.uint32], agreement: bytes, *, site: str, peer: str, place: MaskPlace
) -> None:
    """Put onto a site's vector, in place, the mask that it shares with a peer."""
    first, last = sorted((site, peer))
    info = _info(_PAIR_PURPOSE, place) | {"first": first, "last": last}
    _add_stream(vector, derived(agreement, info), is_added=site == first)


def remove_pair_mask(
    vector: NDArray[np.uint32], agreement: bytes, *, site: str, peer: str, place: MaskPlace
) -> None:
    """Take off, in place, what :func:`add_pair_mask` put on."""
    # The peer's mask is the same with the other sign.
    add_pair_mask(vector, agreement, site=peer, peer=site, place=place)


def add_self_mask(vector: NDArray[np.uint32], seed: bytes, *, site: str, place: MaskPlace) -> None:
    """Put onto a site's vector, in place, the mask of its own seed."""
    _add_stream(vector, _self_key(seed, site, place), is_added=True)


def remove_self_mask(
    vector: NDArray[np.uint32], seed: bytes, *, site: str, place: MaskPlace
) -> None:
    """Take off, in place, what :func:`add_self_mask` put on."""
    _add_stream(vector, _self_key(seed, site, place), is_added=False)


def as_base64(content: bytes) -> str:
    """Return bytes as the statements hold them."""
    return base64.b64encode(content).decode()


def from_base64(text: str) -> bytes:
    """Return the bytes of a text that keeps its statement's pattern."""
    return base64.b64decode(text, validate=True)


def _self_key(seed: bytes, site: str, place: MaskPlace) -> bytes:
    return derived(seed, _info(_SELF_PURPOSE, place) | {"site": site})


def _info(purpose: str, place: MaskPlace) -> dict[str, str | int]:
    return {
        "purpose": purpose,
        "run": place.run,
        "round": place.server_round,
        "group": place.group,
        "roster": place.roster,
    }


def _add_stream(vector: NDArray[np.uint32], key: bytes, *, is_added: bool) -> None:
    # The key is of this mask alone, so the counter may begin at 0.
    encryptor = Cipher(AES(key), CTR(bytes(_BLOCK_BYTES))).encryptor()
    combine = np.add if is_added else np.subtract
    zeros = bytes(4 * _PIECE)
    buffer = bytearray(len(zeros) + _BLOCK_BYTES - 1)
    for start in range(0, vector.size, _PIECE):
        piece = vector[start : start + _PIECE]
        encryptor.update_into(memoryview(zeros)[: 4 * piece.size], buffer)
        stream = np.frombuffer(buffer, dtype="<u4", count=piece.size)
        combine(piece, stream, out=piece)  # modulo 2^32
