"""``fovea explain``: from pictures to pages that a clinician can question."""

import json
import sys
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click
from rich.console import Console

from common.errors import ModelError
from common.explain import EXPLAINERS
from common.explaining.asked import (
    FEWEST_ORDERS,
    RANDOM_ORDERS,
    Asked,
    methods_named,
    named,
)
from common.registry import unknown_name
from server.commands.failing import EXIT_ERROR, EXIT_PARTIAL, failing_plainly

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pydantic import JsonValue

    from common.explaining.asked import Trust
    from common.explaining.pages import Done
    from common.package.loading import LoadedModel


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument(
    "images", metavar="IMAGE…", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option("--task", help="What the pictures show.  [default: the model's only task]")
@click.option(
    "--methods",
    metavar="NAME,NAME,…|all",
    default="",
    help=f"Methods beside the model's own map: {', '.join(EXPLAINERS)}.  [default: none]",
)
@click.option(
    "--findings",
    metavar="NAME,NAME,…",
    help="Findings that methods and trust are for.  [default: called or left open, else the most "
    "probable]",
)
@click.option(
    "--trust",
    type=click.Choice(["none", "own", "all"]),
    default="own",
    show_default=True,
    help="Measure faithfulness and stability of no map, the model's own, or every method's.",
)
@click.option(
    "--random-orders",
    type=click.IntRange(min=FEWEST_ORDERS),
    default=RANDOM_ORDERS,
    show_default=True,
    help="Orders of removal that faithfulness is held against; each costs 17 predictions.",
)
@click.option(
    "--regions",
    type=click.Path(path_type=Path),
    help="An expert's region: a mask of the picture's size, or a folder of masks named like the "
    "pictures.",
)
@click.option(
    "--discs",
    type=click.Path(path_type=Path),
    help="The optic disc in the same way; else it is estimated where it stands out.",
)
@click.option(
    "--expect-digest",
    metavar="SHA256",
    help="Refuse a model whose package has another digest; the run's summary.json names it.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("out/explanations"),
    show_default=True,
    help="Folder for the pages and the JSON beside them.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a summary as JSON, nothing else.")
@failing_plainly
def explain(
    *,
    model: Path,
    images: tuple[Path, ...],
    task: str | None,
    methods: str,
    findings: str | None,
    trust: str,
    random_orders: int,
    regions: Path | None,
    discs: Path | None,
    expect_digest: str | None,
    out: Path,
    as_json: bool,
) -> None:
    """Explain IMAGEs (PNG, JPEG, TIFF, DICOM; files or folders) by MODEL.

    MODEL is the folder of a run or of a model package. Every picture gets a page that opens
    anywhere without a network, NAME.html, and all its numbers in NAME.json; several get an
    index.html. The pages hold the pictures: keep them where the pictures may be.

    Exit codes: 0 all explained, 1 an error or none explained, 2 wrong usage, 3 some failed.
    """
    from common.explaining.jobs import jobs_of  # noqa: PLC0415
    from common.explaining.pages import explain_files  # noqa: PLC0415 - brings torch
    from common.package.loading import open_package  # noqa: PLC0415

    jobs = jobs_of(images, regions=regions, discs=discs)
    chosen = methods_named(methods)
    loaded = open_package(model, expected_digest=expect_digest)
    chosen_task = loaded.task_asked_for(task, how="name one with --task")
    asked = Asked(
        task=chosen_task,
        methods=chosen,
        trust=cast("Trust", trust),
        findings=_findings(loaded, chosen_task, findings),
        random_orders=random_orders,
    )
    errors = Console(stderr=True)
    with _bar(errors, total=len(jobs)) as advance:
        results = explain_files(
            loaded, jobs, asked, out=out, now=lambda: datetime.now(UTC), progress=advance
        )
    failed = [done for done in results if done.failure]
    for done in failed:
        place = str(done.job.picture)
        named = done.failure if place in done.failure else f"{place}: {done.failure}"
        errors.print(named, markup=False, soft_wrap=True)
    if as_json:
        click.echo(json.dumps(_summary(results, out), indent=2))
    else:
        for done in results:
            if done.explanation is not None:
                click.echo(f"{done.job.picture.name}  {done.explanation.answer}  {done.page}")
    if failed:
        sys.exit(EXIT_ERROR if len(failed) == len(results) else EXIT_PARTIAL)


def _findings(model: "LoadedModel", task: str, text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    known = model.task(task).class_names
    for name in named(text):
        if name not in known:
            raise ModelError(unknown_name(f"finding of task {task}", name, dict.fromkeys(known)))
    return named(text)


def _summary(results: "Sequence[Done]", out: Path) -> "dict[str, JsonValue]":
    pictures: list[JsonValue] = []
    for done in results:
        made = done.explanation
        answers = made.prediction_set if made else None
        pictures.append(
            {
                "picture": str(done.job.picture),
                "page": str(done.page) if done.page else None,
                "json": str(done.page.with_suffix(".json")) if done.page else None,
                "answer": made.answer if made else None,
                "is_novel": made.novelty.is_novel if made and made.novelty else None,
                "is_sure": answers.is_sure if answers else None,
                "probabilities": {f.name: f.probability for f in made.findings} if made else None,
                "failure": done.failure or None,
            }
        )
    return {
        "index": str(out / "index.html") if len(results) > 1 else None,
        "pictures": pictures,
    }


@contextmanager
def _bar(console: Console, *, total: int) -> "Iterator[Callable[[Done], None]]":
    """Show how many pictures are done, and how long the rest will take."""
    from rich.progress import (  # noqa: PLC0415 - every command would wait for it
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    with Progress(
        TextColumn("explaining"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    ) as bar:
        shown = bar.add_task("explaining", total=total)
        yield lambda done: bar.advance(shown)
