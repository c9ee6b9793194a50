"""The lines of a chained log and the head beside it: reading, hashing, and what can be wrong."""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, NoReturn

from pydantic import JsonValue

from client.home.ownership import as_owner
from common.errors import AuditError
from common.files.whole_file import read_plain
from common.messages.signing import canonical

Record = dict[str, JsonValue]

OWN_FIELDS = frozenset({"seq", "time", "event", "previous", "hash"})
MAX_LINE_BYTES = 16 * 2**20  # far beyond any record; a longer line is read in pieces of this size

_NO_HASH = "0" * 64  # before the first record
_MAX_HEAD_BYTES = 1024


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


def line_of(record: Mapping[str, JsonValue]) -> bytes:
    """Return the one line that stands for a record."""
    return canonical(record).encode() + b"\n"


def read_head(path: Path) -> Head:
    """Return what the file beside a log says of its end. Raises AuditError when it is damaged."""
    beside = head_path(path)
    try:
        content = json.loads(read_plain(beside, at_most=_MAX_HEAD_BYTES))
        count, noted = content["count"], content["hash"]
        if type(count) is not int or not isinstance(noted, str):
            raise TypeError("of other types")
    except FileNotFoundError:
        return EMPTY
    except OSError as error:
        raise AuditError(
            f"{beside}: cannot be read ({error.strerror}). Mend its rights."
        ) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise AuditError(f"{beside}: not the head of a log. Restore it.") from error
    return Head(count, noted)


def fault_of(line: bytes, head: Head, rest: Iterator[bytes]) -> str | None:
    """Return what is wrong with the line after ``head``, or None; then ``rest`` is untouched."""
    if not line.endswith(b"\n"):
        return (
            "truncated: torn in the middle, as after a power cut. The next event sets it aside "
            "and says so; without a power cut, someone has cut it."
        )
    record = parsed(line)
    if record is None or record["hash"] != record_hash(record):
        return "changed: its content is not what its hash says."
    if line != line_of(record):
        # What is not in the parsed record has no hash: a key that stands twice, spaces.
        return "changed: it is not written as a record is."
    if record["seq"] != head.count + 1:
        return _misplaced(record, head.count + 1, rest)
    if record["previous"] != head.hash:
        return "changed: it does not belong to the line before, one of the two was replaced."
    return None


def _misplaced(record: Record, expected: int, rest: Iterator[bytes]) -> str:
    number = record["seq"]
    if any((other := parsed(line)) and other["seq"] == expected for line in rest):
        return f"reordered: record {number} stands where {expected} belongs."
    if isinstance(number, int) and number < expected:
        return f"repeated: record {number} stands here again."
    return f"removed: record {expected} is missing, {number} follows {expected - 1}."


def parsed(line: bytes) -> Record | None:
    """Return the record that a line holds, or None."""
    try:
        record = json.loads(line, parse_constant=_refuse)
        is_record = isinstance(record, dict) and _has_own_fields(record)
    except (ValueError, RecursionError):
        return None
    return record if is_record else None


def _has_own_fields(record: Record) -> bool:
    if not set(record) >= OWN_FIELDS or type(record["seq"]) is not int:
        return False
    texts = [record[name] for name in OWN_FIELDS - {"seq"}]
    if not all(isinstance(text, str) and text.isascii() for text in texts):
        return False
    canonical(record)  # ValueError for a number that is none, such as 1e999
    return datetime.fromisoformat(str(record["time"])).tzinfo is not None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


@contextmanager
def open_log(path: Path) -> Iterator[tuple[Iterator[bytes], Head | AuditError]]:
    """Open all lines that a log has now, and the head, or what is wrong with it.

    Lines come one by one, with their ends. Others may append meanwhile. Raises AuditError when
    there is no such log.
    """
    with _opened(path) as file:
        # The head must belong to the last line, and no line be in the middle of being written.
        fcntl.flock(file, fcntl.LOCK_SH)
        start, torn = last_line(file.fileno(), os.fstat(file.fileno()).st_size)
        end = start + len(torn)
        if torn.endswith(b"\n"):
            start, torn = end, b""
        try:
            noted: Head | AuditError = read_head(path)
        except AuditError as error:
            noted = error
        fcntl.flock(file, fcntl.LOCK_UN)
        yield _lines(file, start, torn), noted


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with as_owner(path):
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise AuditError(f"{path}: the log cannot be read ({error.strerror}).") from error
    with os.fdopen(handle, "rb") as file:
        yield file


def _lines(file: BinaryIO, end: int, torn: bytes) -> Iterator[bytes]:
    file.seek(0)
    left = end
    while left > 0 and (line := file.readline(min(left, MAX_LINE_BYTES))):
        left -= len(line)
        yield line
    if torn:
        yield torn


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
        raise AuditError(f"{path}: its last line was changed.")
    return Head(int(str(record["seq"])), str(record["hash"]))


def head_path(path: Path) -> Path:
    """Return where the head of a log lies."""
    return path.with_name(f"{path.name}.head")
