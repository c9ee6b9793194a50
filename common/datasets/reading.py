"""Reads a source's records one by one into preprocessed pictures, or says why not."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.config import PreprocessConfig
from common.datasets.duplicates import Signature, signature
from common.datasets.record import CaseRegion, Exclusion, Source
from common.datasets.source_traits import official_split_of
from common.errors import DataError
from common.preprocess import Preprocessed, preprocess
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


def read_all(
    source: Source, *, task: Task, size_px: int, config: PreprocessConfig, workers: int = 1
) -> Iterator[tuple[ReadPicture, Preprocessed] | Exclusion]:
    """Yield every record in order, read and preprocessed, or why it is left out.

    Args:
        source: The cases.
        task: What targets and channels must fit.
        size_px: Side of the result.
        config: The task's preprocessing.
        workers: Threads; few pictures are in memory at once however many there are.
    """
    waiting: deque[Future[tuple[ReadPicture, Preprocessed] | Exclusion]] = deque()
    with ThreadPoolExecutor(max_workers=workers) as pool:
        for index in range(len(source)):
            waiting.append(pool.submit(_read, source, index, task, size_px, config))
            if len(waiting) >= READ_AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _read(
    source: Source, index: int, task: Task, size_px: int, config: PreprocessConfig
) -> tuple[ReadPicture, Preprocessed] | Exclusion:
    try:
        case = source.load(index)
        if len(case.targets) != task.num_logits or case.image.shape[2:] != (task.channels,):
            raise DataError(
                f"{case.row}: {len(case.targets)} targets and pixels {case.image.shape} for task "
                f"{task.name}, which has {task.num_logits} logits and {task.channels} channels; "
                "the source must be opened for this task."
            )
        masks = [region.mask for region in case.regions]
        prepared = preprocess(case.image, masks, size_px=size_px, config=config)
    except DataError as error:
        return Exclusion(UNUSABLE, f"record {index + 1}", str(error))
    read = ReadPicture(
        row=case.row,
        patient=case.patient,
        targets=case.targets,
        official_split=official_split_of(source, index),
        signature=signature(case.image),
        width=case.image.shape[1],
        height=case.image.shape[0],
        regions=tuple(map(_described, case.regions, prepared.masks)),
        skipped=prepared.skipped,
    )
    return read, prepared


def _described(region: CaseRegion, mask: NDArray[np.bool_]) -> ReadRegion:
    return ReadRegion(region.kind, region.name, region.label, float(mask.mean()))
