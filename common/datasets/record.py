"""What travels between readers, preparation and training: one picture, its labels, its regions."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from common.tasks import Task

RoiKind = Literal[
    "lesion_mask",
    "lesion_box",
    "region_mask_normal",
    "organ_mask_lung",
    "optic_disc",
    "anatomy_mask",  # all of the body part that the picture is of: lungs, retina, tissue
    "marker_mask",  # burnt into the picture, and so nothing of the patient
]

EVERY_POSITIVE_LABEL = -1  # a region that explains whatever is positive in its picture
NO_LABEL_ASKED = -2  # a region that shows a sign and explains nothing that the run asks about


def finding_of(kind: str, label: int, task: Task) -> str | None:
    """Return the finding that a region of this kind and label explains, None where not just one."""
    if kind not in task.lesion_roi_kinds or task.kind != "multi-label" or label < 0:
        return None
    return task.labels[label]


@dataclass(frozen=True)
class MaskValue:
    """Which pixels of a class mask, where every pixel holds a number, belong to a region."""

    value: int  # 1 to 255
    known: tuple[int, ...]  # all values that have a meaning; any other but 0 is an error


@dataclass(frozen=True)
class Region:
    """A region of one picture as its table tells it, before any pixel is read.

    Exactly one of ``mask`` and ``box`` is set.
    """

    kind: RoiKind
    name: str  # what it shows in the source's words: "hard_exudate", "Nodule"
    label: int  # index of the logit it explains, EVERY_POSITIVE_LABEL or NO_LABEL_ASKED
    mask: Path | None  # picture of the same size, non-zero inside
    box: tuple[float, float, float, float] | None  # x, y, width, height
    box_frame: tuple[int, int] | None  # (width, height) the box is given in; None: the picture's
    of_class: MaskValue | None = None  # the mask is a class mask; None: it shows this region alone


@dataclass(frozen=True)
class Record:
    """One row of a source: where the picture lies and what its table says of it."""

    image: Path
    patient: str
    site: str
    targets: tuple[float, ...]  # as common.tasks.Task, NaN where unknown
    regions: tuple[Region, ...]
    official_split: str | None  # the split that the source's own tables name; None: none
    row: str  # where the row stands, for messages at the site: "index.csv row 12"
    outlined: tuple[str, ...] = ()  # concepts of which every place is a region of this picture
    signs: tuple[tuple[str, bool], ...] = ()  # concepts that the table's words assert or deny


@dataclass(frozen=True)
class Exclusion:
    """One row or picture that was left out, and why. The reason is what the data card counts."""

    reason: str  # one short phrase of a fixed list, without names: "no label"
    row: str
    detail: str  # for the person at the site; never leaves it


@dataclass(frozen=True)
class CaseRegion:
    """A region with its pixels."""

    kind: RoiKind
    name: str
    label: int
    mask: NDArray[np.bool_]  # (H, W)


@dataclass(frozen=True)
class Case:
    """One picture with its pixels, before resizing."""

    image: NDArray[np.uint8]  # (H, W, C), C = Task.channels
    patient: str
    site: str
    targets: tuple[float, ...]
    regions: tuple[CaseRegion, ...]
    row: str
    outlined: tuple[str, ...] = ()  # as Record
    signs: tuple[tuple[str, bool], ...] = ()  # as Record


class Source(Protocol):
    """Where cases come from: a table of files or a phantom generator.

    ``records`` is cheap (tables only); ``load`` reads pixels and raises DataError naming file,
    row and remedy when one cannot be used.
    """

    def __len__(self) -> int:
        """Return the number of records."""
        ...

    def patient(self, index: int) -> str:
        """Return the patient of a record."""
        ...

    def targets(self, index: int) -> tuple[float, ...]:
        """Return the target vector of a record."""
        ...

    def load(self, index: int) -> Case:
        """Read the pixels of a record."""
        ...

    @property
    def exclusions(self) -> Sequence[Exclusion]:
        """Rows that the tables rule out."""
        ...
