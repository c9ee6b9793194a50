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
from common.explanation.written import written, written_all

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


def where_each(maps: NDArray[np.float64], regions: Regions) -> tuple[Where | None, ...]:
    """Say of each of several maps where its positive part lies.

    Args:
        maps: (T, h, w) on the picture's square; the signs tell for and against.
        regions: On the same grid.

    Returns:
        One for each map, None where no value is positive.

    Raises:
        ValueError: Maps on another grid than the regions.
    """
    if maps.ndim != 3 or maps.shape[1:] != regions.of_cell.shape:
        raise ValueError(f"maps {maps.shape} need regions {regions.of_cell.shape} of their grid.")
    weights = np.maximum(maps, 0.0).reshape(len(maps), -1)
    totals = weights.sum(axis=1)
    # All maps at once: numpy's calls by themselves would take longer than their sums.
    parts = weights / np.where(totals > 0, totals, 1.0)[:, None]
    shares = _shares(parts, regions.of_cell, regions.names)
    depths = _shares(parts, regions.depth_of_cell, regions.depth_names)
    rows, columns = maps.shape[1:]
    found: list[Where | None] = []
    for number, peak in enumerate(weights.argmax(axis=1).tolist()):
        if not totals[number] > 0:
            found.append(None)
            continue
        row, column = divmod(peak, columns)
        found.append(
            Where(
                words=words_of(shares[number], depth=depths[number], wider=regions.wider),
                regions=shares[number],
                depth=depths[number],
                frame=regions.frame,
                peak_row=written((row + 0.5) / rows),
                peak_column=written((column + 0.5) / columns),
            )
        )
    return tuple(found)


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
    parts: NDArray[np.float64], of_cell: NDArray[np.int64], names: tuple[str, ...]
) -> list[dict[str, float]]:
    """Return for each row of (T, cells) name → share, descending, without what holds nothing.

    Cells with an index beyond the names count for none of them.
    """
    if not names:
        return [{} for _ in parts]
    is_in = of_cell.ravel()[:, None] == np.arange(len(names))
    # Rounding of a sum may exceed 1 in the last place.
    sums = np.minimum(1.0, parts @ is_in.astype(np.float64))
    shares = np.array(written_all(sums)).reshape(sums.shape)
    order = np.argsort(-shares, axis=1, kind="stable")
    return [
        {names[place]: row[place] for place in ranks if row[place] > 0}
        for row, ranks in zip(shares.tolist(), order.tolist(), strict=True)
    ]
