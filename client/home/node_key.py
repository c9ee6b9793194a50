"""The node's key: who may connect. ECDSA P-384 in OpenSSH format, the only one Flower reads."""

from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)

from common.errors import TrustError
from common.messages.signing import write_secret


def make_node_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Write a new key, mode 0600, and return it. Raises TrustError where a file stands."""
    key = ec.generate_private_key(ec.SECP384R1())
    write_secret(path, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    return key


def read_node_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Read the key. Raises TrustError when it is missing, open to others or of another kind."""
    try:
        mode = path.stat().st_mode & 0o777
        content = path.read_bytes()
    except OSError as error:
        raise TrustError(
            f"{path}: the node's key cannot be read ({error.strerror}). `fovea-site init` makes it."
        ) from error
    if mode & 0o077:
        raise TrustError(f"{path}: others can read this key (mode {mode:o}). chmod 600 it.")
    try:
        key = load_ssh_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise TrustError(f"{path}: not an open private key in OpenSSH format.") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
        raise TrustError(f"{path}: not an ECDSA P-384 key (ssh-keygen -t ecdsa -b 384).")
    return key


def public_line(key: ec.EllipticCurvePrivateKey) -> str:
    """Return the half that may travel, as one OpenSSH line."""
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
