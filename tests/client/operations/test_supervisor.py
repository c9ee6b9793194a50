"""Two processes watched over: real ones, in the parts of trainer and connector."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from client.home.folders import SiteHome
from common.files.lock import Lock

CHILD = """
import os, signal, sys, time
from pathlib import Path
name, run = sys.argv[1], Path(sys.argv[3]) / "run"
def note(file, text):
    with (run / file).open("a") as out:
        out.write(text + "\\n")
note(f"{name}.pids", str(os.getpid()))
print(f"{name} says hello", flush=True)
if (run / f"{name}.fails").exists():
    sys.exit(3)
def end(number, frame):
    time.sleep(0.3)
    note("order", name)
    sys.exit(0)
signal.signal(signal.SIGTERM, end if not (run / f"{name}.stays").exists() else signal.SIG_IGN)
while True:
    time.sleep(0.05)
"""
RUN = (
    "import sys, logging; from pathlib import Path; from client.home.folders import SiteHome; "
    "from client.operations.supervisor import run_site; from common.machine.log import configure; "
    "configure(level=logging.INFO, as_json=False, stream=sys.stderr); "
    "run_site(SiteHome(Path(sys.argv[1])), program=(sys.executable, '-P', sys.argv[2]))"
)


@dataclass
class Site:
    """A supervisor's process and its folder."""

    home: SiteHome
    script: Path
    process: subprocess.Popen[str] | None = None

    def start(self) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", RUN, str(self.home.root), str(self.script)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        return self.process

    def pids(self, name: str) -> list[int]:
        file = self.home.run / f"{name}.pids"
        return [int(line) for line in file.read_text().split()] if file.exists() else []

    def are_both_up(self) -> bool:
        return bool(self.pids("trainer") and self.pids("connector"))

    def end(self, number: signal.Signals) -> str:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.communicate(timeout=20)[1]


def wait_until(is_so: Callable[[], bool], *, seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.fixture
def site() -> Iterator[Site]:
    root = Path(tempfile.mkdtemp(prefix="fovea-", dir="/tmp"))  # sockets need short paths
    home = SiteHome(root)
    for folder in (home.trainer, home.connector, home.run):
        folder.mkdir()
    script = root / "child.py"
    script.write_text(CHILD)
    made = Site(home, script)
    yield made
    if made.process is not None and made.process.poll() is None:
        made.process.kill()
        made.process.communicate()
    shutil.rmtree(root)


def test_child_that_dies_is_started_again_and_its_sibling_is_left_alone(site: Site) -> None:
    site.start()
    wait_until(site.are_both_up)

    os.kill(site.pids("connector")[0], signal.SIGKILL)
    wait_until(lambda: len(site.pids("connector")) == 2)

    assert len(site.pids("trainer")) == 1
    said = site.end(signal.SIGTERM)
    assert "connector ended (exit code -9); starting it again in 1 s" in said
    assert "NOT isolated" in said


def test_child_that_keeps_dying_is_started_at_longer_and_longer_intervals(site: Site) -> None:
    (site.home.run / "trainer.fails").touch()
    site.start()
    wait_until(lambda: len(site.pids("trainer")) == 2)
    time.sleep(0.5)

    said = site.end(signal.SIGTERM)

    assert "trainer ended (exit code 3); starting it again in 1 s" in said
    assert "trainer ended (exit code 3); starting it again in 2 s" in said


def test_sigterm_drains_the_connector_first_and_the_trainer_last(site: Site) -> None:
    process = site.start()
    wait_until(site.are_both_up)
    children = [*site.pids("trainer"), *site.pids("connector")]

    site.end(signal.SIGTERM)

    assert process.returncode == 0
    assert (site.home.run / "order").read_text().split() == ["connector", "trainer"]
    assert not any(is_alive(pid) for pid in children)


def test_second_sigterm_ends_a_child_that_does_not_want_to_go(site: Site) -> None:
    (site.home.run / "trainer.stays").touch()
    process = site.start()
    wait_until(site.are_both_up)
    process.send_signal(signal.SIGTERM)
    wait_until((site.home.run / "order").exists)
    time.sleep(0.5)
    assert process.poll() is None

    site.end(signal.SIGTERM)

    assert process.returncode == 0
    assert not is_alive(site.pids("trainer")[0])


def test_killed_supervisor_takes_its_children_with_it(site: Site) -> None:
    site.start()
    wait_until(site.are_both_up)
    children = [*site.pids("trainer"), *site.pids("connector")]

    site.end(signal.SIGKILL)

    wait_until(lambda: not any(is_alive(pid) for pid in children), seconds=5)


def test_second_supervisor_of_a_site_does_not_start(site: Site) -> None:
    site.start()
    wait_until(site.are_both_up)

    second = Site(site.home, site.script)
    said = second.start().communicate(timeout=20)[1]

    assert "this site runs already" in said
    assert len(site.pids("trainer")) == 1


def test_trainer_that_runs_as_a_service_is_not_disturbed(site: Site) -> None:
    with Lock(site.home.trainer_lock, "held"):
        said = site.start().communicate(timeout=20)[1]

    assert "a trainer of this site runs already" in said
    assert not site.are_both_up()


def test_whatever_stands_at_the_socket_does_not_end_the_supervisor(site: Site) -> None:
    (site.home.run / "trainer.fails").touch()
    with socket.socket(socket.AF_UNIX) as stranger:
        site.start()
        wait_until(lambda: len(site.pids("trainer")) == 1)
        stranger.bind(str(site.home.socket))
        stranger.listen()

        wait_until(lambda: len(site.pids("trainer")) == 2)
        (site.home.run / "trainer.fails").unlink()
        wait_until(lambda: len(site.pids("trainer")) == 3)

        assert site.process is not None
        assert site.process.poll() is None
        assert len(site.pids("connector")) == 1
        said = site.end(signal.SIGTERM)
    assert "Traceback" not in said


def test_what_the_children_say_is_kept_in_their_logs(site: Site) -> None:
    site.start()
    wait_until(site.are_both_up)
    site.end(signal.SIGTERM)

    assert site.home.trainer_log.read_text() == "trainer says hello\n"
    assert site.home.connector_log.read_text() == "connector says hello\n"
