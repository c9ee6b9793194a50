"""Says in time which of the coordinator's certificates run out."""

from datetime import datetime, timedelta

from common.certificates import read_certificates
from server.operations.home import CoordinatorHome

NOTICE = timedelta(days=30)


def certificate_warnings(home: CoordinatorHome, now: datetime) -> tuple[str, ...]:
    """Return a sentence for each certificate that is over or soon will be, with its remedy.

    Raises TrustError when one cannot be read.
    """
    warnings = []
    for what, path in (
        ("server", home.server_certificate),
        ("authority", home.authority),
    ):
        until = read_certificates(path)[0].not_valid_after_utc
        if until - now < NOTICE:
            says = "has expired" if until <= now else "expires"
            day = f"{until:%Y-%m-%d}"
            warnings.append(f"{path.name} {says} on {day}: fovea renew {what}")
    return tuple(warnings)
