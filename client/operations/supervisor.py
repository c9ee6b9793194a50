"""Runs a whole site for one user on one machine: trainer and connector as child processes.

In production each is a service unit of its own, under users of their own; here they share one
user, and what one can read the other can read. ``python -m client.operations.supervisor`` is the
first breath of a child: it asks the kernel to be killed with its supervisor, then becomes the
command that it was started for, so that no trainer is ever left behind.
"""

import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import FrameType
from typing import IO

from client.home.folders import SiteHome
from common.errors import SiteError
from common.files.lock import Lock

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 1.0  # before a child is started again; doubles
LONGEST_PAUSE_S = 60.0
HEALTHY_AFTER_S = 300.0  # then the next pause is the first again
CONNECTOR_DRAIN_S = 60.0
LOOK_EVERY_S = 0.2
LAST_WORDS_S = 2.0  # for the end of a child's log
LOG_BYTES = 10 * 2**20  # of one log file; three older ones are kept
LOGS_KEPT = 3

# -P: no folder that somebody happens to stand in is searched for modules.
PROGRAM = (sys.executable, "-P", "-m", "client.cli")

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def run_site(home: SiteHome, *, program: Sequence[str] = PROGRAM) -> None:
    """Run trainer and connector until SIGTERM or SIGINT; a second one ends both at once.

    The trainer is given the time that it needs to finish and keep a running answer.

    Args:
        home: The site's folder.
        program: What starts a child, when its name and ``--home`` follow.

    Raises:
        SiteError: This site or its trainer runs already.
    """
    log.warning(
        "trainer and connector run as one user and are NOT isolated from each other; in "
        "production use the two service units",
        extra={"action": "site_not_isolated"},
    )
    taken = "this site runs already. Stop it first."
    with Lock(home.root / "supervisor.lock", taken, error=SiteError), _signals() as signals:
        _check_no_trainer(home)
        trainer = Child("trainer", program, home, home.trainer_log)
        connector = Child("connector", program, home, home.connector_log)
        children = (trainer, connector)
        try:
            while not signals.count:
                now = time.monotonic()
                for child in children:
                    child.keep_running(now)
                time.sleep(LOOK_EVERY_S)
            log.info("stopping", extra={"action": "site_stopping"})
            # The trainer last: an answer that it finishes may still be sent.
            _drain(connector, signals, within_s=CONNECTOR_DRAIN_S)
            _drain(trainer, signals, within_s=None)
        finally:
            for child in children:
                child.kill()


class Child:
    """One of the two processes, and its log."""

    def __init__(self, name: str, program: Sequence[str], home: SiteHome, log_file: Path) -> None:
        """Take what to start; ``keep_running`` starts it."""
        self.name = name
        self._program = program
        self._home = home
        self._log_file = log_file
        self._process: subprocess.Popen[bytes] | None = None
        self._log_keeper: threading.Thread | None = None
        self._started_at = 0.0
        self._start_after = 0.0
        self._pause_s = FIRST_PAUSE_S

    def keep_running(self, now: float) -> None:
        """Start the process if it does not run and its pause is over. ``now`` is monotonic."""
        if self._process is not None:
            code = self._process.poll()
            if code is None:
                return
            self._process = None
            if now - self._started_at >= HEALTHY_AFTER_S:
                self._pause_s = FIRST_PAUSE_S
            self._start_after = now + self._pause_s
            log.warning(
                "%s ended (exit code %d); starting it again in %g s",
                self.name,
                code,
                self._pause_s,
                extra={"action": "child_ended", "log": self._log_file.name},
            )
            self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)
        if now >= self._start_after:
            self._start(now)

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if the process runs."""
        if self._process is not None:
            self._process.send_signal(number)

    def has_ended(self) -> bool:
        """Whether no process runs."""
        return self._process is None or self._process.poll() is not None

    def kill(self) -> None:
        """End the process without asking, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        if self._log_keeper is not None:
            self._log_keeper.join(LAST_WORDS_S)

    def _start(self, now: float) -> None:
        command = [sys.executable, "-P", "-m", "client.operations.supervisor", str(os.getpid())]
        command += [*self._program, self.name, "--home", str(self._home.root)]
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and modules
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # Ctrl-C in a terminal reaches a whole process group: only the supervisor shall get it.
            process_group=0,
        )
        self._started_at = now
        self._log_keeper = threading.Thread(
            target=_keep_log, args=(self._process.stdout, self._log_file), daemon=True
        )
        self._log_keeper.start()
        log.info(
            "%s started",
            self.name,
            extra={"action": "child_started", "pid": self._process.pid},
        )


class Signals:
    """How often this process was asked to end."""

    def __init__(self) -> None:
        """Begin with none."""
        self.count = 0

    def take(self, _number: int, _frame: FrameType | None) -> None:
        """Count one."""
        self.count += 1


def _check_no_trainer(home: SiteHome) -> None:
    """Raise SiteError when a trainer runs here: ours would be started in vain for ever.

    A socket that a killed one left is cleared away by the next.
    """
    taken = "a trainer of this site runs already. Stop its service first."
    with Lock(home.trainer_lock, taken, error=SiteError):
        pass


def _drain(child: Child, signals: Signals, *, within_s: float | None) -> None:
    """Ask a child to end in order, and wait; a second signal to this process ends the wait."""
    if child.has_ended():
        return
    child.send(signal.SIGTERM)
    end = None if within_s is None else time.monotonic() + within_s
    while not child.has_ended():
        if signals.count > 1 or (end is not None and time.monotonic() > end):
            log.warning("%s is ended at once", child.name, extra={"action": "child_killed"})
            return
        time.sleep(LOOK_EVERY_S)


@contextmanager
def _signals() -> Iterator[Signals]:
    signals = Signals()
    before = {
        number: signal.signal(number, signals.take) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _keep_log(output: IO[bytes] | None, path: Path) -> None:
    """Copy a child's output into a file that is renewed before it grows too large."""
    if output is None:
        return
    handler = RotatingFileHandler(path, maxBytes=LOG_BYTES, backupCount=LOGS_KEPT, delay=True)
    handler.setFormatter(logging.Formatter("%(message)s"))
    with output:
        for line in output:
            text = line.decode(errors="replace").rstrip("\n")
            # A handler that cannot write (disk full) drops the line: the child must not block.
            handler.handle(logging.makeLogRecord({"msg": text}))
    handler.close()


def _become(parent: int, command: list[str]) -> None:
    """Tie this process to its parent, then become the command."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the kernel was asked
        sys.exit(1)
    os.execv(command[0], command)  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    _become(int(sys.argv[1]), sys.argv[2:])
