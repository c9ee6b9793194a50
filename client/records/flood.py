"""Refusals that anyone can cause without end: the first of a minute one by one, the rest counted.

Each record of the audit log waits for the disk and stays for ever. Whoever has no key must not be
able to fill the one or hold up the other; how many came is kept all the same.
"""

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

MOST_A_MINUTE = 30

_WINDOW = timedelta(minutes=1)


@dataclass(frozen=True)
class Counted:
    """Refusals that were not written down one by one."""

    since: datetime
    until: datetime
    codes: Mapping[str, int]  # how many of each code

    @property
    def count(self) -> int:
        """How many in all."""
        return sum(self.codes.values())


class Flood:
    """Says which refusals are written down one by one, and counts the others."""

    def __init__(self, most_a_minute: int = MOST_A_MINUTE) -> None:
        """Start with none."""
        self._most = most_a_minute
        self._lock = threading.Lock()
        self._began: datetime | None = None  # of the minute that is counted
        self._admitted = 0
        self._counted: Counted | None = None

    def admits(self, code: str, now: datetime) -> bool:
        """Say whether a refusal is one to write down; it is counted where it is not."""
        with self._lock:
            if self._began is None or not _is_within(self._began, now):
                self._began, self._admitted = now, 0
            if self._admitted < self._most:
                self._admitted += 1
                return True
            former = self._counted or Counted(now, now, {})
            self._counted = Counted(former.since, now, Counter(former.codes) + Counter([code]))
            return False

    def settle(self, write: Callable[[Counted], None], *, now: datetime, at_once: bool) -> None:
        """Write down what was counted, once its minute is over; what cannot be written is kept."""
        with self._lock:
            counted = self._counted
            if counted is None or (_is_within(counted.since, now) and not at_once):
                return
            write(counted)
            self._counted = None


def _is_within(began: datetime, now: datetime) -> bool:
    # A clock that was set back begins a new minute: it must not stop the writing until then.
    return began <= now < began + _WINDOW
