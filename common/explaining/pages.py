"""Explains files one after another and writes a page each; a bad file does not stop the others."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from common.errors import DataError, FoveaError
from common.explaining.asked import Asked
from common.explaining.breakdown import breakdown, said
from common.explaining.explain_picture import explain_picture
from common.explaining.jobs import INDEX, Job
from common.explaining.other_pictures import TAKEN, OtherPictures
from common.explaining.picture_file import PreparedPicture, prepare_picture
from common.explanation.schema import Explanation
from common.machine.seed import derive_seed
from common.package.loading import LoadedModel
from common.pages.index import IndexEntry, write_index
from common.pages.page import write_page

MOST_TRIED = 4 * TAKEN  # files that are opened to find pictures to compare with


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

    A file that cannot be explained is reported and the rest go on, whatever was raised for it, but
    for KeyboardInterrupt and MemoryError. What a library says of a file is not repeated: it may
    hold a patient's name.

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
    model.task(asked.task)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"{out}: cannot be made ({error.strerror}); name another folder."
        ) from error
    others = _others(model, jobs, asked)
    results = []
    for job in jobs:
        page = out / f"{job.name}.html"
        try:
            picture = _prepared(model, job, asked)
            made = explain_picture(
                model,
                picture,
                task=asked.task,
                now=now(),
                methods=asked.methods,
                trust=asked.trust,
                expand=asked.findings,
                random_orders=asked.random_orders,
                others=others,
            )
            _write(made, picture, page)
            done = Done(job, made, page, "")
        except MemoryError:
            raise
        except FoveaError as error:
            done = Done(job, None, None, said(error))
        except Exception as error:
            done = Done(job, None, None, _broken(job, error))
        results.append(done)
        progress(done)
    if len(jobs) > 1:
        write_index([_entry(done) for done in results], out / f"{INDEX}.html")
    return tuple(results)


def _prepared(model: LoadedModel, job: Job, asked: Asked) -> PreparedPicture:
    about = model.about(asked.task)
    return prepare_picture(
        job.picture,
        task=model.task(asked.task),
        size_px=about.size_px,
        config=about.preprocess,
        region=job.region,
        disc=job.disc,
    )


def _write(made: Explanation, picture: PreparedPicture, page: Path) -> None:
    try:
        write_page(made, picture.image, page)
    except OSError as error:
        raise DataError(
            f"{page}: cannot be written ({error.strerror}); free space or name another folder."
        ) from error


def _others(model: LoadedModel, jobs: Sequence[Job], asked: Asked) -> OtherPictures | None:
    """Return a few of the pictures, drawn by lot, for each to be held against the others."""
    if asked.trust == "none" or len(jobs) < 2:
        return None
    rng = np.random.default_rng(derive_seed(model.package.seed, "other pictures", asked.task))
    found: list[PreparedPicture] = []
    for place in rng.permutation(len(jobs))[:MOST_TRIED]:
        if len({one.sha256 for one in found}) == TAKEN:
            break
        try:
            found.append(_prepared(model, jobs[place], asked))
        except MemoryError:
            raise
        except Exception:  # noqa: S112 - said when its own turn comes
            continue
    return OtherPictures(found, words="other pictures that were explained along with it")


def _broken(job: Job, error: Exception) -> str:
    return (
        f"{job.picture}: explaining it broke down ({breakdown(error)}). Open it in a viewer and "
        "save it anew, or leave it out; where good pictures break down too, report these words."
    )


def _entry(done: Done) -> IndexEntry:
    made = done.explanation
    return IndexEntry(
        page=done.page.name if done.page else "",
        title=done.job.picture.name,
        answer=made.answer if made else "",
        is_novel=made.novelty.is_novel if made and made.novelty else None,
        is_sure=made.prediction_set.is_sure if made and made.prediction_set else None,
        failure=done.failure,
    )
