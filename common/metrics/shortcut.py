"""How much of what speaks for a class lies where no disease can be: off the anatomy, at the rim.

A model that reads the hospital's marker instead of the lung may be right on every picture it was
tested on. Its map gives it away, where the map is honest; see common.metrics.agreement for that.
"""

import numpy as np
from numpy.typing import NDArray

from common.errors import ConfigError, DataError
from common.metrics.bootstrap import (
    Float64Array,
    IntArray,
    bootstrap,
    interval_or_reason,
    once_each,
    patients_lacking,
    ratio,
)
from common.metrics.estimate import Estimate, finite_or_none, joined
from common.metrics.geometry import BoolArray, cell_coverage


def border_cells(rows: int, columns: int, *, width: float) -> Float64Array:
    """Return which share of each cell lies near the picture's edge, (rows, columns).

    Args:
        rows: Of the map.
        columns: Of the map.
        width: Of the border on each side, as a share of the side, in (0, 0.5).

    Raises:
        ConfigError: The border leaves nothing of the picture, or is none.
    """
    if not 0 < width < 0.5:
        raise ConfigError(f"the border's width must lie between 0 and 0.5, got {width}.")
    return 1 - np.outer(_inside(rows, width), _inside(columns, width))


def outside_cells(anatomy: BoolArray, rows: int, columns: int) -> Float64Array:
    """Return which share of each cell the anatomy (H, W) leaves free, (rows, columns)."""
    return 1 - cell_coverage(anatomy, rows, columns)


def touched_cells(marker: BoolArray, rows: int, columns: int) -> Float64Array:
    """Return 1 for each cell that the marker (H, W) touches, else 0, (rows, columns).

    Whole cells: a marker is smaller than a cell, and the cell's evidence cannot be divided.
    """
    return (cell_coverage(marker, rows, columns) > 0).astype(np.float64)


def evidence_share(
    maps: NDArray[np.floating],
    place: Float64Array,
    patients: IntArray,
    *,
    replicates: int,
    min_patients: int,
    rng: np.random.Generator,
) -> Estimate:
    """Return the share of all positive evidence for a class that lies in a place.

    Evidence of all pictures is added up before it is divided: a picture in which much speaks for
    the class counts more than one in which next to nothing does. A single picture can still not
    decide: the interval is of a bootstrap over patients.

    Args:
        maps: Signed maps, (N, h, w).
        place: Share of each cell that belongs to the place, (N, h, w), in [0, 1]; NaN throughout
            a picture where the place is not known.
        patients: Patient code of each picture, (N,).
        replicates: Of the bootstrap over patients; 0 for no interval.
        min_patients: Fewest patients for an interval.
        rng: Source of the bootstrap's draws.

    Returns the share in [0, 1]; ``support`` counts the pictures with evidence where the place is
    known, ``chance`` is the place's share of their area.

    Raises:
        DataError: Shapes do not agree.
    """
    if maps.shape != place.shape or maps.ndim != 3 or len(maps) != len(patients):
        raise DataError(
            f"maps and places (N, h, w) of the same N pictures are needed, got {maps.shape} and "
            f"{place.shape} for {len(patients)} patients."
        )
    is_known: BoolArray = np.all(np.isfinite(place), axis=(1, 2))
    is_finite: BoolArray = np.all(np.isfinite(maps), axis=(1, 2))
    evidence = np.where(is_finite[:, None, None], np.clip(maps, 0, None), 0).astype(np.float64)
    speaks = evidence.sum(axis=(1, 2)) > 0
    used = is_known & is_finite & speaks
    total = evidence[used].sum(axis=(1, 2))
    inside = (evidence[used] * place[used]).sum(axis=(1, 2))

    def share(weights: Float64Array) -> Float64Array:  # (R, N) -> (R,)
        return ratio(weights @ inside, weights @ total)

    who = patients[used]
    lack = patients_lacking("patients", present=len(np.unique(who)), needed=min_patients)
    drawn = np.empty(0)
    if replicates and not lack:
        drawn = bootstrap(share, who, replicates=replicates, rng=rng)
    low, high, why_not = interval_or_reason(drawn, lack)
    return Estimate(
        value=finite_or_none(share(once_each(len(who)))[0]) if len(who) else None,
        low=low,
        high=high,
        support=len(who),
        positives=None,
        positive_patients=None,
        chance=float(place[used].mean()) if len(who) else None,
        note=joined(
            _counted(~is_known, "the place is not known"),
            _counted(is_known & ~is_finite, "the map is not finite"),
            _counted(is_known & is_finite & ~speaks, "nothing speaks for the class"),
            why_not,
        ),
    )


def _inside(cells: int, width: float) -> Float64Array:
    """Return the share of each cell along one axis that the border leaves."""
    edges = np.linspace(0, 1, cells + 1)
    inner = np.minimum(edges[1:], 1 - width) - np.maximum(edges[:-1], width)
    share: Float64Array = np.maximum(inner, 0) * cells
    return share


def _counted(which: BoolArray, what: str) -> str:
    number = int(which.sum())
    return f"{what} in {number} of {len(which)} pictures" if number else ""
