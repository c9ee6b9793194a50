"""Reads a source's records one by one into preprocessed pictures, or says why not."""

from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.concepts import concept_targets, concepts_of
from common.config.run import PreprocessConfig
from common.datasets.duplicates import Signature, signature
from common.datasets.kept_reading import kept_or_read
from common.datasets.picture_store import PictureStore
from common.datasets.preprocess import Preprocessed, preprocess
from common.datasets.record import (
    Case,
    CaseRegion,
    Exclusion,
    Record,
    Region,
    Source,
    finding_of,
)
from common.datasets.source_traits import Tabled, official_split_of
from common.errors import DataError
from common.tasks import Task

UNUSABLE = "picture or mask cannot be used"  # beside the reasons of the source's tables
READ_AHEAD = 4  # pictures per worker that may wait to be taken


@dataclass(frozen=True)
class ReadRegion:
    """One region read, without its pixels."""

    kind: str
    name: str
    label: int
    area: float  # share of the stored picture, [0, 1]


@dataclass(frozen=True)
class ReadPicture:
    """One picture read, without its pixels."""

    row: str
    patient: str
    targets: tuple[float, ...]
    official_split: str | None
    signature: Signature
    width: int
    height: int
    regions: tuple[ReadRegion, ...]
    skipped: tuple[str, ...]
    concepts: tuple[float, ...]  # (K,) as Task.concepts, NaN where unknown


def read_all(
    source: Source,
    *,
    task: Task,
    size_px: int,
    config: PreprocessConfig,
    workers: int = 1,
    store: PictureStore | None = None,
) -> Generator[tuple[ReadPicture, Preprocessed] | Exclusion]:
    """Yield every record in order, read and preprocessed, or why it is left out.

    Args:
        source: The cases.
        task: What targets and channels must fit.
        size_px: Side of the result.
        config: The task's preprocessing.
        workers: Threads; few pictures are in memory at once however many there are.
        store: Where pictures that lie in files are taken from and kept; None: nowhere.
    """
    waiting: deque[Future[tuple[ReadPicture, Preprocessed] | Exclusion]] = deque()
    with ThreadPoolExecutor(max_workers=workers) as pool:
        try:
            for index in range(len(source)):
                waiting.append(
                    pool.submit(
                        _read,
                        source,
                        index,
                        task=task,
                        size_px=size_px,
                        config=config,
                        store=store,
                    )
                )
                if len(waiting) >= READ_AHEAD * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _read(
    source: Source,
    index: int,
    *,
    task: Task,
    size_px: int,
    config: PreprocessConfig,
    store: PictureStore | None,
) -> tuple[ReadPicture, Preprocessed] | Exclusion:
    split = official_split_of(source, index)
    try:
        if store is not None and isinstance(source, Tabled):
            record = source.records[index]
            return _kept(record, split, task=task, size_px=size_px, config=config, store=store)
        case = source.load(index)
        _refuse_misfit(case.row, case.targets, case.image.shape, task)
        masks = [region.mask for region in case.regions]
        prepared = preprocess(case.image, masks, size_px=size_px, config=config)
    except DataError as error:
        return Exclusion(UNUSABLE, f"record {index + 1}", str(error))
    regions = tuple(map(_described, case.regions, prepared.masks))
    read = ReadPicture(
        row=case.row,
        patient=case.patient,
        targets=case.targets,
        official_split=split,
        signature=signature(case.image),
        width=case.image.shape[1],
        height=case.image.shape[0],
        regions=regions,
        skipped=prepared.skipped,
        concepts=_concepts(case, regions, task),
    )
    return read, prepared


def _kept(
    record: Record,
    split: str | None,
    *,
    task: Task,
    size_px: int,
    config: PreprocessConfig,
    store: PictureStore,
) -> tuple[ReadPicture, Preprocessed]:
    kept, outlines = kept_or_read(
        record, channels=task.channels, size_px=size_px, config=config, store=store
    )
    _refuse_misfit(record.row, record.targets, kept.image.shape, task)
    marked = [
        (region, outline.mask)
        for region, outline in zip(record.regions, outlines, strict=True)
        if outline.is_marked
    ]
    regions = tuple(_described(region, mask) for region, mask in marked)
    read = ReadPicture(
        row=record.row,
        patient=record.patient,
        targets=record.targets,
        official_split=split,
        signature=kept.signature,
        width=kept.width,
        height=kept.height,
        regions=regions,
        skipped=kept.skipped,
        concepts=_concepts(record, regions, task),
    )
    masks = tuple(mask for _, mask in marked)
    return read, Preprocessed(image=kept.image, masks=masks, skipped=kept.skipped)


def _refuse_misfit(
    row: str, targets: tuple[float, ...], shape: tuple[int, ...], task: Task
) -> None:
    if len(targets) != task.num_logits or shape[2:] != (task.channels,):
        raise DataError(
            f"{row}: {len(targets)} targets and pixels {shape} for task {task.name}, which has "
            f"{task.num_logits} logits and {task.channels} channels; the source must be opened "
            "for this task."
        )


def _concepts(told: Case | Record, regions: Sequence[ReadRegion], task: Task) -> tuple[float, ...]:
    return concept_targets(
        concepts_of(task.name, task.concepts),
        regions=[(r.name, finding_of(r.kind, r.label, task)) for r in regions],
        outlined=told.outlined,
        signs=told.signs,
    )


def _described(region: CaseRegion | Region, mask: NDArray[np.bool_]) -> ReadRegion:
    return ReadRegion(region.kind, region.name, region.label, float(mask.mean()))
