"""How far a run is, in status.json, with a heartbeat while its process lives."""

import logging
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path

from server.exchange.participation import Outcome, Reply, Status
from server.operations.run_status import OVER, Phase, RunStatus, SiteStanding, write_status
from server.rounds.round_report import Progress

log = logging.getLogger(__name__)

HEARTBEAT_S = 2.0


class ReportedProgress(AbstractContextManager["ReportedProgress"]):
    """Writes every step of a run, and tells another progress of it. Use as a context manager."""

    def __init__(self, path: Path, status: RunStatus, *, beside: Progress) -> None:
        """Go on from a status; nothing is written yet."""
        self._path = path
        self._status = status
        self._beside = beside
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> "ReportedProgress":
        """Write the status and begin to beat."""
        self._change()
        self._heart.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop beating; the last status stays."""
        self._over.set()
        self._heart.join()

    def begin(self, phase: Phase) -> None:
        """Take in what the process is at."""
        self._change(phase=phase, since=datetime.now(UTC), waiting_for=())

    def go_on(self, *, after: int) -> None:
        """Take in how many rounds are over already."""
        self._change(rounds_done=after, server_round=after)

    def waiting_for(self, sites: Sequence[str]) -> None:
        """Say which sites have not come yet."""
        since = self._status.since if self._status.phase is Phase.WAITING else datetime.now(UTC)
        self._change(phase=Phase.WAITING, since=since, waiting_for=tuple(sites))
        self._beside.waiting_for(sites)

    def round_started(self, server_round: int, *, rounds: int, sites: Sequence[str]) -> None:
        """Say who trains."""
        asked = {
            site: SiteStanding(
                name=site,
                task=self._task(site),
                server_round=server_round,
                outcome=None,
                reason="",
            )
            for site in sites
        }
        self._change(
            phase=Phase.TRAINING,
            since=datetime.now(UTC),
            server_round=server_round,
            waiting_for=tuple(sites),
            sites=tuple(asked.get(site.name, site) for site in self._status.sites),
        )
        self._beside.round_started(server_round, rounds=rounds, sites=sites)

    def site_answered(self, site: str) -> None:
        """Say that something came from a site."""
        still = tuple(name for name in self._status.waiting_for if name != site)
        self._change(waiting_for=still)
        self._beside.site_answered(site)

    def evaluating(self, server_round: int, *, sites: Sequence[str]) -> None:
        """Say that the model is being measured."""
        now = datetime.now(UTC)
        self._change(
            phase=Phase.MEASURING, since=now, server_round=server_round, waiting_for=tuple(sites)
        )
        self._beside.evaluating(server_round, sites=sites)

    def round_finished(self, server_round: int, *, replies: Sequence[Reply]) -> None:
        """Say what came of every site."""
        came = {
            reply.site: SiteStanding(
                name=reply.site,
                task=self._task(reply.site),
                server_round=server_round,
                outcome=Outcome(reply.outcome),
                reason=reply.reason,
            )
            for reply in replies
        }
        self._change(
            rounds_done=server_round,
            waiting_for=(),
            sites=tuple(came.get(site.name, site) for site in self._status.sites),
        )
        self._beside.round_finished(server_round, replies=replies)

    def ended(self, phase: Phase, *, verdict: Status | None, reasons: Sequence[str]) -> None:
        """Say how it ended."""
        now = datetime.now(UTC)
        self._change(
            phase=phase, since=now, waiting_for=(), verdict=verdict, reasons=tuple(reasons)
        )

    def is_over(self) -> bool:
        """Say whether it has been said how it ended."""
        return self._status.phase in OVER

    def _task(self, site: str) -> str:
        return next(standing.task for standing in self._status.sites if standing.name == site)

    def _beat(self) -> None:
        is_writable = True
        while not self._over.wait(HEARTBEAT_S):
            try:
                self._change()
            except OSError as error:  # a full disk may have room again: the heart goes on
                if is_writable:
                    log.warning(
                        "the run's status cannot be written: %s",
                        error.strerror,
                        extra={"action": "heartbeat_failed"},
                    )
                is_writable = False
            else:
                is_writable = True

    def _change(self, **values: object) -> None:
        with self._lock:
            now = datetime.now(UTC)
            self._status = self._status.model_copy(update={**values, "heartbeat_at": now})
            write_status(self._path, self._status)
