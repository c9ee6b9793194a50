"""The lines of an audit log and the head beside it: reading, hashing, and what can be wrong."""

import fcntl
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from common.errors import AuditError
from common.signing import canonical

Record = dict[str, JsonValue]

OWN_FIELDS = frozenset({"seq", "time", "event", "previous", "hash"})

_NO_HASH = "0" * 64  # before the first record


@dataclass(frozen=True)
class Head:
    """Where a log ends: how many records, and the hash of the last."""

    count: int
    hash: str


EMPTY = Head(0, _NO_HASH)


def record_hash(record: Mapping[str, JsonValue]) -> str:
    """Return the hash that a record must carry: SHA-256 of its canonical JSON without ``hash``."""
    content = {name: value for name, value in record.items() if name != "hash"}
    return hashlib.sha256(canonical(content).encode()).hexdigest()


def read_head(path: Path) -> Head:
    """Return what the file beside a log says of its end. Raises AuditError when it is damaged."""
    beside = head_path(path)
    if not beside.exists():
        return EMPTY
    try:
        content = json.loads(beside.read_bytes())
        return Head(int(content["count"]), str(content["hash"]))
    except (ValueError, KeyError, TypeError) as error:
        raise AuditError(f"{beside}: not the head of an audit log. Restore it.") from error


def fault_of(lines: Sequence[bytes], index: int, head: Head) -> str | None:
    """Return what is wrong with the line after ``head``, or None."""
    line = lines[index]
    if not line.endswith(b"\n"):
        return (
            "truncated: torn in the middle, as after a power cut. The next event sets it aside "
            "and says so; without a power cut, someone has cut it."
        )
    record = parsed(line)
    if record is None or record["hash"] != record_hash(record):
        return "changed: its content is not what its hash says."
    if record["seq"] != head.count + 1:
        return _misplaced(record, head.count + 1, lines[index + 1 :])
    if record["previous"] != head.hash:
        return "changed: it does not belong to the line before, one of the two was replaced."
    return None


def _misplaced(record: Record, expected: int, rest: Sequence[bytes]) -> str:
    number = record["seq"]
    if any((other := parsed(line)) and other["seq"] == expected for line in rest):
        return f"reordered: record {number} stands where {expected} belongs."
    if isinstance(number, int) and number < expected:
        return f"repeated: record {number} stands here again."
    return f"removed: record {expected} is missing, {number} follows {expected - 1}."


def parsed(line: bytes) -> Record | None:
    """Return the record that a line holds, or None."""
    with suppress(ValueError):
        record = json.loads(line)
        if isinstance(record, dict) and set(record) >= OWN_FIELDS:
            return record
    return None


def read_log(path: Path) -> tuple[list[bytes], Head | AuditError]:
    """Return all lines with their ends, and the head, or what is wrong with it.

    Raises AuditError when there is no such log.
    """
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)  # never in the middle of another's line
            lines = file.read().splitlines(keepends=True)
            try:
                return lines, read_head(path)
            except AuditError as error:
                return lines, error
    except OSError as error:
        raise AuditError(f"{path}: the audit log cannot be read ({error.strerror}).") from error


def last_line(file: int, end: int) -> tuple[int, bytes]:
    """Return where the last line before ``end`` starts, and the line; empty in an empty file."""
    block = 4096
    start, tail = end, b""
    while start > 0:
        size = min(block, start)
        start -= size
        tail = os.pread(file, size, start) + tail
        cut = tail.rfind(b"\n", 0, len(tail) - 1)
        if cut >= 0:
            return start + cut + 1, tail[cut + 1 :]
    return 0, tail


def head_of(line: bytes, path: Path) -> Head:
    """Return the head that a log would have with this last line; empty where there is none."""
    if not line:
        return EMPTY
    record = parsed(line)
    if record is None or record["hash"] != record_hash(record):
        raise AuditError(f"{path}: its last line was changed. Run `fovea-site audit verify`.")
    return Head(int(str(record["seq"])), str(record["hash"]))


def head_path(path: Path) -> Path:
    """Return where the head of a log lies."""
    return path.with_name(f"{path.name}.head")
