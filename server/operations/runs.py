"""Every run of a coordinator, and what became of it."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path

from common.errors import RunError
from common.files.lock import is_held
from server.operations.home import CoordinatorHome, RunFolder
from server.operations.run_status import OVER, Phase, RunStatus, read_status

START = timedelta(seconds=120)  # how long Flower may take to start a run's process
STALL = timedelta(seconds=60)  # a living process writes its heartbeat far more often


class RunState(StrEnum):
    """What a person wants to know of a run."""

    STARTING = "starting"
    RUNNING = "running"
    COMPLETE = "COMPLETE"
    PARTIAL = "PARTIAL"
    FAILED = "FAILED"
    STOPPED = "stopped"
    INTERRUPTED = "interrupted"  # its process is gone, and it had not ended


ALIVE = (RunState.STARTING, RunState.RUNNING)
RESUMABLE = (RunState.STOPPED, RunState.INTERRUPTED)
_ENDS = {Phase.BROKEN: RunState.FAILED, Phase.STOPPED: RunState.STOPPED}


@dataclass(frozen=True)
class RunView:
    """A run as `fovea runs` and `fovea status` show it."""

    name: str
    state: RunState
    status: RunStatus | None  # None: it was never launched to the end
    advice: str  # what can be done now; "" when nothing needs to be


def view_run(folder: RunFolder, now: datetime) -> RunView:
    """Return what became of one run."""
    status = read_status(folder.status)
    if status is None:
        return RunView(folder.name, RunState.INTERRUPTED, None, "it was never started: launch anew")
    state = _state(status, now, is_alive=is_held(lock_file(folder)))
    return RunView(folder.name, state, status, _advice(folder, state, status, now))


def view_runs(home: CoordinatorHome, now: datetime) -> tuple[RunView, ...]:
    """Return every run, the last launched first."""
    views = [view_run(folder, now) for folder in _folders(home)]
    never = datetime.min.replace(tzinfo=now.tzinfo)
    launched = {v.name: v.status.launched_at if v.status else never for v in views}
    return tuple(sorted(views, key=lambda view: launched[view.name], reverse=True))


def run_named(home: CoordinatorHome, name: str | None, now: datetime) -> RunFolder:
    """Return a run's folder; without a name, that of the last launched run.

    Raises RunError naming the nearest run.
    """
    names = [folder.name for folder in _folders(home)]
    if not names:
        raise RunError(f"{home.runs}: no run yet. `fovea launch CONFIG --sites …` starts one.")
    if name is None:
        return home.run(view_runs(home, now)[0].name)
    if name not in names:
        near = get_close_matches(name, names, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise RunError(f"unknown run {name!r}.{hint} `fovea runs` lists them.")
    return home.run(name)


def lock_file(folder: RunFolder) -> Path:
    """Return the file whose lock the process of a run holds."""
    return folder.root / "lock"


def _state(status: RunStatus, now: datetime, *, is_alive: bool) -> RunState:
    if is_alive and status.phase not in OVER:
        return RunState.RUNNING
    if status.phase in _ENDS:
        return _ENDS[status.phase]
    if status.phase is Phase.ENDED and status.verdict is not None:
        return RunState(status.verdict.value)
    if status.phase is Phase.LAUNCHED and now - status.since < START:
        return RunState.STARTING
    return RunState.INTERRUPTED


def _advice(folder: RunFolder, state: RunState, status: RunStatus, now: datetime) -> str:
    resume = f"fovea resume {folder.name}"
    silence = now - status.heartbeat_at
    if state is RunState.RUNNING and silence > STALL:
        return f"no heartbeat for {silence.total_seconds():.0f} s: see {folder.log}"
    if status.phase is Phase.BROKEN:
        return f"mend what stopped it, then {resume}"
    return resume if state in RESUMABLE else ""


def _folders(home: CoordinatorHome) -> list[RunFolder]:
    if not home.runs.is_dir():
        return []
    return [home.run(path.name) for path in sorted(home.runs.iterdir()) if _is_run(path)]


def _is_run(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".")
