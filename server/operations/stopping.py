"""``fovea stop``: first the run is asked to end by itself, then its process is ended."""

import time
from datetime import datetime

from common.errors import RunError
from server.operations.flower_control import control_of
from server.operations.home import CoordinatorHome, RunFolder
from server.operations.runs import ALIVE, RunState, view_run

STOP_S = 60.0  # how long a run may take to stop by itself, and its process to end
LOOK_S = 0.2


def stop(home: CoordinatorHome, folder: RunFolder, *, wait_s: float = STOP_S) -> RunState:
    """Stop a run: let it keep what it has, and only if it does not, end its process.

    Return its state then. Raises RunError when it is not running or cannot be ended.
    """
    view = view_run(folder, _now())
    if view.state not in ALIVE:
        raise RunError(f"run {folder.name} is {view.state.value}: there is nothing to stop.")
    folder.stop_marker.touch(mode=0o600)
    if not _ends(folder, wait_s):
        with control_of(home) as control:
            for run in control.runs():
                if run.config.get("run") == folder.name and not run.is_finished:
                    control.stop_run(run.run_id)
        _ends(folder, wait_s)
    state = view_run(folder, _now()).state
    if state in ALIVE:
        raise RunError(f"run {folder.name} has not ended after {2 * wait_s:.0f} s: {folder.log}")
    return state


def _ends(folder: RunFolder, wait_s: float) -> bool:
    deadline = time.monotonic() + wait_s
    while view_run(folder, _now()).state in ALIVE:
        if time.monotonic() > deadline:
            return False
        time.sleep(LOOK_S)
    return True


def _now() -> datetime:
    return datetime.now().astimezone()
