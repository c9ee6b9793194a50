"""What the connector last knew: written by it as a file, read by status and metrics."""

import logging
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from common.config.run import Section
from common.errors import SiteError
from common.files.whole_file import read_plain

log = logging.getLogger(__name__)

WRITTEN_EVERY_S = 15.0
MAX_REPORT_BYTES = 64 * 1024
STALE_AFTER_S = 3 * WRITTEN_EVERY_S  # an older file is of a process that is gone or hangs


class ConnectorReport(Section):
    """A connector's state; nothing in it is about patients."""

    version: Literal[1] = 1
    site: str
    federation: str
    coordinator: str
    pid: int
    state: Literal["connecting", "connected", "waiting", "stopped"] = "connecting"
    written_at: datetime
    connected_since: datetime | None = None
    node_id: int | None = None
    last_exchange_at: datetime | None = None  # when the coordinator last answered
    working_since: datetime | None = None  # a request is with the trainer
    trouble: str | None = None  # what is wrong just now
    refused_bundle: str | None = None  # why the latest refused bundle was refused
    refused_bundles: int = 0
    answers: int = 0
    rounds: int = 0  # trainings among them that were carried out
    refusals: dict[str, int] = Field(default_factory=dict)  # answers that say no, by code
    bytes_in: int = 0
    bytes_out: int = 0
    authority_expires: datetime | None = None
    certificate_expires: datetime | None = None  # of the coordinator's server
    certificate_warning_days: int

    def is_fresh(self, now: datetime) -> bool:
        """Whether the process that wrote this still writes."""
        return self.state != "stopped" and now - self.written_at < timedelta(seconds=STALE_AFTER_S)


def read_report(path: Path) -> ConnectorReport | None:
    """Return the last report, if there is one. Raises SiteError when it cannot be read."""
    try:
        # The connector made it, and root may be the one who reads.
        return ConnectorReport.model_validate_json(read_plain(path, at_most=MAX_REPORT_BYTES))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SiteError(
            f"{path.name}: cannot be read ({error.strerror}). Run this as the site's user."
        ) from error
    except ValidationError as error:
        raise SiteError(
            f"{path.name}: written by another version. Restart the connector."
        ) from error


class Board:
    """Keeps the report and its file up to date; safe to use from several threads."""

    def __init__(self, path: Path, report: ConnectorReport, *, now: Callable[[], datetime]) -> None:
        """Take the first report and write it."""
        self._path = path
        self._report = report
        self._now = now
        self._lock = threading.Lock()
        self._writes = True
        self.write()

    @property
    def report(self) -> ConnectorReport:
        """The present state."""
        return self._report

    def change(self, **updates: object) -> None:
        """Set some of the report's values and write it."""
        with self._lock:
            self._report = self._report.model_copy(update=updates)
        self.write()

    def connected(self, node_id: int) -> None:
        """Take note that the site is online."""
        self.change(state="connected", connected_since=self._now(), node_id=node_id, trouble=None)
        log.info("connected", extra={"action": "connected", "node": node_id})

    def answered(self, refusal: str | None, *, is_training: bool) -> None:
        """Take note of an answer that was sent, and of its refusal's code if it is one."""
        rounds = self._report.rounds + (is_training and refusal is None)
        refusals = dict(self._report.refusals)
        if refusal is not None:
            refusals[refusal] = refusals.get(refusal, 0) + 1
        self.change(
            answers=self._report.answers + 1, rounds=rounds, refusals=refusals, trouble=None
        )

    def distrusted(self, reason: str) -> None:
        """Take note of a run whose bundle is not ours."""
        log.warning("bundle refused: %s", reason, extra={"action": "bundle_refused"})
        self.change(refused_bundle=reason, refused_bundles=self._report.refused_bundles + 1)

    def reached(self) -> None:
        """Take note that the coordinator has answered."""
        with self._lock:
            had_trouble = self._report.trouble is not None
            self._report = self._report.model_copy(
                update={"last_exchange_at": self._now(), "trouble": None}
            )
        # Written every few seconds at most: a poll alone is no news.
        if had_trouble:
            log.info("the coordinator answers", extra={"action": "line_up"})
            self.write()

    def troubled(self, problem: str) -> None:
        """Take note of what is wrong, and log it once."""
        if problem != self._report.trouble:
            log.warning("%s", problem, extra={"action": "line_trouble"})
            self.change(trouble=problem)

    def certified(self, expires: datetime) -> None:
        """Take note of when the server's certificate expires, and warn in time."""
        self._warn_of(expires, "the coordinator's certificate")
        self.change(certificate_expires=expires)

    def pinned(self, expires: datetime) -> None:
        """Take note of when the certificate authority expires, and warn in time."""
        self._warn_of(expires, "the federation's certificate authority")
        self.change(authority_expires=expires)

    def moved(self, *, bytes_in: int, bytes_out: int) -> None:
        """Count content that came or went."""
        with self._lock:
            self._report = self._report.model_copy(
                update={
                    "bytes_in": self._report.bytes_in + bytes_in,
                    "bytes_out": self._report.bytes_out + bytes_out,
                }
            )

    def write(self) -> None:
        """Write the file whole. A full disk is logged once and does not stop the connector."""
        with self._lock:
            self._report = self._report.model_copy(update={"written_at": self._now()})
            content = self._report.model_dump_json(indent=1) + "\n"
            try:
                _write_whole(self._path, content)
            except OSError as error:
                if self._writes:
                    log.error(
                        "the status file cannot be written: %s",
                        error.strerror,
                        extra={"action": "status_unwritable"},
                    )
                self._writes = False
            else:
                self._writes = True

    @contextmanager
    def kept_fresh(self) -> Iterator[None]:
        """Write the file every few seconds meanwhile, and that the process stopped at the end."""
        ended = threading.Event()

        def keep() -> None:
            while not ended.wait(WRITTEN_EVERY_S):
                self.write()

        writer = threading.Thread(target=keep, name="status", daemon=True)
        writer.start()
        try:
            yield
        finally:
            ended.set()
            writer.join()
            self.change(state="stopped", connected_since=None, working_since=None)

    def _warn_of(self, expires: datetime, what: str) -> None:
        left = expires - self._now()
        if left < timedelta(days=self._report.certificate_warning_days):
            log.warning(
                "%s expires in %d days",
                what,
                left.days,
                extra={"action": "certificate_expires", "expires": expires.isoformat()},
            )


def _write_whole(path: Path, content: str) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(content)
            # Trainer and connector are of different users; both status commands read this.
            os.fchmod(file.fileno(), 0o640)
        Path(temporary).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(temporary).unlink()
        raise
