"""Letters between two sites that the coordinator carries and cannot read.

The sites' letter keys of the run → X25519 → HKDF-SHA256 → ChaCha20-Poly1305 (RFC 8439) under a
random nonce. The key is of one run, round, sender and recipient; who the members are is
authenticated beside the content.
"""

import base64
import binascii
import os
from collections.abc import Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from pydantic import ValidationError

from common.config.run import Section
from common.errors import TrustError
from common.messages.manifest import Digest, RunName, Slug
from common.messages.signing import canonical
from common.secure_sum.masks import as_base64, derived
from common.secure_sum.statements import Round, Share

_PURPOSE = "fovea secure sum letter v1"
_NONCE_BYTES = 12


class LetterPlace(Section):
    """Which letter it is."""

    run: RunName
    server_round: Round
    sender: Slug
    recipient: Slug
    members_digest: Digest


class Letter(Section):
    """The shares of a sender's secrets that its recipient keeps for it."""

    mask_key: Share
    self_seeds: Mapping[Slug, Share]  # group → share


def sealed(letter: Letter, agreement: bytes, place: LetterPlace) -> str:
    """Return a letter that only its recipient can open, base64."""
    nonce = os.urandom(_NONCE_BYTES)
    content = canonical(letter.model_dump(mode="json")).encode()
    closed = _cipher(agreement, place).encrypt(nonce, content, _beside(place))
    return as_base64(nonce + closed)


def opened(text: str, agreement: bytes, place: LetterPlace) -> Letter:
    """Return the letter. Raises TrustError when it is not the sender's, or not for this place."""
    try:
        whole = base64.b64decode(text, validate=True)
        nonce, closed = whole[:_NONCE_BYTES], whole[_NONCE_BYTES:]
        content = _cipher(agreement, place).decrypt(nonce, closed, _beside(place))
        return Letter.model_validate_json(content)
    except (InvalidTag, binascii.Error, ValidationError, ValueError) as error:
        raise TrustError(f"the letter of {place.sender} cannot be opened.") from error


def _cipher(agreement: bytes, place: LetterPlace) -> ChaCha20Poly1305:
    return ChaCha20Poly1305(derived(agreement, {"purpose": _PURPOSE, **place.model_dump()}))


def _beside(place: LetterPlace) -> bytes:
    return canonical(place.model_dump()).encode()
