"""The process of a site that talks to the network: no data, no torch, nothing shipped is executed.

It takes messages from the coordinator, checks that their run brings no code of its own, hands
their content to the trainer and sends back what the trainer says. It reads and believes nothing
in between: what a site does is the trainer's to decide.
"""

import fcntl
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from cryptography import x509
from flwr.app import RecordDict

from client.home.connector_file import ConnectorSettings, read_connector
from client.home.folders import SiteHome
from client.home.node_key import read_node_key
from client.network.fleet import Delivery, Fleet, Former, connect
from client.network.line import FleetError, Trouble
from client.network.pending import MAX_TRIES, Pending
from client.network.trainer_line import AskAbandonedError, TrainerLine
from client.standing.connector_report import Board, ConnectorReport, read_report
from client.standing.exposition import serve_metrics
from common.errors import SiteError, TrustError, WireError
from common.messages.bundle import check_bundle
from common.messages.kinds import Refusal, RefusalCode
from common.messages.record_bytes import from_bytes, to_bytes
from common.messages.wire import encode, refusal_code

log = logging.getLogger(__name__)

SHORTEST_PAUSE_S = 0.1  # between looks for a message
IDLE_SHARE = 0.1  # a pause is this share of the time without a message: rounds stay quick,
# and hundreds of idle sites ask seldom
FIRST_RETRY_S = 5.0  # after a refusal
LONGEST_RETRY_S = 120.0
LONGEST_REACTIVATION_S = 20.0  # an earlier connection counts as open for a minute
REMEMBERED_RUNS = 64


def run_connector(home: SiteHome) -> None:
    """Serve the coordinator's messages until SIGTERM or SIGINT; a second one ends at once.

    Raises ConfigError, TrustError or SiteError when what it needs cannot be read, or another
    connector of this site runs.
    """
    logging.getLogger("flwr").setLevel(logging.ERROR)  # Flower logs each try in its own form
    settings = read_connector(home.connector_file)
    with _only_one(home.connector / "connector.lock"), _stopping() as stop:
        former = _former(home)
        report = ConnectorReport(
            site=settings.site,
            federation=settings.federation,
            coordinator=settings.coordinator,
            pid=os.getpid(),
            written_at=_now(),
            node_id=former.node_id if former else None,
            certificate_warning_days=settings.certificate_warning_days,
        )
        board = Board(home.connector_status, report, now=_now)
        connector = Connector(home, settings, board, stop)
        with board.kept_fresh(), serve_metrics(home, settings.metrics_port):
            connector.run(former)


class Connector:
    """The loop between coordinator and trainer."""

    def __init__(
        self, home: SiteHome, settings: ConnectorSettings, board: Board, stop: threading.Event
    ) -> None:
        """Take the site's folder and the event that ends the loop."""
        self._home = home
        self._settings = settings
        self._board = board
        self._stop = stop
        self._trainer = TrainerLine(home.socket, stop)
        self._pending = Pending(home.connector / "pending.json")
        self._verdicts: dict[int, str | None] = {}  # per run: None, or why its bundle is refused

    def run(self, former: Former | None) -> None:
        """Connect, and again after every end of a connection, until asked to stop."""
        retry_s = FIRST_RETRY_S
        while not self._stop.is_set():
            connected_at = self._board.report.connected_since
            try:
                self._serve(former)
            except FleetError as error:
                if error.trouble == Trouble.STOPPED or self._stop.is_set():
                    break
                if self._board.report.connected_since != connected_at:
                    retry_s = FIRST_RETRY_S  # it was in between
                self._board.troubled(str(error))
                self._board.change(state="waiting", connected_since=None)
                longest_s = LONGEST_RETRY_S
                if error.trouble == Trouble.STILL_OPEN:
                    longest_s = LONGEST_REACTIVATION_S
                self._stop.wait(min(retry_s, longest_s))
                retry_s = min(retry_s * 2, LONGEST_RETRY_S)
            # From here on this process knows how its connection ended.
            node_id = self._board.report.node_id
            former = Former(node_id, float("inf")) if node_id is not None else None

    def _serve(self, former: Former | None) -> None:
        """Answer messages over one connection until it ends."""
        # Read anew each time: the authority or the key may just have been renewed.
        authority = _read_authority(self._home.certificate_authority)
        self._board.pinned(x509.load_pem_x509_certificate(authority).not_valid_after_utc)
        with connect(
            coordinator=self._settings.coordinator,
            authority=authority,
            key=read_node_key(self._home.node_key),
            watcher=self._board,
            stop=self._stop,
            former=former,
        ) as fleet:
            self._board.connected(fleet.node_id)
            self._finish_pending(fleet)
            quiet_since = time.monotonic()
            while not self._stop.is_set():
                delivery = fleet.receive()
                if delivery is None:
                    quiet_s = time.monotonic() - quiet_since
                    self._stop.wait(_pause_s(quiet_s, longest_s=self._settings.poll_s))
                else:
                    self._handle(fleet, delivery, tries=1)
                    quiet_since = time.monotonic()

    def _finish_pending(self, fleet: Fleet) -> None:
        left = self._pending.left(node_id=fleet.node_id)
        if left is None:
            return
        delivery, tries = left
        log.info("going on with a message", extra={"action": "message_resumed", "tries": tries})
        self._handle(fleet, delivery, tries=tries + 1)

    def _handle(self, fleet: Fleet, delivery: Delivery, *, tries: int) -> None:
        """Answer one message; what cannot be answered is logged and left."""
        self._pending.keep(delivery, node_id=fleet.node_id, tries=tries)
        self._board.change(working_since=_now())
        started = time.monotonic()
        fields = {"flower_run": delivery.run_id, "flower_message": delivery.message_id[:12]}
        try:
            if tries > MAX_TRIES:
                answer = self._refusal(
                    RefusalCode.UNAVAILABLE, "the site's connector breaks down over this request."
                )
            else:
                answer = self._answer(fleet, delivery)
            seconds = time.monotonic() - started
            wanted = fleet.reply(delivery, answer, seconds=seconds)
            fleet.confirm(delivery)
        except AskAbandonedError:
            return  # the message stays on disk: it is answered after the next start
        except FleetError as error:
            if error.trouble not in (Trouble.RUN_OVER, Trouble.GONE):
                raise
            log.info("no answer sent: %s", error, extra={"action": "answer_unsent", **fields})
        else:
            code = refusal_code(answer)
            self._board.answered(code, is_training=delivery.is_training)
            log.info(
                "answer sent" if wanted else "the answer came too late",
                extra={
                    "action": "answer_sent" if wanted else "answer_late",
                    **fields,
                    "refusal": code,
                    "seconds": round(seconds, 3),
                },
            )
        finally:
            self._board.change(working_since=None)
        self._pending.clear()

    def _answer(self, fleet: Fleet, delivery: Delivery) -> RecordDict:
        """Return the trainer's answer, or this connector's refusal in the site's name."""
        reason = self._distrust(fleet, delivery.run_id)
        if reason is not None:
            return self._refusal(RefusalCode.UNTRUSTED, reason)
        try:
            content = to_bytes(fleet.content(delivery))
            answer = self._trainer.ask(content, expires_at=delivery.expires_at)
        except AskAbandonedError:
            raise
        except WireError as error:
            return self._refusal(RefusalCode.UNREADABLE, str(error))
        except SiteError as error:
            return self._away(error)
        try:
            return from_bytes(answer)
        except WireError as error:
            return self._away(error)

    def _away(self, error: SiteError | WireError) -> RecordDict:
        log.error("the trainer is away: %s", error, extra={"action": "trainer_away"})
        # What exactly is wrong is the site's business; its own log has it.
        return self._refusal(RefusalCode.UNAVAILABLE, "the site's trainer does not answer.")

    def _distrust(self, fleet: Fleet, run_id: int) -> str | None:
        """Return why a run's bundle is refused, or None. Each run is checked once."""
        if run_id not in self._verdicts:
            while len(self._verdicts) >= REMEMBERED_RUNS:
                del self._verdicts[next(iter(self._verdicts))]
            try:
                check_bundle(fleet.bundle(run_id))
                self._verdicts[run_id] = None
            except TrustError as error:
                self._verdicts[run_id] = str(error)
                self._board.distrusted(str(error))
        return self._verdicts[run_id]

    def _refusal(self, code: RefusalCode, reason: str) -> RecordDict:
        return encode(Refusal(site=self._settings.site, code=code, reason=reason))


def _pause_s(quiet_s: float, *, longest_s: float) -> float:
    """How long to wait before the next look, so many seconds after the last message."""
    return min(max(SHORTEST_PAUSE_S, IDLE_SHARE * quiet_s), longest_s)


def _former(home: SiteHome) -> Former | None:
    """Return the connection of the process before this one, as its report tells."""
    try:
        report = read_report(home.connector_status)
    except SiteError as error:
        log.warning("%s", error, extra={"action": "report_unreadable"})
        return None
    if report is None or report.node_id is None:
        return None
    seconds_ago = float("inf")
    if report.state == "connected" and report.last_exchange_at is not None:
        seconds_ago = (_now() - report.last_exchange_at).total_seconds()
    return Former(report.node_id, seconds_ago)


def _read_authority(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TrustError(
            f"{path}: the certificate authority cannot be read ({error.strerror}). It comes with "
            "the kit."
        ) from error


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Hold the lock of this site's connector; the kernel lets go of it with the process."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SiteError(
                f"{path}: another connector of this site runs. Stop it first."
            ) from error
        yield


@contextmanager
def _stopping() -> Iterator[threading.Event]:
    """Give the event that SIGTERM and SIGINT set; a second signal ends the process at once."""
    stop = threading.Event()

    def ask_to_stop(number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    before = {
        number: signal.signal(number, ask_to_stop) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _now() -> datetime:
    return datetime.now(UTC)
