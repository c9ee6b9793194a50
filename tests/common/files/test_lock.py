"""A lock of a file, between handles and from a process that is killed."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.errors import RunError, SiteError
from common.files.lock import Lock, is_held

HOLD = (
    "import sys, time; from pathlib import Path; from common.files.lock import Lock\n"
    "with Lock(Path(sys.argv[1]), 'taken.'): print('held', flush=True); time.sleep(60)"
)


def test_second_holder_is_refused_with_the_error_it_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with Lock(path, "taken."):
        with pytest.raises(RunError, match=r"lock: taken\."), Lock(path, "taken."):
            pass
        with pytest.raises(SiteError, match="busy"), Lock(path, "busy", error=SiteError):
            pass
    with Lock(path, "taken."):
        assert is_held(path)
    assert not is_held(path)


def test_killed_holder_lets_go(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert is_held(path)
        holder.kill()

    assert not is_held(path)


def test_patience_waits_before_it_gives_up(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    began = time.monotonic()
    with Lock(path, "t"), pytest.raises(RunError), Lock(path, "t", patience_s=0.3):
        pass
    assert time.monotonic() - began >= 0.3


def test_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "lock"
    with pytest.raises(SiteError, match="missing/lock: cannot be opened"):
        Lock(path, "t", error=SiteError).__enter__()
