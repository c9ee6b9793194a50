"""One formatter for every process: a sentence, then the event's fields.

Log with ``log.info("update sent", extra={"action": "update_sent", "round": 3})``. Never data,
labels, file names or patients.
"""

import json
import logging
from datetime import UTC, datetime
from typing import TextIO

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_ROOMS = ("common", "client", "server")


class EventFormatter(logging.Formatter):
    """Writes an event as one line of text or one JSON object."""

    def __init__(self, *, as_json: bool) -> None:
        """Choose the form."""
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, with a traceback below it when there is one."""
        moment = datetime.fromtimestamp(record.created, tz=UTC).isoformat(timespec="milliseconds")
        fields = {
            key: value
            for key, value in vars(record).items()
            # Ray puts private fields of its own on every record.
            if key not in _STANDARD and not key.startswith("_")
        }
        traceback = self.formatException(record.exc_info) if record.exc_info else None
        if self._as_json:
            event = {
                "time": moment,
                "level": record.levelname,
                "logger": record.name,
                "message": record.getMessage(),
                **fields,
            }
            if traceback:
                event["traceback"] = traceback
            return json.dumps(event, default=str)
        parts = [moment, f"{record.levelname:<7}", record.name, record.getMessage()]
        line = " ".join(parts + [f"{key}={value}" for key, value in fields.items()])
        return f"{line}\n{traceback}" if traceback else line


def configure(*, level: int, as_json: bool, stream: TextIO) -> None:
    """Send the project's events from this level up to this stream, and to no other any more."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(EventFormatter(as_json=as_json))
    for room in _ROOMS:
        logger = logging.getLogger(room)
        logger.handlers = [handler]
        logger.setLevel(level)
        logger.propagate = False
