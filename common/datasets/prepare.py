"""From a source to a prepared shard: read, compare, share out, write, and say what was found."""

import csv
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.config import DataConfig
from common.datasets.card_counts import count_shard
from common.datasets.code_digest import code_digest
from common.datasets.duplicates import DuplicateReport, find_duplicates
from common.datasets.reading import ReadPicture, read_all
from common.datasets.record import Exclusion, Source
from common.datasets.shard import (
    EXCLUSIONS,
    FORMAT,
    META,
    Shard,
    ShardMeta,
    open_shard,
    shard_fingerprint,
)
from common.datasets.shared_pictures import read_signatures, row_of, write_signatures
from common.datasets.source_traits import at_size, identity_of
from common.datasets.split import split_patients
from common.datasets.staging import Staging
from common.errors import DataError
from common.tasks import Task

log = logging.getLogger(__name__)

CONFLICT = "equal pictures with conflicting labels"  # beside the reasons of tables and reading


def prepare_shard(
    source: Source,
    *,
    task: Task,
    parts: Mapping[str, float],
    data: DataConfig,
    seed: int,
    out: Path,
    progress: Callable[[int, int], None] | None = None,
    workers: int = 1,
) -> Shard:
    """Prepare a source for training or central evaluation and return the shard.

    Reads every picture once, one at a time; whatever cannot be used is left out and counted on
    the data card, with names in ``exclusions.csv`` beside the arrays for the person at the site.
    The folder appears whole or not at all. Where it already holds the shard of the same source,
    settings and seed, it is returned as it is.

    Args:
        source: The cases.
        task: The task as the run restricts it.
        parts: Part to share of patients: train, val, test or selection, calibration, gate.
        data: Size, preprocessing and duplicate thresholds.
        seed: Fixes the split.
        out: Folder of the shard; its parents are created.
        progress: Called with (pictures read, pictures in all).
        workers: Threads that read and preprocess.

    Raises:
        DataError: No picture is left, or ``out`` holds something other than a shard.
    """
    source = at_size(source, data.image_size_px)
    fingerprint = _fingerprint(source, task=task, parts=parts, data=data, seed=seed)
    if fingerprint is not None and shard_fingerprint(out) == fingerprint:
        try:
            read_signatures(out)
            return open_shard(out)
        except DataError:
            log.warning("shard is damaged, prepared anew", extra={"action": "shard_damaged"})
    if out.exists() and not (out / META).exists():
        raise DataError(f"{out}: exists and holds no shard; name another folder or remove it.")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        _write(
            partial,
            source,
            task=task,
            parts=parts,
            data=data,
            seed=seed,
            fingerprint=fingerprint,
            progress=progress,
            workers=workers,
        )
        if out.exists():
            shutil.rmtree(out)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return open_shard(out)


def _fingerprint(
    source: Source, *, task: Task, parts: Mapping[str, float], data: DataConfig, seed: int
) -> str | None:
    """Return a digest of all that decides the shard's content, None where it cannot be told."""
    identity = identity_of(source)
    if identity is None:
        return None
    decisive = [
        FORMAT,
        code_digest(),
        identity,
        repr(task),
        list(parts.items()),
        data.image_size_px,
        data.preprocess[task.name].model_dump_json(),
        data.duplicates.model_dump_json(),
        seed,
    ]
    return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()


def _write(
    folder: Path,
    source: Source,
    *,
    task: Task,
    parts: Mapping[str, float],
    data: DataConfig,
    seed: int,
    fingerprint: str | None,
    progress: Callable[[int, int], None] | None,
    workers: int,
) -> None:
    """Fill an empty folder with the shard's files."""
    excluded = list(source.exclusions)
    found: list[ReadPicture] = []
    record: list[int] = []
    with Staging(folder, size_px=data.image_size_px, channels=task.channels) as staging:
        items = read_all(
            source,
            task=task,
            size_px=data.image_size_px,
            config=data.preprocess[task.name],
            workers=workers,
        )
        for done, item in enumerate(items, start=1):
            if isinstance(item, Exclusion):
                excluded.append(replace(item, row=row_of(source, done - 1)))
            else:
                read, prepared = item
                staging.add(prepared.image, prepared.masks)
                found.append(read)
                record.append(done - 1)
            if progress is not None:
                progress(done, len(source))
        duplicates = _duplicates(found, data)
        kept = _kept(found, duplicates, data)
        excluded += [
            Exclusion(CONFLICT, found[row].row, "another row shows the same picture")
            for row in np.setdiff1d(np.arange(len(found)), kept).tolist()
        ]
        if not len(kept):
            raise DataError(_nothing_left(excluded))
        owner = np.repeat(np.arange(len(found)), [len(read.regions) for read in found])
        staging.write(pictures=kept, masks=np.flatnonzero(np.isin(owner, kept)))
    reads = [found[row] for row in kept]
    targets = np.array([read.targets for read in reads], dtype=np.float32)
    part = split_patients(
        [read.patient for read in reads],
        targets,
        shares=parts,
        seed=seed,
        groups=_renumbered(duplicates.groups, kept),
    )
    codes: dict[str, int] = {}
    patients = np.array(
        [codes.setdefault(read.patient, len(codes)) for read in reads], dtype=np.int32
    )
    regions = [region for read in reads for region in read.regions]
    arrays: dict[str, NDArray[np.generic]] = {
        "targets": targets,
        "patients": patients,
        "part": part,
        "region_image": np.repeat(
            np.arange(len(reads), dtype=np.int32), [len(read.regions) for read in reads]
        ),
        "region_label": np.array([region.label for region in regions], dtype=np.int16),
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
    write_signatures(
        folder, [read.signature for read in reads], records=[record[row] for row in kept]
    )
    _write_exclusions(folder / EXCLUSIONS, excluded)
    meta = ShardMeta(
        format=FORMAT,
        fingerprint=fingerprint,
        task=task.name,
        labels=task.labels,
        parts=tuple(parts),
        region_kind=tuple(region.kind for region in regions),
        region_name=tuple(region.name for region in regions),
        card=count_shard(
            reads,
            task=task,
            size_px=data.image_size_px,
            part=part,
            parts=tuple(parts),
            patients=patients,
            targets=targets,
            excluded=excluded,
            duplicates=duplicates,
        ),
    )
    (folder / META).write_text(meta.model_dump_json(indent=1), encoding="utf-8")


def _kept(
    found: Sequence[ReadPicture], duplicates: DuplicateReport, data: DataConfig
) -> NDArray[np.int64]:
    rows = np.arange(len(found), dtype=np.int64)
    if data.duplicates.conflicts == "keep":
        return rows
    return np.setdiff1d(rows, np.array(duplicates.conflicts, dtype=np.int64))


def _renumbered(groups: Sequence[Sequence[int]], kept: NDArray[np.int64]) -> list[list[int]]:
    """Return the groups in the numbers of the kept rows."""
    place = {row: number for number, row in enumerate(kept.tolist())}
    return [[place[row] for row in group if row in place] for group in groups]


def _duplicates(found: Sequence[ReadPicture], data: DataConfig) -> DuplicateReport:
    return find_duplicates(
        [read.signature for read in found],
        patients=[read.patient for read in found],
        targets=np.array([read.targets for read in found], dtype=np.float32),
        config=data.duplicates,
        splits=[read.official_split for read in found],
    )


def _nothing_left(excluded: Sequence[Exclusion]) -> str:
    counts = Counter(exclusion.reason for exclusion in excluded)
    why = ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
    first = f" First: {excluded[0].row}: {excluded[0].detail}" if excluded else ""
    return f"no picture can be used ({why or 'the source is empty'}).{first}"


def _write_exclusions(path: Path, excluded: Sequence[Exclusion]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(["reason", "row", "detail"])
        table.writerows([e.reason, e.row, e.detail] for e in excluded)
    os.chmod(path, 0o600)
