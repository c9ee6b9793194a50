"""A lock that ends with its process: whoever holds the file's lock is alive."""

import fcntl
import os
import time
from contextlib import AbstractContextManager
from pathlib import Path

from common.errors import FoveaError, RunError

_RETRY_S = 0.1


class Lock(AbstractContextManager["Lock"]):
    """Holds a file while the block runs. The file stays; only the hold on it means anything."""

    def __init__(
        self,
        path: Path,
        taken: str,
        *,
        patience_s: float = 0.0,
        error: type[FoveaError] = RunError,
    ) -> None:
        """Remember the file, and what to raise and say when another holds it that long."""
        self._path = path
        self._taken = taken
        self._patience_s = patience_s
        self._error = error
        self._handle = -1

    def __enter__(self) -> "Lock":
        """Take it. Raises ``error`` when another process has it or the file cannot be opened."""
        deadline = time.monotonic() + self._patience_s
        handle = self._opened()
        while not _take(handle):
            if time.monotonic() >= deadline:
                os.close(handle)
                raise self._error(f"{self._path}: {self._taken}")
            time.sleep(_RETRY_S)
        self._handle = handle
        return self

    def __exit__(self, *_: object) -> None:
        """Let it go."""
        os.close(self._handle)

    def _opened(self) -> int:
        try:
            return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._error(
                f"{self._path}: cannot be opened ({error.strerror}). Run this as the user whose "
                "folder it is, once that folder was made."
            ) from error


def is_held(path: Path) -> bool:
    """Say whether a living process holds the lock of a file."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not _take(handle)
    finally:
        os.close(handle)


def _take(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
