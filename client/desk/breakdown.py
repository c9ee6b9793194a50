"""What a failure inside the site looks like from outside: a kind, never the text.

An exception's text may quote a file or a patient. It goes to the site's own log; the coordinator
is told the kind of the failure and whether asking again may help.
"""

import errno

from client.trust.signed_request import Denial
from common.errors import (
    AuditError,
    ConfigError,
    DataError,
    FoveaError,
    LedgerError,
    ModelError,
    SiteError,
    TrustError,
    WireError,
)
from common.messages.kinds import RefusalCode

_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


_TOLD: dict[type[FoveaError], tuple[RefusalCode, str]] = {
    DataError: (RefusalCode.UNABLE, "its data or records cannot be used; its log says why"),
    ModelError: (RefusalCode.UNABLE, "it cannot build the network; its log says why"),
    LedgerError: (RefusalCode.UNAVAILABLE, "its privacy ledger needs a person to look at it"),
    AuditError: (RefusalCode.UNAVAILABLE, "its audit log needs a person to look at it"),
    ConfigError: (RefusalCode.UNAVAILABLE, "its own settings cannot be used; its log says why"),
    TrustError: (RefusalCode.UNAVAILABLE, "its own keys cannot be used; its log says why"),
    SiteError: (RefusalCode.UNAVAILABLE, "a part of it broke down; its log says why"),
}


def denial_of(error: Exception) -> Denial:
    """Return how a failure is told to the coordinator."""
    if isinstance(error, WireError):
        # Its message names keys of the request, which came from there.
        return Denial(RefusalCode.UNREADABLE, f"it cannot read the request: {error}")
    for kind, (code, reason) in _TOLD.items():
        if isinstance(error, kind):
            return Denial(code, reason)
    if isinstance(error, OSError) and error.errno in _DISK_FULL:
        return Denial(RefusalCode.UNAVAILABLE, "its disk is full")
    # By name: torch's own error is raised where there is a GPU, and torch is not loaded here.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return Denial(RefusalCode.UNAVAILABLE, "its memory is full")
    return Denial(RefusalCode.UNABLE, f"{type(error).__name__}; its log says more")
