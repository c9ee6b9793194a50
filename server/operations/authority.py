"""The federation's certificate authority, and the server certificates that it vouches for."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from common.errors import TrustError
from common.messages.certificates import general_name, read_certificates

CLOCK_SKEW = timedelta(hours=1)  # hospitals' clocks run behind: new certificates must not be early


@dataclass(frozen=True)
class Identity:
    """A certificate with the private key that it speaks for."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def key_pem(self) -> bytes:
        """The private key as a file's content."""
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def certificate_pem(self) -> bytes:
        """The certificate as a file's content."""
        return self.certificate.public_bytes(Encoding.PEM)


def new_authority(federation: str, *, days: int, now: datetime) -> Identity:
    """Return an authority with a new key, which may sign servers' certificates and nothing else."""
    key = ec.generate_private_key(ec.SECP256R1())
    # Authorities of one federation must not share a name: OpenSSL finds them by it.
    name = _name(f"Fovea {now:%Y-%m-%dT%H:%M:%S} {federation}")
    builder = _builder(key.public_key(), name, name, begins=now - CLOCK_SKEW)
    builder = (
        builder.not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(_issuer_mark(key.public_key()), critical=False)
    )
    return Identity(key, builder.sign(key, hashes.SHA256()))


def new_server(authority: Identity, names: Sequence[str], *, days: int, now: datetime) -> Identity:
    """Return a server's certificate for these names and addresses, with a new key.

    It never outlives its authority. Raises TrustError when the authority's own time is over.
    """
    ends = authority.certificate.not_valid_after_utc
    if now >= ends:
        raise TrustError(
            f"the certificate authority expired on {ends:%Y-%m-%d} and cannot vouch for a server. "
            "Make a new one with `fovea renew authority`; every site takes a new kit."
        )
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(
        key.public_key(), _name(names[0]), authority.certificate.subject, begins=now - CLOCK_SKEW
    )
    alternatives = x509.SubjectAlternativeName([general_name(name) for name in names])
    builder = (
        builder.not_valid_after(min(now + timedelta(days=days), ends))
        .add_extension(alternatives, critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(_issuer_mark(authority.key.public_key()), critical=False)
    )
    return Identity(key, builder.sign(authority.key, hashes.SHA256()))


def read_identity(key_file: Path, certificate_file: Path) -> Identity:
    """Return a private key with the first certificate of a file.

    Raises TrustError when one cannot be read, the key is open to others, or they do not belong
    together.
    """
    try:
        mode = key_file.stat().st_mode & 0o777
        key = load_pem_private_key(key_file.read_bytes(), password=None)
    except OSError as error:
        raise TrustError(
            f"{key_file}: the key cannot be read ({error.strerror}). Restore it from the backup."
        ) from error
    except (ValueError, TypeError) as error:
        raise TrustError(f"{key_file}: not an open private key in PEM.") from error
    if mode & 0o077:
        raise TrustError(f"{key_file}: others can read this key (mode {mode:o}). chmod 600 it.")
    certificate = read_certificates(certificate_file)[0]
    if not isinstance(key, ec.EllipticCurvePrivateKey) or (
        certificate.public_key() != key.public_key()
    ):
        raise TrustError(
            f"{certificate_file}: is not the certificate of {key_file}. Restore both from one "
            "backup."
        )
    return Identity(key, certificate)


def was_issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Say whether an authority's name and key stand behind a certificate."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, InvalidSignature):
        return False
    return True


def _builder(
    key: ec.EllipticCurvePublicKey, subject: x509.Name, issuer: x509.Name, *, begins: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _issuer_mark(key: ec.EllipticCurvePublicKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
