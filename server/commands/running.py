"""Commands on runs over real sites: launch, runs, status, stop, resume."""

import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.console import Console
from rich.live import Live

from common.errors import FoveaError
from server.commands.failing import (
    EXIT_BY_VERDICT,
    fail,
    failing_plainly,
    home_option,
    overrides_option,
)
from server.commands.showing import describe_run, run_as_json, run_table
from server.operations.home import CoordinatorHome

WATCH_S = 1.0

follow_option = click.option(
    "--follow", is_flag=True, help="Show how far it is until it ends; exit 3 partial, 4 failed."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, nothing else.")


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option(
    "--sites",
    required=True,
    metavar="NAME,NAME,…",
    help="Admitted sites that take part; nobody else hears of the run. `fovea sites` lists them.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Folder that relative paths of the reference sets start from.",
)
@overrides_option
@click.option(
    "--days",
    type=click.IntRange(1, 3650),
    help="How long sites may answer: the manifest's life.  [default: the federation's run_days]",
)
@json_option
@follow_option
@home_option
@failing_plainly
def launch(
    *,
    config: Path,
    sites: str,
    data: Path | None,
    overrides: tuple[str, ...],
    days: int | None,
    as_json: bool,
    follow: bool,
    home: CoordinatorHome,
) -> None:
    """Start the run that CONFIG describes, with these sites and no other.

    The run's whole configuration, its sites and the digests of network and code are written into a
    manifest and signed; a site trains only when it allows that manifest. Of CONFIG's own sites only
    names and tasks count: every hospital's pictures are where its own site.yaml says. Tasks that
    none of the named sites holds are left out of the run.

    Needs `fovea serve` running. The run goes on without this terminal.

    Exit codes: 0 started (with --follow: complete), 1 an error, 2 wrong usage, 3 partial, 4 failed.
    """
    from server.operations.launch import launch as start  # noqa: PLC0415 - brings Flower

    named = [name.strip() for name in sites.split(",") if name.strip()]
    launched = start(
        home,
        config,
        sites=named,
        overrides=overrides,
        data_root=data,
        days=days,
        now=datetime.now(UTC),
    )
    name = launched.folder.name
    if as_json:
        click.echo(json.dumps({"run": name, "notes": launched.notes}))
    else:
        click.echo(f"run {name} started")
        for note in launched.notes:
            click.echo(note)
        click.echo(f"watch it:  fovea status {name} --watch")
    _follow_if(follow, home, name)


@click.command()
@json_option
@home_option
@failing_plainly
def runs(as_json: bool, home: CoordinatorHome) -> None:
    """List every run, the last launched first, and what can be done with it."""
    from server.operations.runs import view_runs  # noqa: PLC0415

    now = datetime.now(UTC)
    views = view_runs(home, now)
    if as_json:
        click.echo(json.dumps([run_as_json(view) for view in views], indent=2))
    elif views:
        Console().print(run_table(views, home, now))
    else:
        click.echo("no run yet: fovea launch CONFIG --sites …")


@click.command()
@click.argument("run", required=False)
@json_option
@click.option("--watch", is_flag=True, help="Show it anew every second, until it has ended.")
@home_option
@failing_plainly
def status(run: str | None, as_json: bool, watch: bool, home: CoordinatorHome) -> None:
    """Show what RUN (by default the last launched) is doing, and for whom it waits."""
    from server.operations.runs import ALIVE, run_named, view_run  # noqa: PLC0415

    folder = run_named(home, run, datetime.now(UTC))
    view = view_run(folder, datetime.now(UTC))
    if as_json:
        click.echo(json.dumps(run_as_json(view), indent=2))
        return
    if not watch:
        Console().print(describe_run(view, datetime.now(UTC)))
        return
    with Live(console=Console(), auto_refresh=False) as live:
        while True:
            view = view_run(folder, datetime.now(UTC))
            live.update(describe_run(view, datetime.now(UTC)), refresh=True)
            if view.state not in ALIVE:
                return
            time.sleep(WATCH_S)


@click.command()
@click.argument("run")
@home_option
@failing_plainly
def stop(run: str, home: CoordinatorHome) -> None:
    """End RUN after the last round that is over; `fovea resume` goes on from there.

    It is asked to end by itself; if it does not within a minute, its process is ended.
    """
    from server.operations.runs import run_named  # noqa: PLC0415
    from server.operations.stopping import stop as end  # noqa: PLC0415 - brings Flower

    state = end(home, run_named(home, run, datetime.now(UTC)))
    click.echo(f"run {run} is {state.value}: fovea resume {run}")


@click.command()
@click.argument("run")
@click.option(
    "--renew-manifest",
    is_flag=True,
    help="Sign a new manifest; every site must approve it as if the run were new.",
)
@follow_option
@home_option
@failing_plainly
def resume(run: str, renew_manifest: bool, follow: bool, home: CoordinatorHome) -> None:
    """Go on with RUN after its last finished round, as if it had never been interrupted.

    For runs that `fovea runs` shows as interrupted, stopped or failed. Sites need do nothing as
    long as the manifest is valid: they repeat a stored answer rather than train twice.
    """
    from server.operations.resuming import resume as go_on  # noqa: PLC0415 - brings Flower
    from server.operations.runs import run_named  # noqa: PLC0415

    now = datetime.now(UTC)
    folder = run_named(home, run, now)
    go_on(home, folder, renews_manifest=renew_manifest, now=now)
    click.echo(f"run {folder.name} goes on")
    _follow_if(follow, home, folder.name)


def _follow_if(follow: bool, home: CoordinatorHome, run: str) -> None:
    if not follow:
        return
    from server.operations.following import follow as watch_run  # noqa: PLC0415

    view = watch_run(home.run(run), Console())
    Console().print(describe_run(view, datetime.now(UTC)))
    verdict = view.status.verdict if view.status else None
    if verdict is None:
        fail(FoveaError(f"run {run} is {view.state.value}. {view.advice}"))
    sys.exit(EXIT_BY_VERDICT[verdict.value])
