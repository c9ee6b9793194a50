"""A prepared shard: what one site (or one reference set) trains and evaluates on, memory-mapped."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from common.concepts import concepts_of, shows
from common.datasets.card import DataCard
from common.datasets.record import EVERY_POSITIVE_LABEL, finding_of
from common.errors import DataError
from common.tasks import Task

SITE_PARTS = ("train", "val", "test")
REFERENCE_PARTS = ("selection", "calibration", "gate")

FORMAT = 4  # of the files below; raise it when they change
META = "meta.json"
EXCLUSIONS = "exclusions.csv"  # names rows and files: for the person at the site alone


@dataclass(frozen=True)
class Shard:
    """N pictures of one task with targets, pseudonymous patients, parts and regions.

    Pictures are resized and contrast-normalised already; only random augmentation is left.
    """

    task: str
    labels: tuple[str, ...]  # Task.labels the targets follow
    images: NDArray[np.uint8]  # (N, S, S, C), memory-mapped
    targets: NDArray[np.float32]  # (N, T), NaN where unknown
    patients: NDArray[np.int32]  # (N,) codes in order of first appearance; no identifiers
    part: NDArray[np.int8]  # (N,) index into parts
    parts: tuple[str, ...]  # SITE_PARTS or REFERENCE_PARTS
    region_masks: NDArray[np.uint8]  # (M, S, S) 0/1, memory-mapped
    region_image: NDArray[np.int32]  # (M,) picture a region belongs to, ascending
    region_label: NDArray[np.int16]  # (M,) logit index, EVERY_POSITIVE_LABEL or NO_LABEL_ASKED
    region_kind: tuple[str, ...]  # (M,) RoiKind
    region_name: tuple[str, ...]  # (M,) what it shows
    card: DataCard
    # (N, K): 1 there, 0 absent, NaN unknown; without columns where no sign was looked for.
    concepts: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    concept_names: tuple[str, ...] = ()  # (K,) Task.concepts that the columns follow

    def __len__(self) -> int:
        """Return the number of pictures."""
        return int(self.images.shape[0])

    def indices(self, part: str) -> NDArray[np.int64]:
        """Return the pictures of a part, in order. Raises DataError for a part it has not."""
        if part not in self.parts:
            raise DataError(f"this shard has no part {part!r}, only {', '.join(self.parts)}.")
        return np.flatnonzero(self.part == self.parts.index(part))

    def unnamed_pictures(self, part: str) -> int:
        """Return how many pictures of a part have no patient in their table.

        Raises DataError where the data card does not count the part.
        """
        counts = {count.name: count.unnamed_pictures for count in self.card.parts}
        if part not in counts:
            raise DataError(f"the data card does not count part {part!r}; prepare the shard again.")
        return counts[part]

    def regions_of(self, index: int) -> range:
        """Return the rows of ``region_*`` that belong to a picture."""
        first, end = np.searchsorted(self.region_image, [index, index + 1])
        return range(int(first), int(end))


def lesion_masks(shard: Shard, index: int, task: Task) -> dict[int, NDArray[np.bool_]]:
    """Return, per logit that a lesion region of this picture explains, their union (S, S).

    Only lesion kinds count, never anatomy, and only logits that are positive here: a finding
    or the positive class at 1, a grade of at least 1.

    Args:
        shard: The shard.
        index: The picture.
        task: The task as the run restricts it, with the labels of the shard.
    """
    positive = np.flatnonzero(shard.targets[index] >= 1)
    masks: dict[int, NDArray[np.bool_]] = {}
    for row in shard.regions_of(index):
        if shard.region_kind[row] not in task.lesion_roi_kinds:
            continue
        label = int(shard.region_label[row])
        mask = np.asarray(shard.region_masks[row]) > 0
        for logit in positive.tolist():
            if label in (logit, EVERY_POSITIVE_LABEL):
                masks[logit] = masks[logit] | mask if logit in masks else mask
    return masks


def concept_masks(shard: Shard, index: int, task: Task) -> dict[int, NDArray[np.bool_]]:
    """Return, per concept that regions of this picture show, their union (S, S), by its number.

    Args:
        shard: The shard.
        index: The picture.
        task: The task as the run restricts it, with the labels and concepts of the shard.
    """
    concepts = concepts_of(task.name, shard.concept_names)
    masks: dict[int, NDArray[np.bool_]] = {}
    for row in shard.regions_of(index):
        name = shard.region_name[row]
        finding = finding_of(shard.region_kind[row], int(shard.region_label[row]), task)
        mask: NDArray[np.bool_] | None = None  # read from disk only where a concept asks for it
        for number, concept in enumerate(concepts):
            if shows(concept, region=name, finding=finding):
                mask = np.asarray(shard.region_masks[row]) > 0 if mask is None else mask
                masks[number] = masks[number] | mask if number in masks else mask
    return masks


class ShardMeta(BaseModel):
    """What stands beside the arrays, in ``meta.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int
    fingerprint: str | None  # of all that decided the content; None: it could not be told
    task: str
    labels: tuple[str, ...]
    concepts: tuple[str, ...]
    parts: tuple[str, ...]
    region_kind: tuple[str, ...]
    region_name: tuple[str, ...]
    card: DataCard


def open_shard(folder: Path) -> Shard:
    """Open a prepared shard without reading its pictures.

    Raises:
        DataError: A file is missing, damaged, or of another version.
    """
    meta = _read_meta(folder)
    shard = Shard(
        task=meta.task,
        labels=meta.labels,
        images=_open_array(folder / "images.npy"),
        targets=_open_array(folder / "targets.npy"),
        concepts=_open_array(folder / "concepts.npy"),
        concept_names=meta.concepts,
        patients=_open_array(folder / "patients.npy"),
        part=_open_array(folder / "part.npy"),
        parts=meta.parts,
        region_masks=_open_array(folder / "region_masks.npy"),
        region_image=_open_array(folder / "region_image.npy"),
        region_label=_open_array(folder / "region_label.npy"),
        region_kind=meta.region_kind,
        region_name=meta.region_name,
        card=meta.card,
    )
    pictures = {
        len(a) for a in (shard.images, shard.targets, shard.concepts, shard.patients, shard.part)
    }
    regions = {
        len(a)
        for a in (shard.region_masks, shard.region_image, shard.region_label, meta.region_kind)
    }
    if len(pictures) > 1 or len(regions) > 1:
        raise DataError(f"{folder}: its files differ in length; prepare the shard again.")
    return shard


def shard_fingerprint(folder: Path) -> str | None:
    """Return what a prepared shard was made from, None where there is none or it is unreadable."""
    try:
        return _read_meta(folder).fingerprint
    except DataError:
        return None


def _read_meta(folder: Path) -> ShardMeta:
    path = folder / META
    try:
        meta = ShardMeta.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: no shard here ({error}); prepare the pictures first.") from error
    except ValidationError as error:
        raise DataError(
            f"{path}: damaged, or of another version; prepare the shard again."
        ) from error
    if meta.format != FORMAT:
        raise DataError(f"{path}: of another version; prepare the shard again.")
    return meta


def _open_array(path: Path) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"{path}: cannot be read ({type(error).__name__}); prepare the shard again."
        ) from error
    return np.asarray(array)  # a view: the pixels stay on disk until they are indexed
