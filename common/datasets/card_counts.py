"""Counts a shard's pictures into its data card."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from common.datasets.card import (
    ClassCount,
    DataCard,
    DuplicateCount,
    PartCount,
    PixelRange,
    RegionCount,
    SignCount,
)
from common.datasets.duplicates import DuplicateReport
from common.datasets.reading import ReadPicture
from common.datasets.record import Exclusion
from common.datasets.sources import OWN_PATIENT
from common.tasks import Task


def count_shard(
    reads: Sequence[ReadPicture],
    *,
    task: Task,
    size_px: int,
    part: NDArray[np.int8],
    parts: tuple[str, ...],
    patients: NDArray[np.int32],
    targets: NDArray[np.float32],
    excluded: Sequence[Exclusion],
    duplicates: DuplicateReport,
) -> DataCard:
    """Return the card of a shard.

    Args:
        reads: The N pictures that the shard holds.
        task: What the targets mean.
        size_px: Side of the stored pictures.
        part: (N,) index into ``parts``.
        parts: Names of the parts.
        patients: (N,) patient codes.
        targets: (N, T), NaN where unknown.
        excluded: What was left out.
        duplicates: What the comparison of all pictures found, those left out included.
    """
    has_lesion = np.array(
        [any(region.kind in task.lesion_roi_kinds for region in r.regions) for r in reads]
    )
    is_unnamed = np.array([read.patient.startswith(OWN_PATIENT) for read in reads])
    membership = _class_membership(targets, task)
    # (N, K): 1 there, 0 absent, NaN unknown
    signs = np.array([read.concepts for read in reads], np.float32).reshape(
        len(reads), len(task.concepts)
    )
    counts = tuple(
        _part_count(
            name,
            chosen=part == number,
            patients=patients,
            membership=membership,
            has_lesion=has_lesion,
            is_unnamed=is_unnamed,
            signs=dict(zip(task.concepts, signs.T, strict=True)),
        )
        for number, name in enumerate(parts)
    )
    return DataCard(
        task=task.name,
        image_size_px=size_px,
        pictures=len(reads),
        patients=len(np.unique(patients)),
        parts=counts,
        regions=_region_counts(reads),
        width_px=_pixel_range([read.width for read in reads]),
        height_px=_pixel_range([read.height for read in reads]),
        exclusions=dict(Counter(exclusion.reason for exclusion in excluded).most_common()),
        duplicates=DuplicateCount(
            exact=len(duplicates.exact_pairs),
            near=len(duplicates.near_pairs),
            shared_pictures=duplicates.shared_pictures,
            straddling_pictures=duplicates.straddling_pictures,
            straddling_patients=duplicates.straddling_patients,
            conflicts=len(duplicates.conflicts),
        ),
        notes=_empty_notes(counts) + _reading_notes(reads),
    )


def _region_counts(reads: Sequence[ReadPicture]) -> tuple[RegionCount, ...]:
    areas: dict[str, list[float]] = {}
    pictures: Counter[str] = Counter()
    for read in reads:
        pictures.update({region.kind for region in read.regions})
        for region in read.regions:
            areas.setdefault(region.kind, []).append(region.area)
    return tuple(
        RegionCount(kind, len(shares), pictures[kind], float(np.mean(shares)))
        for kind, shares in sorted(areas.items())
    )


def _reading_notes(reads: Sequence[ReadPicture]) -> tuple[str, ...]:
    skipped = Counter(step for read in reads for step in read.skipped)
    notes = [f"{step}, {count} pictures left as they were" for step, count in skipped.items()]
    unnamed = sum(read.patient.startswith(OWN_PATIENT) for read in reads)
    if unnamed:
        notes.append(f"{unnamed} pictures have no patient in their table: each counts as its own")
    return tuple(notes)


def _pixel_range(sides: Sequence[int]) -> PixelRange:
    """Return smallest, median and largest of at least one side in pixels."""
    return PixelRange(min(sides), int(np.median(sides)), max(sides))


def _class_membership(targets: NDArray[np.floating], task: Task) -> dict[str, NDArray[np.bool_]]:
    """Return, per class as a person would name it, which of N pictures belong to it.

    Findings and ``no finding`` (known to have none of the task's), grades, or the two classes.

    Args:
        targets: (N, T), NaN where unknown.
        task: What the targets mean.
    """
    if task.kind == "multi-label":
        named = {label: targets[:, index] == 1 for index, label in enumerate(task.labels)}
        return {**named, "no finding": (targets == 0).all(axis=1)}
    return {label: targets[:, 0] == value for value, label in enumerate(task.labels)}


def _part_count(
    name: str,
    *,
    chosen: NDArray[np.bool_],
    patients: NDArray[np.int32],
    membership: Mapping[str, NDArray[np.bool_]],
    has_lesion: NDArray[np.bool_],
    is_unnamed: NDArray[np.bool_],
    signs: Mapping[str, NDArray[np.float32]],
) -> PartCount:
    """Count one part.

    Args:
        name: Of the part.
        chosen: (N,) the part's pictures.
        patients: (N,) patient codes.
        membership: See ``_class_membership``.
        has_lesion: (N,) pictures with a lesion region.
        is_unnamed: (N,) pictures whose table names no patient.
        signs: Per sign (N,), 1 there, 0 absent, NaN unknown.
    """
    classes = tuple(
        ClassCount(label, int((chosen & member).sum()), len(np.unique(patients[chosen & member])))
        for label, member in membership.items()
    )
    return PartCount(
        name=name,
        pictures=int(chosen.sum()),
        patients=len(np.unique(patients[chosen])),
        classes=classes,
        lesion_pictures=int((chosen & has_lesion).sum()),
        unnamed_pictures=int((chosen & is_unnamed).sum()),
        signs=tuple(
            _sign_count(sign, column[chosen], patients[chosen]) for sign, column in signs.items()
        ),
    )


def _sign_count(name: str, targets: NDArray[np.float32], patients: NDArray[np.int32]) -> SignCount:
    """Count one sign in n pictures of these patients, (n,) both."""
    is_known, is_shown = ~np.isnan(targets), targets == 1
    return SignCount(
        name=name,
        known_pictures=int(is_known.sum()),
        known_patients=len(np.unique(patients[is_known])),
        shown_pictures=int(is_shown.sum()),
        shown_patients=len(np.unique(patients[is_shown])),
    )


def _empty_notes(parts: Sequence[PartCount]) -> tuple[str, ...]:
    """Return a sentence for each part without pictures and each class that a part lacks."""
    notes = [
        f"part {part.name} is empty: too few patients to share out"
        for part in parts
        if not part.pictures
    ]
    names = [count.name for count in parts[0].classes] if parts else []
    for position, name in enumerate(names):
        lacking = [p.name for p in parts if p.pictures and not p.classes[position].pictures]
        if len(lacking) == sum(bool(part.pictures) for part in parts):
            notes.append(f"class {name} is absent")
        elif lacking:
            notes.append(f"class {name} is absent from {', '.join(lacking)}")
    return tuple(notes)
