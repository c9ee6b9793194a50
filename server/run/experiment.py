"""A simulated federation from its YAML to its report: prepare, train, measure, tell."""

from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from common.config.reading import LoadedConfig
from server.journal.journal import Journal
from server.journal.watching import PreparationBars, RoundBars
from server.measuring.central_eval import CentralEvaluation
from server.planning.preparation import prepare_shards
from server.planning.secured import secured
from server.record.summary import Summary
from server.report.phantom_sheets import draw_phantom_sheets
from server.report.report import render_table
from server.rounds.coordinate import RunResult
from server.run.composition import check_plan, conduct
from server.run.simulate import simulate


def run_experiment(
    loaded: LoadedConfig, *, data_root: Path | None, out: Path, console: Console
) -> Summary:
    """Run the federation of a configuration on this machine and return its summary.

    Everything is written below ``out``. Raises ConfigError, DataError or RunError naming what
    cannot work and the remedy; an MLflow run that was begun is then closed as failed.
    """
    (config, notes), started_at = secured(loaded.run), datetime.now(UTC)
    network = check_plan(config, out=out)
    for note in notes:
        console.print(note, markup=False, highlight=False)
    with PreparationBars(console) as bars:
        shards = prepare_shards(loaded, data_root=data_root, out=out, watch=bars)

    def federate(evaluator: CentralEvaluation, journal: Journal) -> RunResult:
        for sheet in draw_phantom_sheets(config, out / "phantoms"):
            journal.keep(sheet, folder="phantoms")
        with RoundBars(console, rounds=config.federation.rounds) as progress:
            return simulate(
                config,
                shards=shards.site_folders,
                out=out,
                evaluator=evaluator,
                tracker=journal,
                progress=progress,
            )

    summary = conduct(
        config,
        federate,
        network=network,
        reference=shards.reference,
        out=out,
        kind="simulation",
        started_at=started_at,
    )
    render_table(summary, console)
    _say_where(out, console)
    return summary


def _say_where(out: Path, console: Console) -> None:
    try:
        shown = out.relative_to(Path.cwd())
    except ValueError:
        shown = out
    for what, where in (
        ("report and pictures", shown / "index.html"),
        ("dashboard", f"fovea dashboard {shown}   (or: make dashboard OUT={shown})"),
        ("every number", shown / "summary.json"),
    ):
        console.print(f"{what:<20} {where}", markup=False, highlight=False, soft_wrap=True)
