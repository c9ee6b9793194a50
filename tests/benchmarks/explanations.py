"""Every explanation method on every set: localisation, faithfulness, stability, sanity, seconds.

Phantoms are generated; real pictures are found by --data. Small networks are trained on the way,
a few minutes each on two cores, or a finished one is taken with --model. What is finished is kept
in --out, so a study that was cut goes on where it was.

    python tests/benchmarks/explanations.py --data FOLDER --out out/explanations
"""

import sys
import time
from pathlib import Path

import click
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from common.errors import ConfigError, FoveaError
from common.explain import EXPLAINERS
from common.registry import unknown_name
from common.studies.explanations import JSON_FILE, TABLE_FILE, carry_out
from common.studies.explanations_config import ExplanationsConfig, load_explanations_config

CONFIG = Path("configs/studies/explanations.yaml")


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("out/explanations"))
@click.option("--data", type=click.Path(path_type=Path), help="Folder of real pictures.")
@click.option("--model", type=click.Path(path_type=Path), help="A run's folder, or a package.")
@click.option("--config", "config_path", type=click.Path(path_type=Path), default=CONFIG)
@click.option("--set", "sets", multiple=True, help="Only this set; may be repeated.")
@click.option("--method", "methods", multiple=True, help="Only this method; may be repeated.")
@click.option("--pictures", type=click.IntRange(min=1), help="Instead of the settings' number.")
@click.option("--few-pictures", type=click.IntRange(min=1), help="Instead of the settings' number.")
@click.option(
    "--steps", type=click.IntRange(min=1), help="Of training, instead of the sets' numbers."
)
@click.option("--seed", "seeds", type=int, multiple=True, help="Instead of the settings' seeds.")
def main(
    *,
    out: Path,
    data: Path | None,
    model: Path | None,
    config_path: Path,
    sets: tuple[str, ...],
    methods: tuple[str, ...],
    pictures: int | None,
    few_pictures: int | None,
    steps: int | None,
    seeds: tuple[int, ...],
) -> None:
    """Measure, show the table, write JSON and Markdown; exit 1 where a method gave no figures."""
    console = Console(width=None if sys.stdout.isatty() else 250)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    started = time.monotonic()
    try:
        config = _restricted(
            load_explanations_config(config_path),
            sets=sets,
            pictures=pictures,
            few_pictures=few_pictures,
            steps=steps,
            seeds=seeds,
        )
        chosen = methods or tuple(EXPLAINERS)
        for name in chosen:
            if name not in EXPLAINERS:
                known = dict.fromkeys(EXPLAINERS)
                raise ConfigError(unknown_name(EXPLAINERS.kind, name, known))
        with Progress(*columns, console=console) as progress:
            bar = progress.add_task("preparing", total=len(config.sets) * len(chosen))
            report = carry_out(
                config,
                methods=chosen,
                data_root=data,
                model=model,
                out=out,
                tell=lambda done: progress.update(bar, advance=1, description=done),
            )
    except FoveaError as error:
        console.print(f"[red]{error}[/]")
        sys.exit(2)
    console.print(Markdown((out / TABLE_FILE).read_text(encoding="utf-8")))
    wall_s = time.monotonic() - started
    console.print(f"{wall_s:.0f} s; figures in {out / JSON_FILE} and {out / TABLE_FILE}")
    sys.exit(1 if any(row.failure for row in report.rows) else 0)


def _restricted(
    config: ExplanationsConfig,
    *,
    sets: tuple[str, ...],
    pictures: int | None,
    few_pictures: int | None,
    steps: int | None,
    seeds: tuple[int, ...],
) -> ExplanationsConfig:
    """Return the settings with what the command line changes. Raises ConfigError."""
    for name in sets:
        if name not in config.sets:
            raise ConfigError(unknown_name("set", name, config.sets))
    chosen = {name: config.sets[name] for name in sets or config.sets}
    values = config.model_dump() | {
        "sets": {
            name: one.model_dump() | ({} if steps is None else {"steps": steps})
            for name, one in chosen.items()
        }
    }
    wanted = {"pictures": pictures, "few_pictures": few_pictures, "seeds": seeds or None}
    values |= {key: value for key, value in wanted.items() if value is not None}
    return ExplanationsConfig.model_validate(values)


if __name__ == "__main__":
    main()
