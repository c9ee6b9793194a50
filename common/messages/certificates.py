"""Reads the certificates that a federation pins, and the fingerprints people compare by voice."""

import hashlib
import ipaddress
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from common.errors import TrustError


def read_certificates(path: Path) -> tuple[x509.Certificate, ...]:
    """Return the certificates of a PEM file in their order. Raises TrustError when it has none."""
    try:
        return tuple(x509.load_pem_x509_certificates(path.read_bytes()))
    except OSError as error:
        raise TrustError(f"{path}: the certificate cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise TrustError(f"{path}: holds no certificate in PEM.") from error


def read_authorities(path: Path) -> tuple[x509.Certificate, ...]:
    """Return the authorities of a PEM file, the current one first. Raises TrustError."""
    certificates = read_certificates(path)
    for certificate in certificates:
        if not is_authority(certificate):
            name = certificate.subject.rfc4514_string()
            raise TrustError(f"{path}: {name} is not a certificate authority. Ask for a new kit.")
    return certificates


def is_authority(certificate: x509.Certificate) -> bool:
    """Say whether a certificate may sign others."""
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def certificate_names(certificate: x509.Certificate) -> tuple[str, ...]:
    """Return the host names and addresses that a certificate stands for."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return ()
    names = extension.value.get_values_for_type(x509.DNSName)
    return (*names, *map(str, extension.value.get_values_for_type(x509.IPAddress)))


def check_server_certificate(
    certificate: x509.Certificate,
    authorities: Sequence[x509.Certificate],
    *,
    host: str,
    now: datetime,
) -> None:
    """Raise TrustError unless an authority vouches for this server, this host and this moment."""
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < begins:
        raise TrustError(
            f"the server's certificate is valid only from {begins:%Y-%m-%d %H:%M} UTC: compare "
            "this machine's clock with the coordinator's."
        )
    if now > ends:
        raise TrustError(
            f"the server's certificate expired on {ends:%Y-%m-%d}: the coordinator renews it with "
            "`fovea renew server`."
        )
    name = general_name(host)
    policy = PolicyBuilder().store(Store(list(authorities))).time(now)
    try:
        policy.build_server_verifier(name).verify(certificate, [])
    except VerificationError as error:
        raise TrustError(
            f"the server's certificate for {host} cannot be trusted: {error}. Compare the "
            "fingerprint of ca.crt with the coordinator's by telephone."
        ) from error


def general_name(host: str) -> x509.DNSName | x509.IPAddress:
    """Return a host as certificates write it."""
    return x509.IPAddress(ipaddress.ip_address(host)) if is_address(host) else x509.DNSName(host)


def is_address(host: str) -> bool:
    """Say whether a host is written as an IP address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def certificate_fingerprint(certificate: x509.Certificate) -> str:
    """Return what ``openssl x509 -noout -fingerprint -sha256`` shows, for a call by telephone."""
    return certificate.fingerprint(hashes.SHA256()).hex(":").upper()


def line_fingerprint(line: str) -> str:
    """Return what ``sha256sum`` shows for a file that holds this one line, e.g. a public key."""
    return hashlib.sha256(f"{line}\n".encode()).hexdigest()
