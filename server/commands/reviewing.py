"""``fovea reviews``: what clinicians said of the explanations, and how far they agree."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click
from rich import box
from rich.console import Console
from rich.table import Table

from common.errors import DataError, RunError
from common.machine.printable import printable
from server.commands.failing import EXIT_PARTIAL, failing_plainly

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pydantic import JsonValue

    from common.metrics.estimate import Estimate
    from common.pages.review import Reading
    from server.journal.tracking import Tracker
    from server.report.reviews import TaskReviews

REVIEWS_FILE = "reviews.json"
EXPERIMENT = "fovea-reviews"

# name of the estimate → what people read, and the factor it is shown by
_ROWS: dict[str, tuple[str, float, str]] = {
    "region/kappa": ("Region: agreement of readers, weighted kappa", 1, ""),
    "rationale/kappa": ("Rationale: agreement of readers, weighted kappa", 1, ""),
    "region/yes": ("Region is the reason: yes", 100, " %"),
    "region/partly": ("  partly", 100, " %"),
    "region/no": ("  no", 100, " %"),
    "region/cannot_tell": ("  cannot tell", 100, " %"),
    "rationale/yes": ("Rationale is right: yes", 100, " %"),
    "rationale/partly": ("  partly", 100, " %"),
    "rationale/no": ("  no", 100, " %"),
    "rationale/cannot_tell": ("  cannot tell", 100, " %"),
    "confidence/change": ("Confidence after less before, points", 1, ""),
    "confidence/moved": ("  either way", 1, ""),
    "alignment/energy_in_roi": ("Goes with the map's energy in the region, rank", 1, ""),
    "alignment/agreement": ("Goes with the methods' agreement, rank", 1, ""),
}


@click.command()
@click.argument(
    "folders", metavar="FOLDER…", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option(
    "--explanations",
    multiple=True,
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Where the reviewed pages lie: the answers are held against what was measured. "
    "Repeatable.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("out/reviews"),
    show_default=True,
    help=f"Folder for {REVIEWS_FILE}.",
)
@click.option(
    "--mlflow",
    metavar="RUN|URI",
    help="Where MLflow gets the figures: the folder of a run, into whose MLflow run they go, or "
    "the address of a server or database, where they become a run of their own.",
)
@click.option("--json", "as_json", is_flag=True, help=f"Print {REVIEWS_FILE}, nothing else.")
@failing_plainly
def reviews(
    *,
    folders: tuple[Path, ...],
    explanations: tuple[Path, ...],
    out: Path,
    mlflow: str | None,
    as_json: bool,
) -> None:
    """Read clinicians' reviews in FOLDERs, and say what they say together.

    A review is the file that an explanation's page saves. Of each reader the last review of a map
    counts. Agreement is Cohen's kappa with quadratic weights, intervals are by bootstrap over
    pictures. Remarks and readers' codes stay in the reviews: nothing of them is printed or tracked.

    Exit codes: 0 all read, 1 an error or no review, 2 wrong usage, 3 some files were no reviews.
    """
    from common.pages.review import read_reviews  # noqa: PLC0415
    from server.report.reviews import read_measured, summarise  # noqa: PLC0415 - brings scipy

    reading = read_reviews(folders)
    measured, broken = read_measured(explanations)
    failures = [*reading.failures, *broken]
    errors = Console(stderr=True)
    for _, why in failures:
        errors.print(printable(why), markup=False, highlight=False, soft_wrap=True)
    if not reading.reviews:
        raise DataError(
            f"no review in {', '.join(map(str, folders))}. Give the files that the pages' form "
            "saved."
        )
    tasks = summarise(reading.reviews, measured)
    content = _as_json(reading, tasks, failed=len(failures))
    out.mkdir(parents=True, exist_ok=True)
    (out / REVIEWS_FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    if as_json:
        click.echo(json.dumps(content, indent=2))
    else:
        _show(tasks, reading, out=out)
    if mlflow is not None:
        tracked = _track(mlflow, reading, tasks, out=out)
        errors.print(tracked, markup=False, highlight=False, soft_wrap=True)
    sys.exit(EXIT_PARTIAL if failures else 0)


def _as_json(
    reading: "Reading", tasks: "Mapping[str, TaskReviews]", *, failed: int
) -> "dict[str, JsonValue]":
    return {
        "format": 1,
        "reviews": len(reading.reviews),
        "superseded": reading.superseded,
        "unreadable": failed,
        "tasks": {task: one.as_json() for task, one in tasks.items()},
    }


def _show(tasks: "Mapping[str, TaskReviews]", reading: "Reading", *, out: Path) -> None:
    console = Console()
    for task, one in tasks.items():
        counts = one.counts
        console.print(
            f"{task}: {counts['reviews']} reviews by {counts['readers']} readers of "
            f"{counts['items']} maps in {counts['pictures']} pictures; "
            f"{counts['items_of_several_readers']} maps by several readers",
            style="bold",
            markup=False,
            highlight=False,
        )
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        table.add_column("Measure")
        for column in ("Value", "95 % interval", "Of"):
            table.add_column(column, justify="right")
        table.add_column("", overflow="fold")
        for name, (words, factor, unit) in _ROWS.items():
            table.add_row(words, *_cells(one.estimates[name], factor, unit))
        console.print(table)
    if reading.superseded:
        console.print(f"{reading.superseded} earlier reviews were superseded by the same reader's.")
    console.print(f"figures  {out / REVIEWS_FILE}", soft_wrap=True, markup=False, highlight=False)


def _cells(one: "Estimate", factor: float, unit: str) -> "Sequence[str]":
    def shown(value: float) -> str:
        return f"{factor * value:.0f}{unit}" if factor != 1 else f"{value:.2f}"

    interval = (
        f"{shown(one.low)} to {shown(one.high)}"
        if one.low is not None and one.high is not None
        else ""
    )
    value = "" if one.value is None else shown(one.value)
    return value, interval, str(one.support), one.note


def _track(
    target: str, reading: "Reading", tasks: "Mapping[str, TaskReviews]", *, out: Path
) -> str:
    """Track every defined number; returns a line that says where. Raises RunError, DataError."""
    from server.journal.metric_names import valid_name  # noqa: PLC0415

    runs = sorted({review.run for review in reading.reviews})
    tracker, is_own, note = _tracker(target, runs, out=out)
    for task, one in tasks.items():
        named = {valid_name(name): value for name, value in one.metrics(task).items()}
        tracker.log_metrics(named, step=0)
    entry = tracker.close() if is_own else tracker.entry()
    if not entry.is_complete:
        raise RunError(
            f"{target}: MLflow did not take all figures; they are in {out / REVIEWS_FILE}. Start "
            "that server and run this again."
        )
    return f"tracked in the MLflow run {entry.run_id} at {entry.uri}{note}"


def _tracker(target: str, runs: "Sequence[str]", *, out: Path) -> "tuple[Tracker, bool, str]":
    """Return where to track, whether that is a run of its own, and what to say about it."""
    from server.journal.tracking import open_run, reopen_run  # noqa: PLC0415 - brings mlflow
    from server.record.summary import FILE_NAME, read_summary  # noqa: PLC0415

    folder = Path(target)
    if urlsplit(target).scheme and not folder.exists():
        named = ", ".join(runs)
        tags = {"fovea.kind": "reviews", "fovea.run": named}
        name = f"reviews of {named}"
        return open_run(target, experiment=EXPERIMENT, name=name, out=out, tags=tags), True, ""
    summary = read_summary(folder / FILE_NAME)
    strangers = [run for run in runs if run not in (summary.run, summary.name)]
    note = f"; some reviews are of another run ({', '.join(strangers)})" if strangers else ""
    return reopen_run(summary.tracking, out=folder), False, note
