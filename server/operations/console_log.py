"""What a child process writes, in a file of bounded size."""

import logging
import os
import threading
from contextlib import AbstractContextManager
from logging.handlers import RotatingFileHandler
from pathlib import Path

FILE_BYTES = 10 * 2**20
FILES = 5  # older ones beside the current


class ConsoleLog(AbstractContextManager["ConsoleLog"]):
    """A pipe whose lines go to a rotating file; give its inlet to a child as stdout and stderr."""

    def __init__(self, path: Path) -> None:
        """Name the file; nothing is opened before the block begins."""
        self._path = path
        self.inlet = -1

    def __enter__(self) -> "ConsoleLog":
        """Open the pipe and begin to write."""
        outlet, self.inlet = os.pipe()
        handler = RotatingFileHandler(
            self._path, maxBytes=FILE_BYTES, backupCount=FILES, encoding="utf-8"
        )
        self._thread = threading.Thread(target=_copy, args=(outlet, handler), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Close our end; the copying ends when the last child has closed its own."""
        os.close(self.inlet)
        self._thread.join(timeout=5.0)


def _copy(outlet: int, handler: RotatingFileHandler) -> None:
    with os.fdopen(outlet, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            handler.emit(_record(line.rstrip("\n")))
    handler.close()


def _record(line: str) -> logging.LogRecord:
    return logging.LogRecord("console", logging.INFO, "", 0, line, None, None)
