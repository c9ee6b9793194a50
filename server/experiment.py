"""A simulated federation from its YAML to its report: prepare, train, measure, tell."""

from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryFile

from rich.console import Console

from common.config_file import LoadedConfig
from common.device import chosen_device
from common.errors import RunError
from common.model.network import build_network
from server.aggregate import AGGREGATIONS
from server.central_eval import CentralEvaluation
from server.journal import Journal
from server.phantom_sheets import draw_phantom_sheets
from server.preparation import prepare_shards
from server.report import render_table
from server.simulate import simulate
from server.strategies import STRATEGIES
from server.summary import Summary
from server.tracking import start_tracking
from server.watching import PreparationBars, RoundBars


def run_experiment(
    loaded: LoadedConfig, *, data_root: Path | None, out: Path, console: Console
) -> Summary:
    """Run the federation of a configuration on this machine and return its summary.

    Everything is written below ``out``. Raises ConfigError, DataError or RunError naming what
    cannot work and the remedy; an MLflow run that was begun is then closed as failed.
    """
    config, started_at = loaded.run, datetime.now(UTC)
    # What a configuration can get wrong shows before pictures are read, which may take long.
    _make_folder(out)
    STRATEGIES.get(config.federation.strategy)(config)
    AGGREGATIONS.get(config.federation.aggregation)
    network = build_network(config.model, config.task_table(), seed=config.seed)
    with PreparationBars(console) as bars:
        shards = prepare_shards(loaded, data_root=data_root, out=out, watch=bars)
    evaluator = CentralEvaluation(config, network.to(chosen_device(config.train)), shards.reference)
    journal = Journal(
        config,
        out=out,
        tracker=start_tracking(config, out=out, tags={"fovea.kind": "simulation"}),
        cases=evaluator.cases(),
        reference_cards={task: shard.card for task, shard in shards.reference.items()},
        started_at=started_at,
    )
    try:
        for sheet in draw_phantom_sheets(config, out / "phantoms"):
            journal.keep(sheet, folder="phantoms")
        with RoundBars(console, rounds=config.federation.rounds) as progress:
            result = simulate(
                config,
                shards=shards.site_folders,
                out=out,
                evaluator=evaluator,
                tracker=journal,
                progress=progress,
            )
        summary = journal.finish(result)
    except BaseException:
        journal.abandon()
        raise
    render_table(summary, console)
    _say_where(out, console)
    return summary


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise RunError(
            f"{out}: cannot be written to ({error.strerror}). Name another folder with --out."
        ) from error


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
