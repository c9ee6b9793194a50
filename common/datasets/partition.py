"""Shares a pool of cases out by patient, so that no patient and no picture is at two places."""

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError

from common.config.run import DuplicateConfig
from common.datasets.code_digest import code_digest
from common.datasets.duplicates import DuplicateReport, Signature, find_duplicates, signature
from common.datasets.record import Source
from common.datasets.source_traits import identity_of, official_split_of
from common.datasets.split import split_patients
from common.datasets.views import SubsetSource
from common.errors import DataError

REST = ""  # the part of the pool that nobody asked for


def scan_duplicates(
    source: Source,
    *,
    config: DuplicateConfig,
    progress: Callable[[int, int], None] | None = None,
) -> DuplicateReport:
    """Read every picture of a source once and find duplicates.

    Pictures that cannot be read are nobody's duplicates; preparation will exclude and count them.

    Args:
        source: The cases.
        config: Thresholds.
        progress: Called with (pictures read, pictures in all).
    """
    found: list[Signature] = []
    readable: list[int] = []
    for index in range(len(source)):
        try:
            found.append(signature(source.load(index).image))
        except DataError:
            continue  # counted when this record's shard is prepared
        finally:
            if progress is not None:
                progress(index + 1, len(source))
        readable.append(index)
    report = find_duplicates(
        found,
        patients=[source.patient(index) for index in readable],
        targets=np.array([source.targets(index) for index in readable], dtype=np.float32),
        config=config,
        splits=[official_split_of(source, index) for index in readable],
    )
    return _renumbered(report, readable)


def scan_duplicates_once(
    source: Source,
    *,
    config: DuplicateConfig,
    folder: Path,
    progress: Callable[[int, int], None] | None = None,
) -> DuplicateReport:
    """Do what :func:`scan_duplicates` does, or return what it found of the same source before.

    Args:
        source: The cases.
        config: Thresholds.
        folder: Where the findings are kept; it is created. Other sources' findings stay.
        progress: Called with (pictures read, pictures in all).
    """
    identity = identity_of(source)
    if identity is None:
        return scan_duplicates(source, config=config, progress=progress)
    decisive = (code_digest(), identity, config.model_dump_json())
    key = hashlib.sha256(repr(decisive).encode()).hexdigest()
    path = folder / f".scan-{key[:32]}.json"
    kept = TypeAdapter(DuplicateReport)
    try:
        return kept.validate_json(path.read_bytes())
    except (OSError, ValidationError):
        report = scan_duplicates(source, config=config, progress=progress)
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_bytes(kept.dump_json(report))
    partial.replace(path)
    return report


def _renumbered(report: DuplicateReport, names: Sequence[int]) -> DuplicateReport:
    def pairs(rows: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
        return tuple((names[a], names[b]) for a, b in rows)

    return replace(
        report,
        exact_pairs=pairs(report.exact_pairs),
        near_pairs=pairs(report.near_pairs),
        groups=tuple(tuple(names[row] for row in group) for group in report.groups),
        conflicts=tuple(names[row] for row in report.conflicts),
    )


def partition(
    pool: Source,
    *,
    duplicates: DuplicateReport,
    shares: Mapping[str, float],
    seed: int,
) -> dict[str, SubsetSource]:
    """Return one source per name; no patient and no duplicate picture is in two of them.

    Stratified by label as ``split_patients``; the order of ``shares`` decides who is served first
    when there are few patients. What is left when the shares sum to less than 1 is not used.
    Rows that the pool's tables rule out belong to no share in particular: each share carries them
    all, marked as the whole pool's.

    Args:
        pool: The cases to share out.
        duplicates: What ``scan_duplicates`` found in this pool.
        shares: Name to share of the pool's patients.
        seed: Decides who gets which patients.

    Raises:
        DataError: The shares sum to more than 1, or one of them ends up without any patient.
    """
    total = sum(shares.values())
    if total > 1 + 1e-6:
        raise DataError(
            f"the shares of a pool must sum to at most 1, got {total:.3f} for "
            f"{', '.join(shares)}; lower one of them."
        )
    rest = 0.0 if total > 1 - 1e-6 else 1 - total
    scale = total if rest == 0.0 else 1.0
    part = split_patients(
        [pool.patient(index) for index in range(len(pool))],
        np.array([pool.targets(index) for index in range(len(pool))], dtype=np.float32),
        shares={**{name: share / scale for name, share in shares.items()}, REST: rest},
        seed=seed,
        groups=duplicates.groups,
    )
    ruled_out = tuple(
        replace(exclusion, reason=f"{exclusion.reason} (whole pool)")
        for exclusion in pool.exclusions
    )
    subsets = {
        name: SubsetSource(pool, tuple(np.flatnonzero(part == number).tolist()), ruled_out)
        for number, name in enumerate(shares)
    }
    for name, subset in subsets.items():
        if not len(subset):
            raise DataError(
                f"the pool has too few patients: {name} gets none of {len(pool)} pictures; "
                "raise its share or name fewer sites."
            )
    return subsets
