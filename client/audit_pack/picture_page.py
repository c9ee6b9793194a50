"""The page of one of a site's own pictures; one that cannot be explained says why."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.audit_pack.folder import write_text
from client.audit_pack.page import with_labels
from client.audit_pack.pictures import labels_of, neutral_name, shard_picture
from client.audit_pack.schema import PackPicture
from common.datasets.shard import Shard
from common.errors import FoveaError
from common.explaining.breakdown import breakdown, said
from common.explaining.other_pictures import TAKEN, OtherPictures
from common.explaining.picture_file import PreparedPicture
from common.explanation.schema import Explanation
from common.pages.page import render
from common.tasks import Task

OTHERS = "other pictures of this part"


def picture_page(
    explain: Callable[[PreparedPicture], Explanation],
    shard: Shard,
    index: int,
    *,
    name: str,
    is_disagreement: bool,
    task: Task,
    out: Path,
) -> PackPicture:
    """Write a picture's page and its JSON, and return its line of the pack.

    A picture that cannot be explained, for whatever reason, has the reason in its line, without
    what a library said of it; only KeyboardInterrupt and MemoryError go further.

    Args:
        explain: From the prepared picture to its explanation.
        shard: The site's.
        index: Of the picture.
        name: Neutral.
        is_disagreement: Whether it was chosen because model and label differ.
        task: With the labels of the shard.
        out: Folder of the pack.
    """
    labels = labels_of(shard, index, task=task)
    made: Explanation | None = None
    failure = ""
    try:
        made = _written(explain, shard, index, name=name, labels=labels, task=task, out=out)
    except MemoryError:
        raise
    except FoveaError as error:
        failure = said(error)
    except Exception as error:
        failure = (
            f"explaining it broke down ({breakdown(error)}). Where other pictures break down too, "
            "report these words."
        )
    answers = made.prediction_set if made else None
    return PackPicture(
        name=name,
        chosen_as="disagreement" if is_disagreement else "drawn",
        page=f"{name}.html" if made else "",
        labels=labels,
        answer=made.answer if made else "",
        is_novel=made.novelty.is_novel if made and made.novelty else None,
        is_sure=answers.is_sure if answers else None,
        failure=failure,
    )


def other_pictures(shard: Shard, rows: NDArray[np.int64], *, task: Task) -> OtherPictures:
    """Return a few pictures of a part, from its beginning to its end, to hold a map against."""
    places = np.unique(np.linspace(0, len(rows) - 1, min(TAKEN, len(rows))).round().astype(int))
    pictures = [
        shard_picture(shard, int(rows[place]), name=neutral_name(int(place)), task=task)
        for place in places
    ]
    return OtherPictures(pictures, words=OTHERS)


def _written(
    explain: Callable[[PreparedPicture], Explanation],
    shard: Shard,
    index: int,
    *,
    name: str,
    labels: dict[str, str],
    task: Task,
    out: Path,
) -> Explanation:
    picture = shard_picture(shard, index, name=name, task=task)
    made = explain(picture)
    html = with_labels(render(made, picture.image), labels, has_region=picture.region is not None)
    write_text(out / f"{name}.json", f"{made.model_dump_json(indent=1)}\n")
    write_text(out / f"{name}.html", html)
    return made
