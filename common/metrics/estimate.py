"""One measured number with its interval, its support and what chance would give."""

import math
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Estimate:
    """A metric's value that says what it rests on; never NaN, ``None`` where not defined.

    ``low`` and ``high`` bound the 95 % interval of a bootstrap over patients, ``None`` where no
    honest interval exists; ``note`` then says why.
    """

    value: float | None
    low: float | None
    high: float | None
    support: int  # pictures with a known answer
    positives: int | None  # of these, positive ones
    positive_patients: int | None
    chance: (
        float | None
    )  # what chance gives for the same labels or masks, where that means something
    note: str  # "" when there is nothing to add

    def as_dict(self) -> dict[str, float | int | str | None]:
        """Return the fields by name, ready for JSON."""
        return asdict(self)


def finite_or_none(value: float) -> float | None:
    """Return a plain float, ``None`` for NaN and infinities, which JSON cannot hold."""
    return float(value) if math.isfinite(value) else None


def joined(*notes: str) -> str:
    """Return the notes that say something, as one."""
    return "; ".join(note for note in notes if note)
