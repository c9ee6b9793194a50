"""Sources made of other sources: some records of one, or several joined."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from common.datasets.record import Case, Exclusion, Source
from common.datasets.source_traits import at_size, identity_of, official_split_of


@dataclass(frozen=True)
class SubsetSource:
    """Some records of another source."""

    inner: Source
    indices: tuple[int, ...]
    exclusions: Sequence[Exclusion]

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self.indices)

    def patient(self, index: int) -> str:
        """Return the patient of a record."""
        return self.inner.patient(self.indices[index])

    def targets(self, index: int) -> tuple[float, ...]:
        """Return the target vector of a record."""
        return self.inner.targets(self.indices[index])

    def load(self, index: int) -> Case:
        """Read the pixels of a record."""
        return self.inner.load(self.indices[index])

    def official_split(self, index: int) -> str | None:
        """Return the split that the inner source's tables name for a record."""
        return official_split_of(self.inner, self.indices[index])

    def identity(self) -> str | None:
        """Return the inner source's identity with the records chosen."""
        inner = identity_of(self.inner)
        return None if inner is None else repr((inner, self.indices))

    def drawn_at(self, size_px: int) -> Source:
        """Return the same records, drawn at another size if the inner source draws."""
        return replace(self, inner=at_size(self.inner, size_px))


@dataclass(frozen=True)
class JoinedSource:
    """Several sources one after the other; equal patient names mean the same patient."""

    inner: tuple[Source, ...]

    def __len__(self) -> int:
        """Return the number of records."""
        return sum(len(source) for source in self.inner)

    def patient(self, index: int) -> str:
        """Return the patient of a record."""
        source, place = self._at(index)
        return source.patient(place)

    def targets(self, index: int) -> tuple[float, ...]:
        """Return the target vector of a record."""
        source, place = self._at(index)
        return source.targets(place)

    def load(self, index: int) -> Case:
        """Read the pixels of a record."""
        source, place = self._at(index)
        return source.load(place)

    @property
    def exclusions(self) -> Sequence[Exclusion]:
        """Rows that the tables of any of the sources rule out."""
        return [exclusion for source in self.inner for exclusion in source.exclusions]

    def official_split(self, index: int) -> str | None:
        """Return the split that the record's own source names."""
        source, place = self._at(index)
        return official_split_of(source, place)

    def identity(self) -> str | None:
        """Return the sources' identities, None where one of them has none."""
        parts = [identity_of(source) for source in self.inner]
        return None if None in parts else repr(parts)

    def drawn_at(self, size_px: int) -> Source:
        """Return the same records, those that are drawn at another size."""
        return JoinedSource(tuple(at_size(source, size_px) for source in self.inner))

    def _at(self, index: int) -> tuple[Source, int]:
        for source in self.inner:
            if index < len(source):
                return source, index
            index -= len(source)
        raise IndexError(index)
