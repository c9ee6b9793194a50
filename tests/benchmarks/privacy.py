"""What protection costs: accuracy, where the model looks, seconds and bytes, on generated pictures.

One federation of three hospitals (privacy.yaml) is run plainly, with secure aggregation and with
differential privacy at several ε, for several seeds. The noise follows from ε: it is the least
with which the sites' accountant says no more than that for all rounds together.

    python tests/benchmarks/privacy.py --out out/bench-privacy.json
"""

import io
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from client.records.accountant import epsilon
from client.records.spending import round_spending
from common.config.reading import load_config
from common.config.run import RunConfig
from server.exchange.participation import Status
from server.record.summary import EstimateEntry, Summary
from server.run.experiment import run_experiment

RECIPE = Path(__file__).with_name("privacy.yaml")
TASK = "chestx"
PRIVATE = ("privacy.enabled=true", "train.learning_rate=8.0e-3")  # larger steps: Adam sees noise
NOISE = (0.3, 60.0)  # between which the multiplier is looked for
HALVINGS = 14  # of that interval, on a logarithmic scale: to 0.03 %


@dataclass(frozen=True)
class Mode:
    """One way of protecting the same run."""

    name: str
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Result:
    """What one run came to."""

    mode: str
    seed: int
    auroc: float
    energy: float  # share of the map's energy in the lesion
    pointing: float  # share of maps whose peak lies in the lesion
    chance: float  # of the pointing, for the same map laid down at random
    epsilon: float | None  # of this run, as the sites' ledgers have it, the largest
    round_s: float  # median over the rounds after the first
    site_mb: float  # sent and received by one site in a round, likewise


def modes(epsilons: Sequence[float]) -> tuple[Mode, ...]:
    """Return the rows of the table; those with noise have the multiplier that follows from ε."""
    config = load_config(RECIPE, PRIVATE).run
    noises = [noise_for(wanted, config) for wanted in epsilons]
    return (
        Mode("plain", ()),
        Mode("secure sum", ("secure_aggregation.enabled=true",)),
        *(
            Mode(f"noise, ε = {wanted:g}", (*PRIVATE, f"privacy.noise_multiplier={noise:.4f}"))
            for wanted, noise in zip(epsilons, noises, strict=True)
        ),
    )


def noise_for(wanted: float, config: RunConfig) -> float:
    """Return the least noise multiplier with which all rounds together cost at most ε."""
    once = round_spending(config)
    if once is None:
        raise click.ClickException(f"{RECIPE}: privacy is off, there is no noise to look for.")
    low, high = NOISE
    for _ in range(HALVINGS):
        middle = (low * high) ** 0.5
        every = [once.model_copy(update={"noise_multiplier": middle})] * config.federation.rounds
        if epsilon(every, unit=config.privacy.unit, delta=config.privacy.delta) > wanted:
            low = middle
        else:
            high = middle
    return high


def run(mode: Mode, seed: int, out: Path) -> Result:
    """Run one federation; ``out`` may hold an earlier one's prepared pictures of the same seed."""
    loaded = load_config(RECIPE, [*mode.overrides, f"seed={seed}"])
    silent = Console(file=io.StringIO())
    summary = run_experiment(loaded, data_root=None, out=out, console=silent)
    if summary.verdict is not Status.COMPLETE:
        raise click.ClickException(f"{mode.name}, seed {seed}: {' '.join(summary.reasons)}")
    return _result(mode, seed, summary)


def _result(mode: Mode, seed: int, summary: Summary) -> Result:
    last = summary.rounds[-1]
    measured = last.central[TASK]
    pointing = measured.localisation.average["pointing_hit"]
    later = summary.rounds[2:]
    return Result(
        mode=mode.name,
        seed=seed,
        auroc=_value(measured.classification.average["auroc"]),
        energy=_value(measured.localisation.average["energy_in_roi"]),
        pointing=_value(pointing),
        chance=pointing.chance or 0.0,
        epsilon=last.epsilon_run,
        round_s=statistics.median(entry.wall_s - (entry.central_s or 0.0) for entry in later),
        site_mb=statistics.median(entry.sent_bytes + entry.received_bytes for entry in later)
        / len(summary.sites)
        / 1e6,
    )


def _value(estimate: EstimateEntry) -> float:
    if estimate.value is None:
        raise click.ClickException("the reference set defines no such number: give it patients.")
    return estimate.value


def table(results: Sequence[Result]) -> Table:
    """Return a row per mode: means over seeds, and the smallest and largest."""
    shown = Table(title="Generated pictures, three sites, tiny network")
    columns = ("AUROC", "map peak in lesion", "map energy in lesion", "ε", "s / round", "MB / site")
    shown.add_column("")
    for column in columns:
        shown.add_column(column, justify="right")
    for name in dict.fromkeys(result.mode for result in results):
        rows = [result for result in results if result.mode == name]
        spent = [row.epsilon for row in rows if row.epsilon is not None]
        shown.add_row(
            name,
            _spread(rows, lambda row: row.auroc),
            _spread(rows, lambda row: row.pointing),
            _spread(rows, lambda row: row.energy),
            f"{max(spent):.2f}" if spent else "none",
            f"{statistics.mean(row.round_s for row in rows):.1f}",
            f"{statistics.mean(row.site_mb for row in rows):.2f}",
        )
    chance = statistics.mean(result.chance for result in results)
    shown.caption = (
        f"Mean [least, most] over seeds. A peak at random lies in the lesion: {chance:.3f}."
    )
    return shown


def _spread(rows: Sequence[Result], of: Callable[[Result], float]) -> str:
    values = [of(row) for row in rows]
    return f"{statistics.mean(values):.3f} [{min(values):.3f}, {max(values):.3f}]"


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON file to write.")
@click.option("--seed", "seeds", type=int, multiple=True, default=(1, 2, 3), show_default=True)
@click.option("--epsilon", "epsilons", type=float, multiple=True, default=(8.0, 3.0, 1.0))
def main(out: Path, seeds: tuple[int, ...], epsilons: tuple[float, ...]) -> None:
    """Run every mode with every seed in turn, and show the table."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # one core per site
    console, started = Console(), time.monotonic()
    rows, results = modes(epsilons), list[Result]()
    bars = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with TemporaryDirectory() as folder, Progress(*bars, console=console) as progress:
        bar = progress.add_task("federations", total=len(rows) * len(seeds))
        for seed in seeds:
            for mode in rows:
                progress.update(bar, description=f"{mode.name}, seed {seed}")
                results.append(run(mode, seed, Path(folder) / str(seed)))
                _write(out, results, wall_s=time.monotonic() - started)  # a long run may be cut
                progress.advance(bar)
    console.print(table(results))
    console.print(f"{time.monotonic() - started:.0f} s")


def _write(out: Path, results: Sequence[Result], *, wall_s: float) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    content = {"wall_s": wall_s, "results": [asdict(result) for result in results]}
    out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
