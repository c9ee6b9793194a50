"""``status.json``: what a run is doing, written whole at every step by the process that does it."""

from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, ValidationError

from common.config.run import Section
from common.errors import DataError
from common.files.whole_file import write_whole
from server.exchange.participation import Outcome, Status


class Phase(StrEnum):
    """What a run's process is at."""

    LAUNCHED = "launched"  # Flower was asked for a process
    PREPARING = "preparing"  # configuration, network, reference sets
    WAITING = "waiting"  # for sites to say that they are there
    TRAINING = "training"
    MEASURING = "measuring"
    CLOSING = "closing"  # report, model files, tracking
    ENDED = "ended"  # with a verdict
    STOPPED = "stopped"  # a person asked for it
    BROKEN = "broken"  # an error, said in reasons


OVER = (Phase.ENDED, Phase.STOPPED, Phase.BROKEN)


class SiteStanding(Section):
    """What last came of a site."""

    name: str
    task: str
    server_round: int | None  # of what follows; None: it was not asked yet
    outcome: Outcome | None  # None while it is waited for
    reason: str


class RunStatus(Section):
    """A run from its launch to its end."""

    version: Literal[1]
    run: str
    phase: Phase
    since: AwareDatetime  # when the phase or round began
    heartbeat_at: AwareDatetime
    launched_at: AwareDatetime
    pid: int | None  # None before the process has begun
    server_round: int  # the one that is trained or measured; 0: before training
    rounds_done: int
    rounds: int
    sites: tuple[SiteStanding, ...]
    waiting_for: tuple[str, ...]  # sites of which nothing has come yet
    verdict: Status | None
    reasons: tuple[str, ...]


def write_status(path: Path, status: RunStatus) -> None:
    """Write a status so that a reader finds the old file or the whole new one."""
    write_whole(path, (status.model_dump_json(indent=1) + "\n").encode(), mode=0o600)


def read_status(path: Path) -> RunStatus | None:
    """Read a status, None where there is none yet. Raises DataError for another's file."""
    try:
        return RunStatus.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from error
    except ValidationError as error:
        raise DataError(f"{path}: not written by this version of Fovea.") from error


def launched(
    *, run: str, rounds: int, sites: tuple[tuple[str, str], ...], now: datetime
) -> RunStatus:
    """Return the status of a run whose process was just asked for; ``sites`` with their tasks."""
    now = now.astimezone(UTC)
    return RunStatus(
        version=1,
        run=run,
        phase=Phase.LAUNCHED,
        since=now,
        heartbeat_at=now,
        launched_at=now,
        pid=None,
        server_round=0,
        rounds_done=0,
        rounds=rounds,
        sites=tuple(
            SiteStanding(name=name, task=task, server_round=None, outcome=None, reason="")
            for name, task in sites
        ),
        waiting_for=(),
        verdict=None,
        reasons=(),
    )
