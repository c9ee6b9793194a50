"""Explains files one after another and writes a page each; a bad file does not stop the others."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from common.errors import DataError, FoveaError
from common.explaining.explain_picture import explain_picture
from common.explaining.jobs import INDEX, Job
from common.explaining.methods import Trust
from common.explaining.picture_file import prepare_picture
from common.explanation.schema import Explanation
from common.package.loading import LoadedModel
from common.pages.index import IndexEntry, write_index
from common.pages.page import write_page


@dataclass(frozen=True)
class Asked:
    """What is wanted of every picture."""

    task: str
    methods: tuple[str, ...] = ()
    trust: Trust = "own"
    findings: tuple[str, ...] | None = None  # None: those called or left open


@dataclass(frozen=True)
class Done:
    """What came of one picture: its explanation and page, or why there is none."""

    job: Job
    explanation: Explanation | None
    page: Path | None
    failure: str  # "" where there is a page


def explain_files(
    model: LoadedModel,
    jobs: Sequence[Job],
    asked: Asked,
    *,
    out: Path,
    now: Callable[[], datetime],
    progress: Callable[[Done], None],
) -> tuple[Done, ...]:
    """Write ``NAME.html`` and ``NAME.json`` for every job into a folder, and an index of several.

    Args:
        model: Opened package.
        jobs: Pictures with distinct names.
        asked: The same of each.
        out: Folder; made where it is missing.
        now: The time, for each explanation.
        progress: Told of each picture when it is done.

    Raises:
        ModelError: The model has no such task.
        DataError: The folder cannot be written to.
    """
    task, about = model.task(asked.task), model.about(asked.task)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"{out}: cannot be made ({error.strerror}); name another folder."
        ) from error
    results = []
    for job in jobs:
        page = out / f"{job.name}.html"
        try:
            picture = prepare_picture(
                job.picture,
                task=task,
                size_px=about.size_px,
                config=about.preprocess,
                region=job.region,
                disc=job.disc,
            )
            made = explain_picture(
                model,
                picture,
                task=asked.task,
                now=now(),
                methods=asked.methods,
                trust=asked.trust,
                expand=asked.findings,
            )
            write_page(made, picture.image, page)
            done = Done(job, made, page, "")
        except FoveaError as error:
            done = Done(job, None, None, str(error))
        results.append(done)
        progress(done)
    if len(jobs) > 1:
        write_index([_entry(done) for done in results], out / f"{INDEX}.html")
    return tuple(results)


def _entry(done: Done) -> IndexEntry:
    made = done.explanation
    return IndexEntry(
        page=done.page.name if done.page else "",
        title=done.job.picture.name,
        answer=made.answer if made else "",
        is_novel=bool(made and made.novelty and made.novelty.is_novel),
        is_sure=bool(made and made.prediction_set and made.prediction_set.is_sure),
        failure=done.failure,
    )
