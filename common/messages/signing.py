"""Ed25519 signatures over canonical JSON, and the key files they need.

A signature never stands for bytes alone: every statement names what it is for, so that one made
for a manifest cannot be shown as one for a request.
"""

import base64
import binascii
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from pydantic import JsonValue

from common.errors import TrustError
from common.files.whole_file import sync_folder

_PREFIX = "ed25519:"  # before a public key's text


class PublicKey:
    """The half of a key that others pin."""

    def __init__(self, key: Ed25519PublicKey) -> None:
        """Take the key."""
        self._key = key

    @property
    def text(self) -> str:
        """The key as one line of text, ``ed25519:`` and base64."""
        raw = self._key.public_bytes(Encoding.Raw, PublicFormat.Raw)
        return _PREFIX + base64.b64encode(raw).decode()

    @property
    def fingerprint(self) -> str:
        """The key as people compare it: 128 bits of its SHA-256, eight groups of four digits."""
        raw = self._key.public_bytes(Encoding.Raw, PublicFormat.Raw)
        digits = hashlib.sha256(raw).hexdigest()[:32]
        return " ".join(digits[start : start + 4] for start in range(0, 32, 4))

    def verify(self, purpose: str, statement: Mapping[str, JsonValue], signature: str) -> None:
        """Raise TrustError when the signature is not this key's for this purpose and statement."""
        try:
            raw = base64.b64decode(signature, validate=True)
            self._key.verify(raw, _signed_bytes(purpose, statement))
        except (InvalidSignature, binascii.Error, ValueError) as error:
            raise TrustError(f"{purpose}: the signature is not of the pinned key.") from error


class PrivateKey:
    """The half of a key that never leaves its machine."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        """Take the key."""
        self._key = key

    @classmethod
    def new(cls) -> "PrivateKey":
        """Return a new key."""
        return cls(Ed25519PrivateKey.generate())

    @property
    def public(self) -> PublicKey:
        """The half that may travel."""
        return PublicKey(self._key.public_key())

    def sign(self, purpose: str, statement: Mapping[str, JsonValue]) -> str:
        """Return the base64 signature; equal statements always get equal signatures."""
        return base64.b64encode(self._key.sign(_signed_bytes(purpose, statement))).decode()

    @property
    def pem(self) -> bytes:
        """The key as a file's content."""
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def write(self, path: Path) -> None:
        """Write a key file that only its owner can read. Raises TrustError where one stands."""
        write_secret(path, self.pem)


def read_private_key(path: Path) -> PrivateKey:
    """Read a key file. Raises TrustError when it is missing, open to others or no Ed25519 key."""
    try:
        mode = path.stat().st_mode & 0o777
        content = path.read_bytes()
    except OSError as error:
        raise TrustError(f"{path}: the key cannot be read ({error.strerror}).") from error
    if mode & 0o077:
        raise TrustError(f"{path}: others can read this key (mode {mode:o}). chmod 600 it.")
    try:
        key = load_pem_private_key(content, password=None)
    except ValueError as error:
        raise TrustError(f"{path}: not a private key in PEM.") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise TrustError(f"{path}: not an Ed25519 key.")
    return PrivateKey(key)


def public_key(text: str) -> PublicKey:
    """Return the key that a line of text stands for. Raises TrustError when it is none."""
    text = text.strip()
    try:
        if not text.startswith(_PREFIX):
            raise ValueError("no prefix")
        raw = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
        return PublicKey(Ed25519PublicKey.from_public_bytes(raw))
    except ValueError as error:
        raise TrustError(
            f"{text[:60]!r} is no public key: expected '{_PREFIX}' and 44 base64 characters."
        ) from error


def read_public_key(path: Path) -> PublicKey:
    """Read a file that holds a public key's text. Raises TrustError when it does not."""
    try:
        return public_key(path.read_text(encoding="ascii"))
    except (OSError, UnicodeDecodeError) as error:
        raise TrustError(f"{path}: the public key cannot be read ({error}).") from error


def write_secret(path: Path, content: bytes) -> None:
    """Write a file of mode 0600, whole and durable. Raises TrustError where a file stands."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # Unlike a rename, fails where a file stands.
        os.link(temporary, path, follow_symlinks=False)
    except FileExistsError as error:
        raise TrustError(f"{path}: exists; a key is never overwritten. Move it away.") from error
    finally:
        Path(temporary).unlink()
    sync_folder(path.parent)


def canonical(value: JsonValue | Mapping[str, JsonValue]) -> str:
    """Return JSON with sorted keys and no spaces, the one form that is signed and digested."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _signed_bytes(purpose: str, statement: Mapping[str, JsonValue]) -> bytes:
    return canonical({"purpose": purpose, "statement": dict(statement)}).encode()
