"""A site's prepared pictures under neutral names, as an explanation takes them."""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from common.datasets.shard import Shard, lesion_masks
from common.explaining.picture_file import PreparedPicture
from common.explanation.anatomy import Extent, Eye
from common.explanation.optic_disc import disc_of_mask, find_disc
from common.package.answers import questions, right_answers
from common.tasks import Task

UNKNOWN = "unknown"


def neutral_name(place: int) -> str:
    """Return the name of the picture at a place of its part, counted from 0: ``picture-0001``."""
    return f"picture-{place + 1:04d}"


def shard_picture(shard: Shard, index: int, *, name: str, task: Task) -> PreparedPicture:
    """Return a picture of a shard with the union of its lesion regions.

    What tells of the file or the patient is not in a shard and so not here: the digest is that of
    the prepared pixels, the size that of the prepared square.

    Args:
        shard: With prepared pictures (S, S, C).
        index: Which of them.
        name: Neutral.
        task: With the labels of the shard.
    """
    image = np.array(shard.images[index])
    side = image.shape[0]
    masks = lesion_masks(shard, index, task).values()
    return PreparedPicture(
        name=name,
        sha256=hashlib.sha256(image.tobytes()).hexdigest(),
        width_px=side,
        height_px=side,
        image=image,
        skipped=(),
        extent=extent_of(image),
        region=np.logical_or.reduce(list(masks)) if masks else None,
        eye=_eye(shard, index, image) if task.name == "retina" else None,
    )


def labels_of(shard: Shard, index: int, *, task: Task) -> dict[str, str]:
    """Return the site's own answer to each question of a task, in words."""
    targets = shard.targets[index : index + 1]
    found = {}
    for number, question in enumerate(questions(task)):
        answer = int(right_answers(targets, number)[0])
        found[question.name] = UNKNOWN if answer < 0 else question.answers[answer]
    return found


def extent_of(image: NDArray[np.uint8]) -> Extent:
    """Return the part of a prepared square (S, S, C) that the picture fills.

    Preparation pads evenly with one colour, on two opposite sides.
    """
    side = image.shape[0]
    is_padding = (image == image[0, 0]).all(axis=2)
    top, bottom = _bands(is_padding.all(axis=1).tolist())
    left, right = _bands(is_padding.all(axis=0).tolist())
    # Sides that differ by more than the odd pixel are part of the picture.
    if abs(top - bottom) > 1 or top + bottom >= side:
        top = bottom = 0
    if abs(left - right) > 1 or left + right >= side:
        left = right = 0
    return Extent(
        top=top / side,
        left=left / side,
        height=(side - top - bottom) / side,
        width=(side - left - right) / side,
    )


def _bands(is_padding: Sequence[bool]) -> tuple[int, int]:
    """Return how many lines are padding at the beginning and at the end."""
    if all(is_padding):
        return 0, 0
    return is_padding.index(False), is_padding[::-1].index(False)


def _eye(shard: Shard, index: int, image: NDArray[np.uint8]) -> Eye | None:
    for row in shard.regions_of(index):
        if shard.region_kind[row] == "optic_disc":
            outlined = disc_of_mask(np.asarray(shard.region_masks[row]) > 0)
            if outlined is not None:
                return outlined
    return find_disc(image)
