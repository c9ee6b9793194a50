"""How long one site is waited for, when it is asked again, and what is said when it is given up.

Pure: time enters as ``now``, in seconds of a clock that only goes forward.
"""

from collections.abc import Collection
from dataclasses import dataclass

from flwr.common.constant import ErrorCode

from common.messages.kinds import Refusal, RefusalCode
from server.exchange.participation import Outcome

FIRST_PAUSE_S = 1.0  # before a site that cannot just now is asked again; doubles each time
LONGEST_PAUSE_S = 10.0
TRIES = 3  # of a site whose process fails over and over

# The site's code ran and failed, or may not run: asking again would only repeat it.
_FINAL_ERRORS = frozenset(
    {
        ErrorCode.LOAD_CLIENT_APP_EXCEPTION,
        ErrorCode.CLIENT_APP_RAISED_EXCEPTION,
        ErrorCode.MOD_FAILED_PRECONDITION,
        ErrorCode.INVALID_FAB,
    }
)


@dataclass(frozen=True)
class NoAnswer:
    """A site of which nothing usable came."""

    site: str
    outcome: Outcome  # FAILED, REJECTED or MISSING
    reason: str


@dataclass(frozen=True)
class Patience:
    """How much of it there is in one conversation."""

    timeout_s: float  # for everything
    grace_s: float  # for a node that is away, and for a refusal that may pass
    passing: Collection[RefusalCode]  # refusals worth asking again


class Awaited:
    """One site from the first time it is asked until it has answered or is given up."""

    def __init__(self, site: str, patience: Patience, *, now: float) -> None:
        """Begin; the site is to be asked at once."""
        self._site = site
        self._patience = patience
        self._deadline = now + patience.timeout_s
        self._ask_at: float | None = now  # None: asked, nothing to do but wait
        self._asked_at: float | None = None  # last; None: never
        self._gone_since: float | None = None
        self._connection: str | None = None  # the one it was asked over
        self._refused_since: float | None = None
        self._pause_s = FIRST_PAUSE_S
        self._failures = 0
        self._last: Refusal | NoAnswer | None = None

    def see(self, connection: str | None, *, gone_since: float | None, now: float) -> None:
        """Take in over which connection its node is there; None: away, since when."""
        self._gone_since = gone_since if connection is None else None
        if connection is not None and self._ask_at is None and connection != self._connection:
            # It was away, however briefly, and what it was doing may be lost. If it is not, it
            # answers twice, and one answer is used.
            self._ask_at = now
        self._connection = connection

    def is_due(self, *, now: float) -> bool:
        """Say whether it is to be asked now."""
        return self._gone_since is None and self._ask_at is not None and now >= self._ask_at

    def asked(self, *, now: float) -> None:
        """Take in that it was asked."""
        self._ask_at, self._asked_at = None, now

    def not_reached(self, *, now: float) -> None:
        """Take in that its node was away after all, whatever was last known; ask again soon."""
        self._ask_at = now + FIRST_PAUSE_S

    def refused(self, refusal: Refusal, *, now: float) -> Refusal | None:
        """Take in a refusal; return it when it is final."""
        if refusal.code not in self._patience.passing:
            return refusal
        if self._refused_since is None or self._worked_until(now):
            self._refused_since, self._pause_s = now, FIRST_PAUSE_S
        if now - self._refused_since >= self._patience.grace_s:
            return refusal
        self._last = refusal
        self._ask_at, self._pause_s = now + self._pause_s, min(2 * self._pause_s, LONGEST_PAUSE_S)
        return None

    def failed(self, code: int, reason: str, *, now: float) -> NoAnswer | None:
        """Take in an error reply; return what to make of it when it is final."""
        self._failures += 1
        if code in _FINAL_ERRORS:
            return NoAnswer(self._site, Outcome.FAILED, reason)
        if self._failures >= TRIES:
            return NoAnswer(self._site, Outcome.FAILED, f"{reason} (asked {TRIES} times)")
        self._last = NoAnswer(self._site, Outcome.FAILED, reason)
        self._ask_at, self._pause_s = now + self._pause_s, min(2 * self._pause_s, LONGEST_PAUSE_S)
        return None

    def given_up(self, *, now: float) -> Refusal | NoAnswer | None:
        """Return what is said of the site when it is waited for no longer, None while it is."""
        grace_s = self._patience.grace_s
        is_over = now >= self._deadline
        if self._gone_since is not None:
            if now - self._gone_since >= grace_s:
                return self._away(f"did not come back within {grace_s:g} s")
            return self._away("was not back in time") if is_over else None
        if not is_over:
            return None
        if self._last is not None:
            return self._last
        return self._missing(f"no answer within {self._patience.timeout_s:g} s")

    def _worked_until(self, now: float) -> bool:
        """Say whether it took the last request up: one that it cannot is refused at once."""
        return self._asked_at is not None and now - self._asked_at >= self._patience.grace_s

    def _away(self, how: str) -> NoAnswer:
        if self._asked_at is None:
            return self._missing("its node was not connected")
        return self._missing(f"its node left and {how}")

    def _missing(self, reason: str) -> NoAnswer:
        return NoAnswer(self._site, Outcome.MISSING, reason)
