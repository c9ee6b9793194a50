"""Append-only JSON lines that hold on to each other, and outlast a power cut.

Each record holds its number, the hash of the one before and its own hash over all of that, so that
a changed, removed or reordered line is found. Beside the log a head file holds the number and hash
of the last record, so that missing last lines are found too. Who may write both can write the whole
log anew.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import JsonValue

from client.home.ownership import as_owner, make_folder
from client.records.audit_lines import (
    EMPTY,
    OWN_FIELDS,
    Head,
    Record,
    fault_of,
    head_of,
    head_path,
    last_line,
    line_of,
    open_log,
    read_head,
    record_hash,
)
from common.errors import AuditError
from common.files.whole_file import sync_folder, write_whole
from common.messages.signing import canonical

TORN_LINE = "torn-line-set-aside"  # the event of a line that a power cut broke off


@dataclass(frozen=True)
class ChainReport:
    """What verifying a log found; without problems it is as it was written."""

    records: int
    head: str  # hash of the last record: to be noted elsewhere
    problems: tuple[str, ...]  # the first bad line first
    is_torn: bool = False  # the only problem is what a power cut leaves: the next append mends it


class ChainedLog:
    """Appends records; several processes of one user may do so at the same time."""

    def __init__(self, path: Path, *, remedy: str) -> None:
        """Name the file; it is made with the first record, and readable by its owner alone.

        Args:
            path: Of the log. Its folder is made with it, mode 0700.
            remedy: What a person does about a log that was shortened or changed, a sentence.
        """
        self._path, self._remedy = path, remedy

    def append(self, event: str, now: datetime, **fields: JsonValue) -> None:
        """Write a record; when this returns it outlasts a power cut.

        Raises AuditError when the log is shorter than its head or not the one that the head
        belongs to: going on would cover the traces. Raises OSError when the disk is full; the log
        is then as it was before.
        """
        if taken := OWN_FIELDS & set(fields):
            raise AuditError(f"log field {sorted(taken)[0]!r}: the log sets it by itself.")
        with self._locked() as file:
            head = self._mended(file, now)
            self._write(file, head, event, now, fields)

    @contextmanager
    def _locked(self) -> Iterator[int]:
        with as_owner(self._path.parent):
            is_new = not self._path.exists()
            make_folder(self._path.parent)
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            file = os.open(self._path, flags, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
                if is_new:
                    sync_folder(self._path.parent)
                yield file
            finally:
                os.close(file)  # and with it the lock

    def _mended(self, file: int, now: datetime) -> Head:
        """Return the head after setting aside what a power cut left half done."""
        noted = read_head(self._path)
        start, line = last_line(file, os.fstat(file).st_size)
        torn = b""
        if not line.endswith(b"\n"):
            torn = line
            _, line = last_line(file, start)
        try:
            head = head_of(line, self._path)
        except AuditError as error:
            raise AuditError(f"{error} {self._remedy}") from error
        self._check(head, noted)
        if head != noted:
            self._note(head)  # first of all: it must never lag by more than one record
        return self._set_aside(file, start, torn, head, now) if torn else head

    def _check(self, head: Head, noted: Head) -> None:
        # The head is written after the line, so a crash between the two leaves it one behind.
        follows = head.count == noted.count + 1
        if head != noted and not follows:
            raise AuditError(
                f"{self._path}: its last record is number {head.count}, its head says "
                f"{noted.count}: lines were removed or replaced. {self._remedy}"
            )

    def _set_aside(self, file: int, start: int, torn: bytes, head: Head, now: datetime) -> Head:
        aside = self._path.with_name(f"{self._path.name}.torn-{head.count + 1}")
        write_whole(aside, torn, mode=0o600)
        os.ftruncate(file, start)
        fields: Record = {
            "size_bytes": len(torn),
            "digest": hashlib.sha256(torn).hexdigest(),
            "kept_as": aside.name,
        }
        return self._write(file, head, TORN_LINE, now, fields)

    def _write(
        self, file: int, head: Head, event: str, now: datetime, fields: Mapping[str, JsonValue]
    ) -> Head:
        record: Record = {
            "seq": head.count + 1,
            "time": now.astimezone(UTC).isoformat(timespec="milliseconds"),
            "event": event,
            **fields,
            "previous": head.hash,
        }
        record["hash"] = record_hash(record)
        line = line_of(record)
        size = os.fstat(file).st_size
        try:
            written = 0
            while written < len(line):
                written += os.write(file, line[written:])
            os.fsync(file)
        except OSError:
            os.ftruncate(file, size)
            raise
        after = Head(head.count + 1, str(record["hash"]))
        self._note(after)
        return after

    def _note(self, head: Head) -> None:
        text = canonical({"count": head.count, "hash": head.hash})
        beside = head_path(self._path)
        write_whole(beside, text.encode() + b"\n", mode=0o600)


def verify_chain(path: Path, *, each: Callable[[Record], None] | None = None) -> ChainReport:
    """Read a whole log and say what is wrong with it, the first bad line first.

    Args:
        path: Of the log.
        each: Is given every record in turn, up to the first that is wrong.

    Raises AuditError when there is no such log.
    """
    head, torn = EMPTY, None
    noted_hash_here = EMPTY.hash  # of the record that the head names
    with open_log(path) as (lines, noted):
        for number, line in enumerate(lines, start=1):
            if fault := fault_of(line, head, lines):
                problem = f"line {number}: {fault}"
                if line.endswith(b"\n") or next(lines, None) is not None:
                    return ChainReport(head.count, head.hash, (problem,))
                torn = problem
                break
            head = head_of(line, path)
            if each is not None:
                each(json.loads(line))
            if isinstance(noted, Head) and head.count == noted.count:
                noted_hash_here = head.hash
    end = str(noted) if isinstance(noted, AuditError) else _end(head, noted, noted_hash_here)
    problems = tuple(problem for problem in (torn, end) if problem is not None)
    return ChainReport(head.count, head.hash, problems, is_torn=problems == (torn,))


def _end(head: Head, noted: Head, noted_hash_here: str) -> str | None:
    """Return what is wrong where a log ends, given the head beside it."""
    if head.count < noted.count:
        return (
            f"line {head.count + 1}: truncated: the log ends after {head.count} records, its head "
            f"says {noted.count}."
        )
    if noted_hash_here != noted.hash:
        return f"line {noted.count}: changed: it is not the record that the head names."
    if head.count > noted.count + 1:
        return (
            f"line {noted.count + 2}: the head is older than the log: it says {noted.count} "
            f"records, there are {head.count}; one more is what a crash can explain."
        )
    return None
