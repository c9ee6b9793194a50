"""Shows at the terminal how far a run is, as its status.json tells it, until it has ended."""

import time
from datetime import UTC, datetime

from rich.console import Console
from rich.progress import Progress, TaskID

from server.exchange.participation import Outcome
from server.journal.watching import bars
from server.operations.home import RunFolder
from server.operations.run_status import Phase, RunStatus
from server.operations.runs import ALIVE, RunView, view_run

LOOK_S = 0.5


def follow(folder: RunFolder, console: Console) -> RunView:
    """Draw bars until the run is no longer alive; return what became of it."""
    view = view_run(folder, datetime.now(UTC))
    told: set[tuple[str, int, str]] = set()
    with bars(console) as progress:
        rounds = progress.add_task("rounds", total=view.status.rounds if view.status else None)
        now = progress.add_task("starting", total=None)
        while view.state in ALIVE:
            if view.status is not None:
                progress.update(rounds, completed=view.status.rounds_done)
                _show_step(progress, now, view.status)
                _name_absent(console, view.status, told)
            time.sleep(LOOK_S)
            view = view_run(folder, datetime.now(UTC))
        if view.status is not None:
            progress.update(rounds, completed=view.status.rounds_done)
        progress.remove_task(now)
    return view


def _show_step(progress: Progress, task: TaskID, status: RunStatus) -> None:
    asked = [site for site in status.sites if site.server_round == status.server_round]
    waiting = ", ".join(status.waiting_for)
    if status.phase is Phase.TRAINING:
        step = f"round {status.server_round}/{status.rounds}"
        said = f"{step}: waiting for {waiting}" if waiting else f"{step}: merging"
        done = len(asked) - len(status.waiting_for)
        progress.update(task, description=said, total=len(asked), completed=done)
    else:
        said = f"waiting for {waiting}" if waiting else status.phase.value
        progress.update(task, description=said, total=None)


def _name_absent(console: Console, status: RunStatus, told: set[tuple[str, int, str]]) -> None:
    """Say once of each site and round that nothing usable came."""
    for site in status.sites:
        if site.outcome in (None, Outcome.ANSWERED, Outcome.MEASURED) or site.server_round is None:
            continue
        key = (site.name, site.server_round, site.reason)
        if key not in told:
            told.add(key)
            sentence = f"round {site.server_round}: {site.name} {site.outcome}: {site.reason}"
            console.print(sentence, style="yellow", markup=False, highlight=False)
