"""Commands that need no federation: simulate one here, look at what a run has learned."""

import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.console import Console

from common.errors import FoveaError
from server.commands.failing import (
    EXIT_BY_VERDICT,
    EXIT_ERROR,
    fail,
    overrides_option,
    show_error,
)
from server.exchange.participation import Status
from server.record.summary import FILE_NAME, Summary, read_summary
from server.report.comparison import between


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Folder that relative paths of the configuration's sources start from.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for everything the run writes.  [default: out/<name of the run>]",
)
@overrides_option
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON, nothing else.")
def simulate(
    config: Path, data: Path | None, out: Path | None, overrides: tuple[str, ...], as_json: bool
) -> None:
    """Run the federation that CONFIG describes on this machine.

    Every site trains through Flower's simulation engine on its own prepared shard; the
    aggregated model is measured on the reference sets after each round. The folder OUT then
    holds summary.json, index.html, the pictures, the model and the MLflow database.

    Exit codes: 0 complete, 1 an error (the message says the remedy), 2 wrong usage,
    3 the run is partial, 4 the run failed.
    """
    console, began = Console(stderr=as_json), datetime.now(UTC)
    from common.config.reading import load_config  # noqa: PLC0415 - the whole schema
    from server.planning.compatibility import refuse_conflicts  # noqa: PLC0415 - likewise

    try:
        loaded = load_config(config, overrides)
        refuse_conflicts(loaded.run)  # told before the seconds that torch takes
        out = (out or Path("out") / loaded.run.name).resolve()
        from server.run.experiment import run_experiment  # noqa: PLC0415 - brings torch and mlflow

        summary = run_experiment(loaded, data_root=data, out=out, console=console)
    except FoveaError as error:
        show_error(error)
        broken = _summary_since(began, out / FILE_NAME) if out is not None else None
        if broken is None:
            sys.exit(EXIT_ERROR)
        summary = broken
    if as_json:
        click.echo(json.dumps(summary.model_dump(mode="json"), indent=2))
    sys.exit(EXIT_BY_VERDICT[summary.verdict])


def _summary_since(began: datetime, path: Path) -> Summary | None:
    """Return the summary that a run left when it broke off; None: it had not begun."""
    try:
        if path.stat().st_mtime < began.timestamp():
            return None
        summary = read_summary(path)
    except (OSError, FoveaError):
        return None  # what was wrong has been said: with the folder, or before there was one
    # Another run in the same folder may have ended meanwhile.
    return summary if summary.verdict is Status.FAILED else None


@click.command()
@click.argument("out", type=click.Path(path_type=Path), default=Path("out/demo"))
@click.option("--first", type=int, help="Round on the left; 0 is before training.  [default: 0]")
@click.option("--last", type=int, help="Round on the right.  [default: the last evaluated]")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON instead.")
def show(out: Path, first: int | None, last: int | None, as_json: bool) -> None:
    """Show again what the run in the folder OUT has learned, between any two of its rounds."""
    try:
        summary = read_summary(out / FILE_NAME)
        evaluated = [entry.round for entry in summary.rounds if entry.central]
        if evaluated:
            left = evaluated[0] if first is None else first
            right = evaluated[-1] if last is None else last
            summary = between(summary, left, right)
    except FoveaError as error:
        fail(error)
    if as_json:
        click.echo(json.dumps(summary.model_dump(mode="json"), indent=2))
        return
    from server.report.report import render_table  # noqa: PLC0415 - brings matplotlib

    render_table(summary, Console())


@click.command()
@click.argument("out", type=click.Path(path_type=Path), default=Path("out/demo"))
@click.option(
    "--port", type=click.IntRange(1, 65535), default=5000, show_default=True, help="Local port."
)
def dashboard(out: Path, port: int) -> None:
    """Open MLflow on the run in the folder OUT.

    It listens on 127.0.0.1 only; nothing is sent anywhere. Stop it with Ctrl-C.
    """
    database = out / "mlflow.db"
    if not database.is_file():
        fail(
            FoveaError(
                f"{database}: not found. Give the folder of a run (`fovea simulate … --out DIR`), "
                "or open the tracking server that the run's configuration names."
            )
        )
    environment = os.environ | {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # seven processes for GenAI jobs
        "PYTHONWARNINGS": "ignore",  # deprecations inside MLflow's own server
    }
    click.echo(f"MLflow for {out} at http://127.0.0.1:{port}  (Ctrl-C stops it)")
    command = [sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{database.resolve()}", "--workers", "1"]
    os.execve(sys.executable, command, environment)  # noqa: S606 - our own interpreter, no shell
