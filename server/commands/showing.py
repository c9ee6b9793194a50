"""How runs look at the terminal, and as JSON."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import JsonValue
from rich.console import Group
from rich.table import Table
from rich.text import Text

from server.operations.home import CoordinatorHome, RunFolder
from server.operations.run_status import Phase, RunStatus
from server.operations.runs import ALIVE, RunState, RunView

_STYLE = {
    RunState.COMPLETE: "green",
    RunState.PARTIAL: "yellow",
    RunState.FAILED: "red",
    RunState.INTERRUPTED: "red",
    RunState.STOPPED: "yellow",
}
_DOING = {
    Phase.LAUNCHED: "waiting for Flower to start its process",
    Phase.PREPARING: "preparing network and reference sets",
    Phase.WAITING: "waiting for sites",
    Phase.CLOSING: "writing report and models",
}


def run_table(views: Sequence[RunView], home: CoordinatorHome, now: datetime) -> Table:
    """Return a line per run."""
    table = Table(box=None, pad_edge=False)
    for column in ("run", "state", "rounds", "sites", "launched", "size", ""):
        table.add_column(column, overflow="fold")
    for view in views:
        status, size = view.status, _size(home.run(view.name))
        table.add_row(
            view.name,
            Text(view.state.value, style=_STYLE.get(view.state, "")),
            f"{status.rounds_done}/{status.rounds}" if status else "",
            ",".join(site.name for site in status.sites) if status else "",
            f"{duration(now - status.launched_at)} ago" if status else "",
            size,
            view.advice,
        )
    return table


def describe_run(view: RunView, now: datetime) -> Group:
    """Return what a run is doing, for whom it waits and what each site last did."""
    head = Text.assemble(view.name, "  ", (view.state.value, _STYLE.get(view.state, "bold")))
    parts: list[Text | Table] = [head]
    status = view.status
    if status is not None:
        if view.state in ALIVE:
            parts.append(Text(f"{doing(status)}, since {duration(now - status.since)}"))
        if view.state in ALIVE and status.waiting_for:
            parts.append(Text(f"waits for {', '.join(status.waiting_for)}"))
        ago = duration(now - status.launched_at)
        parts.append(Text(f"{status.rounds_done} of {status.rounds} rounds, launched {ago} ago"))
        parts += [Text(reason) for reason in status.reasons]
        parts.append(_site_table(status))
    if view.advice:
        parts.append(Text(view.advice, style="yellow"))
    return Group(*parts)


def doing(status: RunStatus) -> str:
    """Return in words what a run's process is at."""
    if status.phase is Phase.TRAINING:
        return f"round {status.server_round} of {status.rounds}: sites train"
    if status.phase is Phase.MEASURING:
        return f"measuring the model of round {status.server_round}"
    return _DOING.get(status.phase, status.phase.value)


def run_as_json(view: RunView) -> dict[str, JsonValue]:
    """Return a run for machines: its state beside what its status.json holds."""
    status: JsonValue = view.status.model_dump(mode="json") if view.status else None
    return {
        "run": view.name,
        "state": view.state.value,
        "advice": view.advice,
        "status": status,
    }


def duration(span: timedelta) -> str:
    """Return a span of time as people say it."""
    seconds = max(int(span.total_seconds()), 0)
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds // unit} {name}"
    return f"{seconds} s"


def _site_table(status: RunStatus) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("site", "task", "round", "last", "why"):
        table.add_column(column, overflow="fold")
    for site in status.sites:
        asked = site.server_round is not None
        outcome = site.outcome.value if site.outcome else "asked" if asked else "not asked yet"
        number = str(site.server_round) if asked else ""
        table.add_row(site.name, site.task, number, outcome, site.reason)
    return table


def _size(folder: RunFolder) -> str:
    size = float(sum(path.stat().st_size for path in _files(folder.root)))
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def _files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file() and not path.name.startswith(".")]
