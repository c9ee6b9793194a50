"""What a source may tell beyond the contract: its files, its official split, its scale."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from common.datasets.record import Record, Source


@runtime_checkable
class Tabled(Protocol):
    """A source whose records lie in files."""

    @property
    def records(self) -> Sequence[Record]:
        """Return the records, in index order."""
        ...


@runtime_checkable
class Identified(Protocol):
    """A source that knows whether it would deliver the same cases again."""

    def identity(self) -> str | None:
        """Return a text that changes whenever a case would, or None where it cannot be told."""
        ...


@runtime_checkable
class OfficiallySplit(Protocol):
    """A source whose own tables divide it into splits."""

    def official_split(self, index: int) -> str | None:
        """Return the split that the tables name for a record, None where they name none."""
        ...


@runtime_checkable
class Drawn(Protocol):
    """A source that draws its pictures and can do so at any size."""

    def drawn_at(self, size_px: int) -> Source:
        """Return the same cases drawn at another size."""
        ...


def identity_of(source: Source) -> str | None:
    """Return a digest of all that a source would deliver, or None where it cannot be told.

    Files count by path, size, time of change and inode; their pixels are not read.
    """
    if isinstance(source, Identified):
        return source.identity()
    if not isinstance(source, Tabled):
        return None
    digest = hashlib.sha256()
    for record in source.records:
        files = [record.image, *(r.mask for r in record.regions if r.mask is not None)]
        digest.update(repr((record, [_state(path) for path in files])).encode())
    digest.update(repr(list(source.exclusions)).encode())
    return digest.hexdigest()


def official_split_of(source: Source, index: int) -> str | None:
    """Return the split that a source's own tables name for a record, None where none."""
    return source.official_split(index) if isinstance(source, OfficiallySplit) else None


def at_size(source: Source, size_px: int) -> Source:
    """Return the source at a size if it draws its pictures, otherwise as it is."""
    return source.drawn_at(size_px) if isinstance(source, Drawn) else source


def _state(path: Path) -> tuple[int, int, int] | None:
    if not path.is_file():
        return None
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino
