"""The site's privacy ledger: what every update that left has spent, and what left without noise.

A chained log (chained_log.py): entries are added and never removed, a crash at any moment
leaves all that ever counted, and a ledger that was shortened or changed is refused, with which
nothing more leaves. What no machine finds is a ledger that was replaced, with its head, by an older
copy of both: note the head that ``fovea-site ledger show`` prints somewhere else from time to time.

A site also keeps, in its state folder, how far its ledger has reached (ledger_reach.py): a
ledger that is gone or older is refused by that. Who can delete both can reset both; the audit log
tells of it even then, for its ``budget-spent`` records name entries that the ledger has not.

What was spent is written before the update leaves. Where a site breaks down between the two, it
stays spent although nobody received anything: the ledger may say too much and never too little.
"""

import threading
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, JsonValue, ValidationError

from client.home.folders import SiteHome
from client.records import accountant
from client.records.audit_lines import EMPTY, Head, Record, head_path, read_head
from client.records.chained_log import TORN_LINE, ChainedLog, ChainReport, verify_chain
from client.records.ledger_reach import note_reach, read_reach
from client.records.spending import Spending
from common.config.privacy import Unit
from common.config.run import Section
from common.errors import AuditError, LedgerError

UPDATE = "update"

REMEDY = (
    "Nothing leaves this site until a person has looked. Keep the ledger and its head file, find "
    "out who had access, and bring back both from the backup that holds the latest entries: a "
    "shorter ledger would spend a second time what was spent already."
)


class Entry(Section):
    """Something that left, or was about to."""

    seq: int
    time: AwareDatetime
    kind: Literal["spending", "release"]  # release: it carries no noise, and no epsilon covers it
    run: str
    server_round: int
    request_digest: str
    what: str  # that left: "update", "evaluation", "data card", "training metrics"
    content_digest: str | None  # of a release that stays one while its content stays the same
    spending: Spending | None  # of a spending


class Ledger:
    """Adds entries and says what they come to; for one process that writes, and any that read."""

    def __init__(self, path: Path, *, reach: Path | None = None) -> None:
        """Name the file; it is made with the first entry, and readable by its owner alone.

        Args:
            path: Of the ledger.
            reach: Of the file that notes how far it has reached; None: nothing notes that.
        """
        self._path, self._reach = path, reach
        self._log = ChainedLog(path, remedy=REMEDY)
        self._writing = threading.Lock()

    def spend(
        self,
        spending: Spending,
        *,
        run: str,
        server_round: int,
        request_digest: str,
        now: datetime,
    ) -> None:
        """Write what an update spends; when this returns it outlasts a power cut.

        Where it raises, the update must not leave. Raises LedgerError for a damaged ledger, OSError
        for a full disk.
        """
        with self._writing:
            self.entries()
            self._append(
                "spending",
                UPDATE,
                now,
                run=run,
                round=server_round,
                request=request_digest,
                spending=spending.model_dump(mode="json"),
            )

    def note_release(
        self,
        what: str,
        *,
        run: str,
        server_round: int,
        request_digest: str,
        now: datetime,
        content_digest: str | None = None,
    ) -> None:
        """Write that something leaves without noise, once for what is told again; durable too.

        Answers to two requests are two releases, for a model may be measured in each. What is the
        same whoever asks is one for as long as its content stays the same.

        Args:
            what: Leaves, in a word or two: "update", "evaluation", "data card".
            run: It is for.
            server_round: Likewise; 0 before the first.
            request_digest: Of what it answers.
            now: The time.
            content_digest: Of what leaves, where that does not depend on the request.

        Raises what :meth:`spend` does.
        """
        told = (run, what, server_round, content_digest)
        with self._writing:
            for entry in self.entries():
                former = (entry.run, entry.what, entry.server_round, entry.content_digest)
                answers_this = content_digest is not None or entry.request_digest == request_digest
                if entry.kind == "release" and former == told and answers_this:
                    return
            fields: Record = {"run": run, "round": server_round, "request": request_digest}
            if content_digest is not None:
                fields["content"] = content_digest
            self._append("release", what, now, **fields)

    def entries(self) -> tuple[Entry, ...]:
        """Return all entries in order; none where nothing ever left.

        Raises LedgerError when the ledger is not as it was written. A last line that a power cut
        broke off never counted; the next entry sets it aside and says so.
        """
        records, _ = self._verified()
        try:
            return tuple(_entry(record) for record in records if record["event"] != TORN_LINE)
        except (ValidationError, KeyError) as error:
            raise LedgerError(
                f"{self._path}: holds an entry of another version of Fovea. Read it with that one."
            ) from error

    def verify(self) -> ChainReport:
        """Return how many records there are and the hash of the last; raises as ``entries``."""
        _, report = self._verified()
        return report

    def epsilon(
        self,
        *,
        unit: Unit,
        delta: float,
        also: Sequence[Spending] = (),
        run: str | None = None,
    ) -> float:
        """Return epsilon at ``delta`` of what was spent here.

        Args:
            unit: Whom it protects.
            delta: In (0, 1).
            also: What would be spent on top.
            run: Of this run only; None: of all together, which is less than the sum of each.

        Raises LedgerError when the ledger is not as it was written.
        """
        spent = [
            entry.spending
            for entry in self.entries()
            if entry.spending is not None and run in (None, entry.run)
        ]
        return accountant.epsilon([*spent, *also], unit=unit, delta=delta)

    def _verified(self) -> tuple[list[Record], ChainReport]:
        # First: another thread may add an entry meanwhile, and note that it was reached.
        reached = EMPTY if self._reach is None else read_reach(self._reach)
        records: list[Record] = []
        if not self._path.exists() and not head_path(self._path).exists():
            self._check_reach(records, reached)
            return records, ChainReport(0, EMPTY.hash, ())
        try:
            report = verify_chain(self._path, each=records.append)
        except AuditError as error:
            raise LedgerError(f"{error} {REMEDY}") from error
        if report.problems and not report.is_torn:
            raise LedgerError(f"{self._path}: {report.problems[0]} {REMEDY}")
        self._check_reach(records, reached)
        return records, report

    def _check_reach(self, records: Sequence[Record], reached: Head) -> None:
        if reached.count == 0:
            return
        if len(records) < reached.count:
            raise LedgerError(
                f"{self._path}: has {len(records)} records, {self._reach} says that there were "
                f"{reached.count}. {REMEDY}"
            )
        if records[reached.count - 1]["hash"] != reached.hash:
            raise LedgerError(
                f"{self._path}: record {reached.count} is another than the one that "
                f"{self._reach} names. {REMEDY}"
            )

    def _append(self, kind: str, what: str, now: datetime, **fields: JsonValue) -> None:
        try:
            self._log.append(kind, now, what=what, **fields)
            if self._reach is not None:
                # After the line: a crash between the two leaves a ledger that is longer.
                note_reach(self._reach, read_head(self._path))
        except AuditError as error:
            raise LedgerError(str(error)) from error


def ledger_of(home: SiteHome) -> Ledger:
    """Return a site's ledger, which is held against how far it has reached."""
    return Ledger(home.ledger, reach=home.ledger_reach)


def uncovered(entries: Sequence[Entry], unit: Unit) -> tuple[Entry, ...]:
    """Return what epsilon for a unit says nothing of: releases, and noise for another unit."""
    return tuple(
        entry
        for entry in entries
        if entry.spending is None or not accountant.covers(entry.spending, unit)
    )


def _entry(record: Record) -> Entry:
    return Entry.model_validate(
        {
            "seq": record["seq"],
            "time": record["time"],
            "kind": record["event"],
            "run": record["run"],
            "server_round": record["round"],
            "request_digest": record["request"],
            "what": record["what"],
            "content_digest": record.get("content"),
            "spending": record.get("spending"),
        }
    )
