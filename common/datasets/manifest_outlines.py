"""What a row of a generic manifest outlines: masks, class masks and boxes become regions."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import get_args

from common.datasets.labels import LabelTable, LeftOut
from common.datasets.record import EVERY_POSITIVE_LABEL, Exclusion, MaskValue, Region, RoiKind
from common.datasets.sources import MISSING_MASK, left_out, named_file
from common.errors import DataError
from common.registry import unknown_name
from common.tasks import Task

NO_ROI = ("", "none")
ROI_KINDS: dict[str, RoiKind] = {kind: kind for kind in get_args(RoiKind)}


@dataclass(frozen=True)
class Outlines:
    """The cells of a row that outline something; empty where it has none."""

    kind: str
    mask: str  # path of a mask of everything that is outlined
    class_mask: str  # path of a mask that tells regions apart; where there is one, it is read
    boxes: str  # JSON


def read_outlines(
    row: str,
    outlines: Outlines,
    targets: tuple[float, ...],
    *,
    labels: LabelTable,
    task: Task,
    folder: Path,
    data_root: Path,
) -> tuple[Region, ...] | Exclusion:
    """Return the regions of a row, or why the row is left out; pixels are not read.

    Args:
        row: For messages.
        outlines: The row's cells.
        targets: Of the picture.
        labels: What names of boxes and values of class masks mean.
        task: The task as the run restricts it.
        folder: Where paths of masks start.
        data_root: The data folder: a mask outside of it is missing.

    Raises:
        DataError: The kind of region is unknown or the boxes are malformed.
    """
    if outlines.kind in NO_ROI:
        return ()
    if outlines.kind not in ROI_KINDS:
        known = {**ROI_KINDS, "none": None}
        raise DataError(f"{row}: {unknown_name('kind of region', outlines.kind, known)}")
    kind = ROI_KINDS[outlines.kind]
    name = outlines.class_mask or outlines.mask
    if not name and not outlines.boxes:
        return Exclusion(MISSING_MASK, row, f"kind {kind} without a mask or boxes")
    mask = named_file(name, folder=folder, data_root=data_root)
    if name and mask is None:
        return Exclusion(MISSING_MASK, row, f"no file {name!r} beside the table")
    is_lesion = kind in ("lesion_mask", "lesion_box")
    nameless = labels.logits_of_mask(targets, task) if is_lesion else (EVERY_POSITIVE_LABEL,)
    usual_name = "lesion" if is_lesion else kind
    mask_kind = "lesion_mask" if is_lesion else kind
    regions: list[Region] = []
    if mask is not None and outlines.class_mask:
        regions += _of_class_mask(
            mask, mask_kind, targets, labels=labels, task=task, is_lesion=is_lesion
        )
    elif mask is not None:
        regions += [Region(mask_kind, usual_name, logit, mask, None, None) for logit in nameless]
    box_kind = "lesion_box" if is_lesion else kind
    for box, called in _boxes(row, outlines.boxes):
        logits = nameless
        if is_lesion and called:
            logit = labels.logit_of(called, task)
            if isinstance(logit, LeftOut):
                return left_out(row, logit)
            logits = () if logit is None else (logit,)  # None: the run does not ask about it
        regions += [
            Region(box_kind, called or usual_name, logit, None, box, None) for logit in logits
        ]
    return tuple(regions)


def _of_class_mask(
    mask: Path,
    kind: RoiKind,
    targets: tuple[float, ...],
    *,
    labels: LabelTable,
    task: Task,
    is_lesion: bool,
) -> Iterator[Region]:
    """Yield a region for everything that a class mask may hold; those without a pixel are dropped.

    That happens when the pixels are read.
    """
    values = {int(value): region for value, region in labels.class_mask.items()}
    known = tuple(sorted(values))
    for value in known:
        logits = (
            labels.logits_of_class(values[value], targets, task)
            if is_lesion
            else (EVERY_POSITIVE_LABEL,)
        )
        for logit in logits:
            yield Region(kind, values[value], logit, mask, None, None, MaskValue(value, known))


def _boxes(row: str, cell: str) -> list[tuple[tuple[float, float, float, float], str]]:
    if not cell:
        return []
    remedy = f'{row}: boxes must be JSON like [[x, y, width, height, "Mass"]], got {cell!r}.'
    try:
        loaded = json.loads(cell)
        boxes = []
        for x, y, width, height, *name in loaded:
            box = (float(x), float(y), float(width), float(height))
            if not all(map(isfinite, box)) or box[2] <= 0 or box[3] <= 0 or len(name) > 1:
                raise DataError(remedy)
            boxes.append((box, str(name[0]) if name else ""))
    except (ValueError, TypeError) as error:
        raise DataError(remedy) from error
    return boxes
