"""Does the model look at the lesion, or only say so? ``python -m common.studies.looks``.

Trains a plain network, the full loss and a control on pictures whose marker betrays the label,
and measures on pictures without lesion, without marker and with covered cells what each relies on.
Exits with 1 when the full loss misses a bar, when plain is not fooled or when the control does not
show the routing it is there to show.
"""

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, fields, replace
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, pstdev

import click
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from common.errors import ConfigError, FoveaError
from common.registry import unknown_name
from common.studies.looks_config import LooksConfig, ScenarioConfig, load_looks_config
from common.studies.looks_measures import Looks, measure_looks
from common.studies.looks_results import KeptResults, Result, Run, plan_digest
from common.studies.looks_training import TASK, phantoms_of, train_variant
from common.studies.looks_verdict import Check, judge

_COLUMNS = {
    "AUC": "auc",
    "conflict": "conflict_auc",
    "reliance": "reliance",
    "marker drop": "marker_drop",
    "= evidence": "marker_evidence",
    "+ gate": "marker_gate",
    "+ context": "marker_context",
    "lesion drop": "lesion_drop",
    "occlusion": "occlusion_energy",
    "pointing": "pointing_hit",
    "deletion": "deletion_auc",
    "map energy": "map_energy",
    "chance": "chance_energy",
}


def carry_out(run: Run, scenario: ScenarioConfig, config: LooksConfig) -> Result:
    """Train and measure one network on one thread; the same on any number of processes."""
    torch.set_num_threads(1)
    train, test = phantoms_of(scenario, seed=run.seed)
    trained = train_variant(
        scenario, scenario.variants[run.variant], config.loss, train=train, seed=run.seed
    )
    looks = measure_looks(
        trained.network,
        test,
        task=TASK.name,
        coverage_threshold=config.loss.coverage_threshold,
    )
    return Result(run=run, looks=looks, last_loss=trained.last_loss, step_ms=trained.step_ms)


def carry_out_all(
    scenarios: Mapping[str, ScenarioConfig],
    config: LooksConfig,
    console: Console,
    *,
    kept: KeptResults,
) -> list[Result]:
    """Carry out every variant and seed, one process per core, with progress shown.

    Networks that an earlier, interrupted study finished with the same settings are taken over.
    """
    runs = [
        Run(scenario=name, variant=variant, seed=seed)
        for name, scenario in scenarios.items()
        for seed in scenario.seeds
        for variant in scenario.variants
    ]
    digests = {run: plan_digest(run, scenarios[run.scenario], config) for run in runs}
    before = kept.known(digests.values())
    results = [replace(before[digests[run]], run=run) for run in runs if digests[run] in before]
    open_runs = [run for run in runs if digests[run] not in before]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with (
        Progress(*columns, TimeElapsedColumn(), console=console) as progress,
        ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool,
    ):
        bar = progress.add_task(
            "networks trained and measured", total=len(runs), completed=len(results)
        )
        futures = [
            pool.submit(carry_out, run, scenarios[run.scenario], config) for run in open_runs
        ]
        for future in as_completed(futures):
            result = future.result()
            kept.keep(result, digests[result.run])
            results.append(result)
            progress.advance(bar)
    return sorted(results, key=lambda result: runs.index(result.run))


def by_variant(results: Sequence[Result], scenario: str) -> dict[str, list[Looks]]:
    """Return one scenario's figures per variant, in the order of seeds."""
    table: dict[str, list[Looks]] = {}
    for result in results:
        if result.run.scenario == scenario:
            table.setdefault(result.run.variant, []).append(result.looks)
    return table


def figures_table(title: str, looks: Mapping[str, Sequence[Looks]]) -> Table:
    """Return means over seeds, with the deviation where there are several."""
    table = Table(title=title, title_justify="left")
    table.add_column("variant (seeds)")
    for heading in _COLUMNS:
        table.add_column(heading, justify="right")
    for variant, rows in looks.items():
        cells = [_mean_and_deviation([getattr(x, key) for x in rows]) for key in _COLUMNS.values()]
        table.add_row(f"{variant} ({len(rows)})", *cells)
    return table


def checks_table(checks: Sequence[Check]) -> Table:
    """Return each figure beside its bar."""
    table = Table(title="acceptance", title_justify="left")
    for heading in ("check", "measured", "bar", ""):
        table.add_column(heading, justify="left" if heading in ("check", "") else "right")
    for check in checks:
        verdict = "[green]met[/]" if check.is_met else "[red]missed[/]"
        bar = f"{check.relation} {check.bar:.2f}"
        table.add_row(check.name, f"{check.measured:.3f}", bar, verdict)
    return table


def _mean_and_deviation(values: Sequence[float]) -> str:
    mean = f"{fmean(values):.3f}"
    return mean if len(values) == 1 else f"{mean}±{pstdev(values):.2f}"


def _records(results: Sequence[Result]) -> Iterator[dict[str, str | int | float]]:
    for result in results:
        figures = {field.name: getattr(result.looks, field.name) for field in fields(Looks)}
        yield (
            asdict(result.run)
            | figures
            | {"last_loss": result.last_loss, "step_ms": result.step_ms}
        )


@click.command()
@click.option("--slow", is_flag=True, help="All scenarios instead of the default one.")
@click.option("--scenario", multiple=True, help="Only this scenario; may be repeated.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("out"), show_default=True)
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    default=Path("configs/studies/looks.yaml"),
    show_default=True,
)
def main(*, slow: bool, scenario: tuple[str, ...], out: Path, config_path: Path) -> None:
    """Train, measure, compare with the bars; exit 1 when one is missed."""
    console = Console(width=200 if not sys.stdout.isatty() else None)
    start = time.monotonic()
    try:
        config = load_looks_config(config_path)
        chosen = config.slow if slow else config.default
        for name in scenario:
            if name not in chosen:
                raise ConfigError(unknown_name("scenario", name, chosen))
        scenarios = {name: chosen[name] for name in scenario or chosen}
        kept = KeptResults(out / "networks.jsonl")
        results = carry_out_all(scenarios, config, console, kept=kept)
    except FoveaError as error:
        console.print(f"[red]{error}[/]")
        sys.exit(2)
    wall_s = time.monotonic() - start
    all_checks: dict[str, tuple[Check, ...]] = {}
    for name, one in scenarios.items():
        looks = by_variant(results, name)
        console.print(figures_table(one.title, looks))
        all_checks[name] = judge(one.judged_by, looks, config)
        if all_checks[name]:
            console.print(checks_table(all_checks[name]))
    is_met = all(check.is_met for checks in all_checks.values() for check in checks)
    out.mkdir(parents=True, exist_ok=True)
    report = {
        "wall_s": round(wall_s, 1),
        "is_met": is_met,
        "runs": list(_records(results)),
        "checks": {
            name: [asdict(check) | {"is_met": check.is_met} for check in checks]
            for name, checks in all_checks.items()
        },
    }
    path = out / "looks.json"
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    console.print(f"{len(results)} networks in {wall_s:.0f} s; figures in {path}")
    sys.exit(0 if is_met else 1)


if __name__ == "__main__":
    main()
