"""From pictures that were read to the files of a shard: compare, share out, count, write."""

import csv
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.config.run import DuplicateConfig
from common.datasets.card_counts import count_shard
from common.datasets.checksums import write_checksums
from common.datasets.duplicates import DuplicateReport, find_duplicates
from common.datasets.preprocess import Preprocessed
from common.datasets.reading import ReadPicture
from common.datasets.record import Exclusion, Source
from common.datasets.shard import EXCLUSIONS, FORMAT, META, ShardMeta
from common.datasets.shared_pictures import row_of, write_signatures
from common.datasets.split import split_patients
from common.datasets.staging import Staging
from common.errors import DataError
from common.tasks import Task

CONFLICT = "equal pictures with conflicting labels"  # beside the reasons of tables and reading


@dataclass(frozen=True)
class _Found:
    """What reading a whole source gave."""

    reads: Sequence[ReadPicture]
    records: Sequence[int]  # number in the source of each
    excluded: Sequence[Exclusion]


def write_shard(
    folder: Path,
    items: Iterable[tuple[ReadPicture, Preprocessed] | Exclusion],
    source: Source,
    *,
    task: Task,
    parts: Mapping[str, float],
    size_px: int,
    duplicates: DuplicateConfig,
    seed: int,
    fingerprint: str | None,
) -> None:
    """Fill an empty folder with the files of a shard.

    Args:
        folder: Where they go.
        items: What was read of the source, in its order.
        source: The cases.
        task: The task as the run restricts it.
        parts: Part to share of patients.
        size_px: Side of the prepared pictures.
        duplicates: When two pictures count as one.
        seed: Fixes the split.
        fingerprint: Of all that decides the content, None where it cannot be told.

    Raises:
        DataError: No picture is left.
    """
    with Staging(folder, size_px=size_px, channels=task.channels) as staging:
        found = _stage(staging, items, source)
        report = _duplicates(found.reads, duplicates)
        kept = _kept(found.reads, report, duplicates)
        excluded = [*found.excluded, *_conflicting(found.reads, kept)]
        if not len(kept):
            raise DataError(_nothing_left(excluded))
        owner = np.repeat(np.arange(len(found.reads)), [len(r.regions) for r in found.reads])
        staging.write(pictures=kept, masks=np.flatnonzero(np.isin(owner, kept)))
    reads = [found.reads[row] for row in kept]
    arrays = _arrays(reads, parts=parts, seed=seed, groups=_renumbered(report.groups, kept))
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
    write_signatures(
        folder, [read.signature for read in reads], records=[found.records[row] for row in kept]
    )
    _write_exclusions(folder / EXCLUSIONS, excluded)
    regions = [region for read in reads for region in read.regions]
    meta = ShardMeta(
        format=FORMAT,
        fingerprint=fingerprint,
        task=task.name,
        labels=task.labels,
        concepts=task.concepts,
        parts=tuple(parts),
        region_kind=tuple(region.kind for region in regions),
        region_name=tuple(region.name for region in regions),
        card=count_shard(
            reads,
            task=task,
            size_px=size_px,
            part=arrays["part"],
            parts=tuple(parts),
            patients=arrays["patients"],
            targets=arrays["targets"],
            excluded=excluded,
            duplicates=report,
        ),
    )
    (folder / META).write_text(meta.model_dump_json(indent=1), encoding="utf-8")
    write_checksums(folder)


def _stage(
    staging: Staging,
    items: Iterable[tuple[ReadPicture, Preprocessed] | Exclusion],
    source: Source,
) -> _Found:
    excluded = list(source.exclusions)
    reads: list[ReadPicture] = []
    records: list[int] = []
    for number, item in enumerate(items):
        if isinstance(item, Exclusion):
            excluded.append(replace(item, row=row_of(source, number)))
        else:
            read, prepared = item
            staging.add(prepared.image, prepared.masks)
            reads.append(read)
            records.append(number)
    return _Found(reads=reads, records=records, excluded=excluded)


def _arrays(
    reads: Sequence[ReadPicture],
    *,
    parts: Mapping[str, float],
    seed: int,
    groups: Sequence[Sequence[int]],
) -> dict[str, NDArray[Any]]:
    """Return the small arrays of a shard by name."""
    targets = np.array([read.targets for read in reads], dtype=np.float32)
    part = split_patients(
        [read.patient for read in reads], targets, shares=parts, seed=seed, groups=groups
    )
    codes: dict[str, int] = {}
    patients = [codes.setdefault(read.patient, len(codes)) for read in reads]
    regions = [region for read in reads for region in read.regions]
    return {
        "targets": targets,
        "concepts": np.array([read.concepts for read in reads], dtype=np.float32),
        "patients": np.array(patients, dtype=np.int32),
        "part": part,
        "region_image": np.repeat(
            np.arange(len(reads), dtype=np.int32), [len(read.regions) for read in reads]
        ),
        "region_label": np.array([region.label for region in regions], dtype=np.int16),
    }


def _kept(
    found: Sequence[ReadPicture], duplicates: DuplicateReport, config: DuplicateConfig
) -> NDArray[np.int64]:
    rows = np.arange(len(found), dtype=np.int64)
    if config.conflicts == "keep":
        return rows
    return np.setdiff1d(rows, np.array(duplicates.conflicts, dtype=np.int64))


def _conflicting(found: Sequence[ReadPicture], kept: NDArray[np.int64]) -> list[Exclusion]:
    return [
        Exclusion(CONFLICT, found[row].row, "another row shows the same picture")
        for row in np.setdiff1d(np.arange(len(found)), kept).tolist()
    ]


def _renumbered(groups: Sequence[Sequence[int]], kept: NDArray[np.int64]) -> list[list[int]]:
    """Return the groups in the numbers of the kept rows."""
    place = {row: number for number, row in enumerate(kept.tolist())}
    return [[place[row] for row in group if row in place] for group in groups]


def _duplicates(found: Sequence[ReadPicture], config: DuplicateConfig) -> DuplicateReport:
    return find_duplicates(
        [read.signature for read in found],
        patients=[read.patient for read in found],
        targets=np.array([read.targets for read in found], dtype=np.float32),
        config=config,
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
