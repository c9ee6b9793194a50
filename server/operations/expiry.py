"""Says which of the coordinator's certificates have run out or soon will."""

from datetime import datetime, timedelta

from common.messages.certificates import read_certificates
from server.operations.home import CoordinatorHome

NOTICE = timedelta(days=30)


def expired_certificates(home: CoordinatorHome, now: datetime) -> tuple[str, ...]:
    """Return a sentence for each certificate that is over, with its remedy.

    Raises TrustError when one cannot be read.
    """
    return tuple(
        f"{name} has expired on {until:%Y-%m-%d}, no site can connect: fovea renew {what}, then "
        "restart fovea serve"
        for what, name, until in _ends(home)
        if until <= now
    )


def certificate_warnings(home: CoordinatorHome, now: datetime) -> tuple[str, ...]:
    """Return a sentence for each certificate that soon will be over, with its remedy.

    Raises TrustError when one cannot be read.
    """
    return tuple(
        f"{name} expires on {until:%Y-%m-%d}: fovea renew {what}"
        for what, name, until in _ends(home)
        if now < until < now + NOTICE
    )


def _ends(home: CoordinatorHome) -> list[tuple[str, str, datetime]]:
    """Return what is renewed, its file's name, and when it is over."""
    files = (("server", home.server_certificate), ("authority", home.authority))
    return [
        (what, path.name, read_certificates(path)[0].not_valid_after_utc) for what, path in files
    ]
