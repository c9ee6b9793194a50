"""From the model's own map to words: in which part of the anatomy the positive evidence lies.

Everything is a share of the map's positive part. A region is named only where it holds a clear
majority; else the evidence is said to be spread, and where the map has no positive part nothing is
said at all. Cells count for the region that their centre lies in.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from common.explanation.anatomy import (
    PADDING,
    Extent,
    Eye,
    Regions,
    chest,
    fundus,
    tile,
    with_padding,
)
from common.explanation.schema import Where
from common.explanation.written import written

CLEAR_MAJORITY = 0.6  # share of the evidence from which one region is named
NAMED_SHARE = 0.2  # a spread names the regions that hold this much, at least the largest two


def regions_of(
    task: str, *, rows: int, columns: int, extent: Extent, eye: Eye | None = None
) -> Regions:
    """Return the regions of a task's pictures on the grid of a map.

    Args:
        task: ``chestx``, ``retina`` or ``pathoscan``; any other has the regions of a tile.
        rows: Of the map.
        columns: Of the map.
        extent: The part of the square that the picture fills, the rest being padding.
        eye: Disc and macula of a fundus picture, where they are known.
    """
    down, across = (np.arange(rows) + 0.5) / rows, (np.arange(columns) + 0.5) / columns
    if task == "chestx":
        inside = chest(down, across, extent)
    elif task == "retina":
        inside = fundus(down, across, extent, eye)
    else:
        inside = tile(down, across, extent)
    return with_padding(inside, down, across, extent)


def where(values: NDArray[np.float64], regions: Regions) -> Where | None:
    """Say where the positive part of a map lies.

    Args:
        values: (h, w) map on the picture's square; the signs tell for and against.
        regions: On the same grid.

    Returns:
        None where no value is positive.

    Raises:
        ValueError: A map on another grid than the regions.
    """
    if values.shape != regions.of_cell.shape:
        raise ValueError(f"a map {values.shape} needs regions {regions.of_cell.shape} of its grid.")
    weights = np.maximum(values, 0.0)
    total = float(weights.sum())
    if not total > 0:
        return None
    shares = _shares(weights / total, regions.of_cell, regions.names)
    depth = _shares(weights / total, regions.depth_of_cell, regions.depth_names)
    row, column = divmod(int(weights.argmax()), weights.shape[1])
    return Where(
        words=words_of(shares, depth=depth, wider=regions.wider),
        regions=shares,
        depth=depth,
        frame=regions.frame,
        peak_row=written((row + 0.5) / weights.shape[0]),
        peak_column=written((column + 0.5) / weights.shape[1]),
    )


def words_of(
    regions: Mapping[str, float],
    *,
    depth: Mapping[str, float],
    wider: Mapping[str, tuple[str, ...]],
) -> str:
    """Return words for shares: one region, else a wider one, else what it is spread over.

    Args:
        regions: Name → share, descending, summing to 1 but for rounding.
        depth: Share on either side of a landmark; named too where it holds a clear majority.
        wider: Name of a wider region → the regions it consists of; the first that fits is named.
    """
    ranked = sorted(regions, key=lambda name: -regions[name])
    largest = ranked[0]
    if regions[largest] >= CLEAR_MAJORITY:
        return largest if largest == PADDING else _with_depth(largest, depth)
    for name, parts in wider.items():
        if sum(regions.get(part, 0.0) for part in parts) >= CLEAR_MAJORITY:
            return _with_depth(name, depth)
    named = [name for name in ranked if regions[name] >= NAMED_SHARE]
    named = named if len(named) > 1 else ranked[:2]
    return f"spread over {', '.join(named[:-1])} and {named[-1]}"


def _with_depth(name: str, depth: Mapping[str, float]) -> str:
    clear = [part for part, share in depth.items() if share >= CLEAR_MAJORITY]
    return f"{name}, mostly {clear[0]}" if clear else name


def _shares(
    weights: NDArray[np.float64], of_cell: NDArray[np.int64], names: tuple[str, ...]
) -> dict[str, float]:
    """Return name → share, descending, without the regions that hold nothing.

    Cells with an index beyond the names count for none of them.
    """
    if not names:
        return {}
    sums = np.bincount(of_cell.ravel(), weights=weights.ravel(), minlength=len(names))
    sums = sums[: len(names)]
    # Rounding of a sum may exceed 1 in the last place.
    shares = {
        name: written(min(1.0, share))
        for name, share in zip(names, sums.tolist(), strict=True)
        if share > 0
    }
    return dict(sorted(shares.items(), key=lambda item: -item[1]))
