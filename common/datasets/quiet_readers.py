"""Keeps the picture libraries from warning and logging: their messages quote file contents."""

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

LIBRARIES = ("pydicom", "PIL")


class _Silence:
    """Shared by all reading threads, because warnings and loggers belong to the process.

    The first thread to come sets it up, the last to leave takes it away; each on its own would
    restore what another still needs.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readers = 0
        self._undo = ExitStack()

    def begin(self) -> None:
        with self._lock:
            self._readers += 1
            if self._readers == 1:
                self._undo.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
                for name in LIBRARIES:
                    logger = logging.getLogger(name)
                    self._undo.callback(setattr, logger, "disabled", logger.disabled)
                    logger.disabled = True

    def end(self) -> None:
        with self._lock:
            self._readers -= 1
            if self._readers == 0:
                self._undo.close()


_SILENCE = _Silence()


@contextmanager
def quiet_readers() -> Iterator[None]:
    """Silence the libraries in the whole process while any thread is inside."""
    _SILENCE.begin()
    try:
        yield
    finally:
        _SILENCE.end()
