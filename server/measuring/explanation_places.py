"""Places of a picture where no disease shows, as shares of a map's cells: what a shortcut uses.

Only what is known exactly: the anatomy and the marker of a generated picture, the lungs where a
data set outlines them. A marker in a real picture is not searched for: what a simple detector
finds in a corner may be a pacemaker, and what it misses would count as clean.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.datasets.shard import Shard
from common.metrics.bootstrap import Float64Array
from common.metrics.shortcut import border_cells, outside_cells, touched_cells

ANATOMY_KINDS = ("anatomy_mask", "organ_mask_lung")
MARKER_KINDS = ("marker_mask",)

OUTSIDE, BORDER, MARKER = "outside_anatomy", "at_border", "on_marker"
PLACES = (OUTSIDE, BORDER, MARKER)
IN_WORDS: Mapping[str, str] = {
    OUTSIDE: "outside the anatomy",
    BORDER: "at the picture's border",
    MARKER: "on burnt-in markers",
}

# Findings that do not lie in the lungs: evidence for them beside the lungs is where it belongs.
BESIDE_THE_LUNGS = frozenset({"Cardiomegaly", "Hernia"})


@dataclass(frozen=True, eq=False)
class Places:
    """Of N pictures, by name: share of each cell that belongs to the place, (N, h, w).

    NaN throughout a picture where it is not known.
    """

    shares: Mapping[str, Float64Array]

    def of_class(self, name: str) -> dict[str, Float64Array]:
        """Return the places where evidence for a class has no business."""
        kept = dict(self.shares)
        if name in BESIDE_THE_LUNGS:
            kept[OUTSIDE] = np.full_like(kept[OUTSIDE], np.nan)
        return kept

    def rows(self, which: slice) -> "Places":
        """Return the places of some of the pictures."""
        return Places({name: share[which] for name, share in self.shares.items()})


def places_of(
    shard: Shard, indices: NDArray[np.int64], grid: tuple[int, int], *, border_width: float
) -> Places:
    """Return the places of these pictures of a shard.

    Args:
        shard: Whose regions tell what is known.
        indices: Rows of it, (N,).
        grid: (h, w) of the maps.
        border_width: Share of the side.
    """
    outside = np.full((len(indices), *grid), np.nan)
    marker = np.full((len(indices), *grid), np.nan)
    for row, index in enumerate(indices.tolist()):
        anatomy = _union(shard, index, ANATOMY_KINDS)
        if anatomy is not None:
            outside[row] = outside_cells(anatomy, *grid)
        burnt_in = _union(shard, index, MARKER_KINDS)
        if burnt_in is not None:
            marker[row] = touched_cells(burnt_in, *grid)
    border = np.broadcast_to(border_cells(*grid, width=border_width), outside.shape)
    return Places({OUTSIDE: outside, BORDER: border, MARKER: marker})


def _union(shard: Shard, index: int, kinds: Sequence[str]) -> NDArray[np.bool_] | None:
    rows = [row for row in shard.regions_of(index) if shard.region_kind[row] in kinds]
    if not rows:
        return None
    union: NDArray[np.bool_] = np.any(np.asarray(shard.region_masks[rows]) > 0, axis=0)
    return union
