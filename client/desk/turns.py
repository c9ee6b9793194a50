"""One piece of work at a time, in one thread that outlives whoever asked for it.

The same work asked for again while it goes on is joined; other work is turned away.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

Result = TypeVar("Result")


@dataclass(frozen=True)
class Turn(Generic[Result]):
    """A piece of work that is going on, or done."""

    key: str
    since: datetime
    result: "Future[Result]"
    is_joined: bool  # another asked for it first

    def is_done(self, *, within_s: float) -> bool:
        """Wait for the end, at most so long, and say whether it came."""
        return bool(wait([self.result], timeout=within_s).done)


class Turns(Generic[Result]):
    """Gives out turns."""

    def __init__(self) -> None:
        """Start with nothing to do."""
        # Always the same thread: torch keeps its pools and handles per thread.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="desk")
        self._lock = threading.Lock()
        self._current: Turn[Result] | None = None
        self._is_closing = False

    @property
    def is_closing(self) -> bool:
        """Whether no more turns are given."""
        return self._is_closing

    @property
    def busy_since(self) -> datetime | None:
        """When the work that goes on began; None while there is none."""
        current = self._current
        return current.since if current is not None and not current.result.done() else None

    def take(self, key: str, work: Callable[[], Result], *, now: datetime) -> Turn[Result] | None:
        """Begin work, or join it where the same goes on; None when it is not its turn."""
        with self._lock:
            if self._is_closing:
                return None
            current = self._current
            if current is not None and not current.result.done():
                joined = Turn(key, current.since, current.result, is_joined=True)
                return joined if current.key == key else None
            self._current = Turn(key, now, self._thread.submit(work), is_joined=False)
            return self._current

    def close(self, *, within_s: float) -> bool:
        """Give no more turns and wait for the current one; False when time ran out before."""
        with self._lock:
            self._is_closing = True
            current = self._current
        self._thread.shutdown(wait=False)
        return current is None or current.is_done(within_s=within_s)
