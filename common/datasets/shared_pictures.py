"""Finds pictures that lie at two places of a federation, from what preparation kept of each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.config.run import DuplicateConfig
from common.datasets.duplicates import DETAIL_SIDE, Signature, find_duplicates
from common.datasets.record import Source
from common.datasets.source_traits import Tabled
from common.datasets.views import JoinedSource, SubsetSource
from common.errors import DataError

SIGNATURES = "signatures.npy"  # beside a shard's arrays, one entry per picture in their order
ENTRY = np.dtype(
    [
        ("record", "<i8"),  # number in the source that the shard was prepared from
        ("digest", "u1", (32,)),
        ("perceptual", "<u8"),
        ("detail", "i1", (DETAIL_SIDE**2,)),
    ]
)


@dataclass(frozen=True)
class Place:
    """A prepared shard and where its pictures came from."""

    folder: Path
    source: Source
    origin: str  # places of one origin were divided by picture already: the shares of a pool


@dataclass(frozen=True)
class SharedPicture:
    """Rows of two places that show the same picture."""

    places: tuple[str, str]
    rows: tuple[str, str]  # for the person at the machine; they name tables


def write_signatures(
    folder: Path, signatures: Sequence[Signature], *, records: Sequence[int]
) -> None:
    """Keep the signatures of a shard's pictures, with their numbers in the source."""
    entries = np.empty(len(signatures), dtype=ENTRY)
    for row, (found, record) in enumerate(zip(signatures, records, strict=True)):
        entries[row] = (
            record,
            np.frombuffer(found.digest, dtype=np.uint8),
            found.perceptual,
            found.detail,
        )
    np.save(folder / SIGNATURES, entries, allow_pickle=False)


def read_signatures(folder: Path) -> tuple[list[Signature], NDArray[np.int64]]:
    """Return the signatures of a shard's pictures and their numbers in the source.

    Raises:
        DataError: The file is missing or damaged.
    """
    path = folder / SIGNATURES
    try:
        entries = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"{path}: cannot be read ({type(error).__name__}); prepare the shard again."
        ) from error
    if entries.dtype != ENTRY:
        raise DataError(f"{path}: of another version; prepare the shard again.")
    signatures = [
        Signature(entry["digest"].tobytes(), entry["perceptual"], entry["detail"])
        for entry in entries
    ]
    return signatures, entries["record"]


def find_shared_pictures(
    places: Mapping[str, Place], *, config: DuplicateConfig
) -> tuple[SharedPicture, ...]:
    """Return pictures that are at places of different origin, by the rules of duplicates.

    Args:
        places: Prepared places of one task by name.
        config: When two pictures count as one.

    Raises:
        DataError: A place's signatures cannot be read.
    """
    if len({place.origin for place in places.values()}) < 2:
        return ()
    signatures: list[Signature] = []
    where: list[tuple[str, int]] = []  # place and record of each signature
    for name, place in places.items():
        found, records = read_signatures(place.folder)
        signatures += found
        where += [(name, record) for record in records.tolist()]
    groups = find_duplicates(
        signatures,
        patients=[""] * len(signatures),
        targets=np.empty((len(signatures), 0)),
        config=config,
    ).groups
    shared = []
    for group in groups:
        one, record = where[group[0]]
        for other, its_record in (where[row] for row in group[1:]):
            if places[one].origin != places[other].origin:
                rows = (
                    row_of(places[one].source, record),
                    row_of(places[other].source, its_record),
                )
                shared.append(SharedPicture(places=(one, other), rows=rows))
    return tuple(shared)


def row_of(source: Source, index: int) -> str:
    """Return where a record stands in its table, or its number where no table is known."""
    if isinstance(source, SubsetSource):
        return row_of(source.inner, source.indices[index])
    if isinstance(source, JoinedSource):
        for inner in source.inner:
            if index < len(inner):
                return row_of(inner, index)
            index -= len(inner)
    return source.records[index].row if isinstance(source, Tabled) else f"record {index + 1}"
