"""``fovea serve``: Flower's SuperLink, supervised, on this machine's loopback only.

start → wait until it answers → make it know the admitted sites → watch → drain. When it dies, all
that it had started is ended too, and it is started again. Hospitals never reach its port: a
reverse proxy passes them the fleet paths and nothing else (deploy/).
"""

import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from common.errors import ConfigError, FoveaError, RunError, TrustError
from common.files.lock import Lock
from common.files.whole_file import write_whole
from server.operations import database, processes
from server.operations.console_log import ConsoleLog
from server.operations.expiry import certificate_warnings, expired_certificates
from server.operations.federation_file import read_federation
from server.operations.flower_control import HOST, TIMEOUT_S, control_of
from server.operations.home import CoordinatorHome
from server.operations.introduction import introduce_sites
from server.operations.superlink import check_free, command, database_file, environment

log = logging.getLogger(__name__)

TICK_S = 0.5  # how often we look whether it lives
ANSWER_S = 90.0  # how long a start may take: a slow disk, a migration of the database
TIDY_S = 60.0  # how often the database is kept small
WARN_S = 86400.0  # how often certificates that will expire are named
EXPIRED_S = 3600.0  # how often those that have are
RUNS_DRAIN_S = 20.0  # how long runs have to close what they write
SUPERLINK_DRAIN_S = 15.0  # and the SuperLink after them
REST_DRAIN_S = 3.0  # what is left below it has nothing to keep
# From a signal to the end, at most; the service unit's stop time must be longer. The first: a
# question to a SuperLink that hangs, in which the signal may find us.
LONGEST_STOP_S = (
    TIMEOUT_S + RUNS_DRAIN_S + SUPERLINK_DRAIN_S + REST_DRAIN_S + 3 * processes.KILLED_S
)
BACK_OFF_S = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)  # between starts that did not last
LASTED_S = 120.0  # a SuperLink that lived so long failed for a new reason


def serve(home: CoordinatorHome, *, say: Callable[[str], None]) -> None:
    """Keep the SuperLink of a coordinator running until SIGTERM or SIGINT.

    Raises ConfigError, TrustError or RunError for what no restart can mend: files missing, the
    port taken, another `fovea serve` for the same home.
    """
    os.umask(0o077)
    port = read_federation(home.federation_file).superlink_port
    _check_files(home)
    home.superlink.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (
        Lock(home.superlink / "serve.lock", "another `fovea serve` runs for this --home."),
        _stopped_by_signals() as stop,
    ):
        processes.adopt_orphans()
        _end_leftover(home)
        for number in (port, port + 1):
            check_free(number)
        _supervise(home, port, stop, say)


def _supervise(
    home: CoordinatorHome, port: int, stop: threading.Event, say: Callable[[str], None]
) -> None:
    failures = 0
    while not stop.is_set():
        started = time.monotonic()
        database.prepare(database_file(home))
        with ConsoleLog(home.superlink / "superlink.log") as console:
            superlink = _start(home, port, console)
            try:
                if _wait_until_it_answers(home, superlink, stop):
                    _introduce_when_possible(home)
                    log.info("superlink up", extra={"action": "superlink_up", "port": port})
                    say(_welcome(home, port))
                    _watch(home, superlink, stop)
            finally:
                _end(superlink, drains=stop.is_set())
        if stop.is_set():
            break
        failures = 1 if time.monotonic() - started > LASTED_S else failures + 1
        pause_s = BACK_OFF_S[min(failures - 1, len(BACK_OFF_S) - 1)]
        extra = {"action": "superlink_down", "exit_code": superlink.returncode}
        log.error("superlink ended; it starts again", extra={**extra, "pause_s": pause_s})
        stop.wait(pause_s)
    log.info("drained", extra={"action": "serve_drained"})


def _start(home: CoordinatorHome, port: int, console: ConsoleLog) -> subprocess.Popen[bytes]:
    superlink = subprocess.Popen(  # noqa: S603 - our own command, no shell
        command(home, host=HOST, port=port),
        env=environment(home, os.environ),
        stdin=subprocess.DEVNULL,
        stdout=console.inlet,
        stderr=console.inlet,
        start_new_session=True,  # Ctrl-C is for us: we end it in order
        cwd=home.superlink,
    )
    write_whole(_pid_file(home), f"{superlink.pid}\n".encode())
    return superlink


def _wait_until_it_answers(
    home: CoordinatorHome, superlink: subprocess.Popen[bytes], stop: threading.Event
) -> bool:
    deadline = time.monotonic() + ANSWER_S
    while superlink.poll() is None and not stop.is_set():
        try:
            with control_of(home) as control:
                control.nodes()
        except TrustError:
            if expired_certificates(home, datetime.now(UTC)):
                return True  # it answers; sites can be told why they cannot connect
            raise
        except RunError as error:
            if time.monotonic() > deadline:
                log.error("superlink never answered", extra={"action": "superlink_silent"})
                log.debug("its last word: %s", error)
                return False
            stop.wait(TICK_S / 2)
        else:
            return True
    return False


def _watch(
    home: CoordinatorHome, superlink: subprocess.Popen[bytes], stop: threading.Event
) -> None:
    """Return when the SuperLink has died or a signal came."""
    tidy_at = time.monotonic() + TIDY_S
    warn_at = expired_at = 0.0
    while superlink.poll() is None and not stop.wait(TICK_S):
        processes.reap(but=superlink.pid)
        if time.monotonic() >= warn_at:
            _say_of_certificates(home, certificate_warnings, logging.WARNING, "certificate_expires")
            warn_at = time.monotonic() + WARN_S
        if time.monotonic() >= expired_at:
            _say_of_certificates(home, expired_certificates, logging.ERROR, "certificate_expired")
            expired_at = time.monotonic() + EXPIRED_S
        if time.monotonic() >= tidy_at:
            _tidy(home)
            tidy_at = time.monotonic() + TIDY_S


def _say_of_certificates(
    home: CoordinatorHome,
    sentences: Callable[[CoordinatorHome, datetime], Iterable[str]],
    level: int,
    action: str,
) -> None:
    try:
        for sentence in sentences(home, datetime.now(UTC)):
            log.log(level, sentence, extra={"action": action})
    except TrustError as error:  # the SuperLink has read them and works
        log.error("certificates cannot be read: %s", error, extra={"action": "certificate_unread"})


def _tidy(home: CoordinatorHome) -> None:
    """Let Flower drop what finished runs left, then give the space back."""
    try:
        with control_of(home) as control:
            control.runs()
            introduce_sites(home, control)
        taken = database.tidy(database_file(home))
    except FoveaError as error:  # the SuperLink matters more than its housekeeping
        log.warning("housekeeping put off: %s", error, extra={"action": "tidy_failed"})
        return
    log.debug(
        "database tidied",
        extra={"action": "database_tidied", "file_mb": round(taken.file_mb, 1)},
    )


def _introduce_when_possible(home: CoordinatorHome) -> None:
    """Introduce the sites; what fails here is tried again with the next tidying."""
    try:
        with control_of(home) as control:
            introduce_sites(home, control)
    except FoveaError as error:
        extra = {"action": "introduction_failed"}
        log.warning("sites not made known yet: %s", error, extra=extra)


def _end(superlink: subprocess.Popen[bytes], *, drains: bool) -> None:
    """End the SuperLink and everything below it; runs first, so that they can close their files."""
    below = processes.descendants()
    if drains:
        processes.end(processes.named(below, "flwr-serverapp"), patience_s=RUNS_DRAIN_S)
    if superlink.poll() is None:
        superlink.terminate()
        try:
            superlink.wait(SUPERLINK_DRAIN_S)
        except subprocess.TimeoutExpired:
            superlink.kill()
            with suppress(subprocess.TimeoutExpired):
                superlink.wait(processes.KILLED_S)
    processes.end(processes.descendants(), patience_s=REST_DRAIN_S)
    processes.reap(but=superlink.pid)


def _end_leftover(home: CoordinatorHome) -> None:
    """End a SuperLink whose own `fovea serve` was killed."""
    try:
        pid = int(_pid_file(home).read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):
        return
    left = processes.family(pid)
    # Process numbers come again: only what serves this very database is ours.
    if left and processes.mentions(left[0], str(database_file(home))):
        log.warning("ending a superlink that was left behind", extra={"action": "leftover_ended"})
        processes.end(left, patience_s=RUNS_DRAIN_S)


def _welcome(home: CoordinatorHome, port: int) -> str:
    federation = read_federation(home.federation_file)
    return (
        f"SuperLink of federation {federation.name} listens on {HOST}:{port} (TLS, this machine "
        f"only).\nSites connect to {federation.endpoint}: the reverse proxy must pass its fleet "
        f"paths on to that port.\nWho is connected: fovea sites --home {home.root}\n"
        f"Health for probes: gRPC {HOST}:{port + 1}. Log: {home.superlink / 'superlink.log'}"
    )


def _check_files(home: CoordinatorHome) -> None:
    for path in (home.authority, home.server_certificate, home.server_key, home.run_key):
        if not path.is_file():
            raise ConfigError(
                f"{path}: not found. `fovea provision FEDERATION --out {home.root}` writes it."
            )


@contextmanager
def _stopped_by_signals() -> Iterator[threading.Event]:
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        del number, frame
        stop.set()

    before = {n: signal.signal(n, on_signal) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _pid_file(home: CoordinatorHome) -> Path:
    return home.superlink / "superlink.pid"
