"""The audit log: whatever is done to its lines is found."""

import errno
import json
import subprocess
import sys
import threading
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from client.records.audit import AuditLog, export, release_fields, verify
from client.records.audit_lines import line_of, record_hash
from common.errors import AuditError
from common.messages.kinds import Update

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "audit" / "audit.jsonl"
    for number in range(1, 6):
        AuditLog(path).append("answer-released", NOW, round=number)
    return path


def head_of(path: Path) -> Path:
    return path.with_name("audit.jsonl.head")


def rewrite(path: Path, *numbers: int) -> None:
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[number - 1] for number in numbers))


def test_a_log_is_whole_as_written_and_its_owners_alone(path: Path) -> None:
    report = verify(path)

    assert (report.records, report.problems) == (5, ())
    assert report.head == list(export(path))[-1]["hash"]
    assert [record["round"] for record in export(path)] == [1, 2, 3, 4, 5]
    assert path.stat().st_mode & 0o777 == 0o600
    assert head_of(path).stat().st_mode & 0o777 == 0o600


def test_a_changed_line_is_found(path: Path) -> None:
    path.write_text(path.read_text().replace('"round":3', '"round":9'))

    assert verify(path).problems[0].startswith("line 3: changed")


def test_a_changed_line_with_a_new_hash_is_found_at_the_next(path: Path) -> None:
    lines = path.read_text().splitlines()
    record = json.loads(lines[2]) | {"round": 9}
    lines[2] = line_of(record | {"hash": record_hash(record)}).decode().strip()
    path.write_text("\n".join(lines) + "\n")

    assert verify(path).problems[0].startswith("line 4: changed")


def test_a_changed_last_line_with_a_new_hash_is_found_by_the_head(path: Path) -> None:
    lines = path.read_text().splitlines()
    record = json.loads(lines[4]) | {"round": 9}
    lines[4] = line_of(record | {"hash": record_hash(record)}).decode().strip()
    path.write_text("\n".join(lines) + "\n")

    assert verify(path).problems[0].startswith("line 5: changed")


@pytest.mark.parametrize(
    ("kept", "problem"),
    [
        ((1, 2, 4, 5), "line 3: removed"),
        ((2, 3, 4, 5), "line 1: removed"),
        ((1, 2, 3), "line 4: truncated"),
        ((), "line 1: truncated"),
        ((1, 3, 2, 4, 5), "line 2: reordered"),
        ((1, 2, 3, 3, 4, 5), "line 4: reordered"),
        ((1, 2, 3, 4, 5, 5), "line 6: repeated"),
    ],
)
def test_removed_reordered_and_repeated_lines_are_found(
    path: Path, kept: tuple[int, ...], problem: str
) -> None:
    rewrite(path, *kept)

    assert verify(path).problems[0].startswith(problem)


@pytest.mark.parametrize("kept", [(1, 2, 3), (1, 2, 3, 4, 5, 1), ()])
def test_nothing_is_written_after_a_log_that_does_not_fit_its_head(
    path: Path, kept: tuple[int, ...]
) -> None:
    rewrite(path, *kept)
    before = path.read_bytes()

    with pytest.raises(AuditError, match="audit verify"):
        AuditLog(path).append("answer-released", NOW)
    assert path.read_bytes() == before


def test_nothing_is_written_where_a_log_was_removed_and_its_head_was_not(path: Path) -> None:
    path.unlink()

    with pytest.raises(AuditError, match="lines were removed"):
        AuditLog(path).append("answer-released", NOW)


def test_a_missing_or_older_head_is_found(path: Path) -> None:
    head_of(path).unlink()

    assert "older than the log" in verify(path).problems[0]
    with pytest.raises(AuditError):
        AuditLog(path).append("answer-released", NOW)


def test_a_head_one_behind_is_what_a_crash_leaves_and_is_mended(path: Path) -> None:
    former = head_of(path).read_bytes()
    AuditLog(path).append("answer-released", NOW, round=6)
    head_of(path).write_bytes(former)

    assert verify(path).problems == ()
    AuditLog(path).append("answer-released", NOW, round=7)
    assert (verify(path).records, verify(path).problems) == (7, ())


def test_a_line_torn_by_a_power_cut_is_set_aside_and_recorded(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b'{"seq":6,"time":"2026')

    assert "torn" in verify(path).problems[0]
    AuditLog(path).append("answer-released", NOW, round=6)

    events = list(export(path))
    assert [record["event"] for record in events[5:]] == ["torn-line-set-aside", "answer-released"]
    aside = path.with_name(str(events[5]["kept_as"]))
    assert aside.read_bytes() == b'{"seq":6,"time":"2026'
    assert aside.stat().st_mode & 0o777 == 0o600
    assert verify(path).problems == ()


def test_a_last_line_cut_short_by_hand_is_no_power_cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])

    with pytest.raises(AuditError, match="removed or replaced"):
        AuditLog(path).append("answer-released", NOW)


def test_processes_and_threads_write_one_chain(path: Path) -> None:
    code = f"""
from datetime import UTC, datetime; from pathlib import Path
from client.records.audit import AuditLog
for n in range(15): AuditLog(Path({str(path)!r})).append("site-paused", datetime.now(UTC), n=n)
"""
    other = subprocess.Popen([sys.executable, "-c", code])
    log = AuditLog(path)
    threads = [
        threading.Thread(target=lambda: [log.append("site-resumed", NOW) for _ in range(10)])
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert other.wait(timeout=60) == 0
    assert (verify(path).records, verify(path).problems) == (5 + 15 + 20, ())


def test_a_full_disk_leaves_the_log_as_it_was(path: Path) -> None:
    before = path.read_bytes()
    code = f"""
import resource, signal; from datetime import UTC, datetime; from pathlib import Path
from client.records.audit import AuditLog
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({len(before)} + 40, {len(before)} + 40))
try: AuditLog(Path({str(path)!r})).append("answer-released", datetime.now(UTC))
except OSError: print("full")
"""

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "full"
    assert path.read_bytes() == before
    AuditLog(path).append("answer-released", NOW)
    assert verify(path).problems == ()


def test_a_head_that_cannot_be_written_never_lags_by_more_than_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as patched:
        patched.setattr("client.records.chained_log.write_whole", full)
        for _ in range(3):
            with pytest.raises(OSError, match="no space"):
                AuditLog(path).append("answer-released", NOW)

    AuditLog(path).append("answer-released", NOW)
    assert (verify(path).records, verify(path).problems) == (7, ())


def test_a_damaged_head_is_said(path: Path) -> None:
    head_of(path).write_text("nonsense")

    assert "not the head" in verify(path).problems[0]
    with pytest.raises(AuditError, match="not the head"):
        AuditLog(path).append("answer-released", NOW)


def test_a_line_that_is_no_record_ends_the_export_and_the_writing(path: Path) -> None:
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:4], "nonsense\n"]))

    assert verify(path).problems[0].startswith("line 5: changed")
    with pytest.raises(AuditError, match="line 5 is no record"):
        list(export(path))
    with pytest.raises(AuditError, match="last line was changed"):
        AuditLog(path).append("answer-released", NOW)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"round":3', '"round":9,"round":3'),
        ('"round":3', '"round": 3'),
        ('"round":3', '"round":3.0'),
        ('"round":3', '"round":NaN'),
        ('"round":3', '"round":1e999'),
        ('"round":3', '"round":' + "[" * 200_000),
        ('"seq":3', '"seq":"3"'),
        ('"event":"answer-released"', '"event":"answer\\ud800"'),
        ('"time":"2026', '"time":"once'),
    ],
    ids=["key-twice", "space", "float", "nan", "infinite", "deep", "text", "surrogate", "time"],
)
def test_a_line_that_is_not_written_as_a_record_is_found(
    path: Path, before: str, after: str
) -> None:
    lines = path.read_text().splitlines(keepends=True)
    lines[2] = lines[2].replace(before, after)
    path.write_text("".join(lines))

    assert verify(path).problems[0].startswith("line 3: changed")


def test_nothing_is_written_after_a_last_line_that_is_no_json(path: Path) -> None:
    path.write_text(path.read_text().replace('"round":5', '"round":NaN'))

    with pytest.raises(AuditError, match="last line was changed"):
        AuditLog(path).append("answer-released", NOW)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(OSError, match="symbolic links"):
        AuditLog(path).append("site-paused", NOW)
    assert not (tmp_path / "elsewhere").exists()


def test_a_long_log_is_never_in_memory_as_a_whole(path: Path) -> None:
    for _ in range(10):
        AuditLog(path).append("request-refused", NOW, reason="x" * 2**20)

    tracemalloc.start()
    records = verify(path).records
    assert sum(1 for _ in export(path)) == records == 15
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert most < 8 * 2**20 < path.stat().st_size


def test_what_is_appended_during_an_export_waits_for_the_next(path: Path) -> None:
    records = export(path)
    next(records)
    AuditLog(path).append("answer-released", NOW, round=6)

    assert len(list(records)) == 4


def test_a_record_longer_than_a_block_is_found_again(path: Path) -> None:
    AuditLog(path).append("request-refused", NOW, reason="x" * 20_000)

    AuditLog(path).append("request-refused", NOW, reason="y" * 20_000)

    assert (verify(path).records, verify(path).problems) == (7, ())


def test_the_log_sets_its_own_fields(path: Path) -> None:
    with pytest.raises(AuditError, match="hash"):
        AuditLog(path).append("answer-released", NOW, hash="0")


def test_a_log_that_is_not_there_is_no_whole_log(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="cannot be read"):
        verify(tmp_path / "audit.jsonl")


def test_a_release_is_described_without_what_it_holds() -> None:
    arrays = {"trunk.weight": np.full((2, 3), 0.125, dtype=np.float32)}
    update = Update(
        "run-1", 1, "north", "chestx", 14, 3, {"total": 0.0625}, {"auroc": 0.8125}, arrays
    )

    fields = release_fields(update)

    assert (fields["arrays"], fields["arrays_size_bytes"]) == (1, 24)
    assert (fields["metric_names"], fields["evaluation_names"]) == (["total"], ["auroc"])
    assert len(str(fields["arrays_digest"])) == 64
    assert not any(number in str(fields) for number in ("0.125", "0.0625", "0.8125"))
