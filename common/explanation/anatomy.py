"""Regions that clinicians name, as cells of a map: chest zones, quadrants of an eye, a tile.

Rows and columns are cell centres as shares of the picture's square, 0 top and left.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

# Distance from disc to macula in disc diameters, mean of 2836 eyes: Jonas et al. 2015,
# doi:10.1371/journal.pone.0138701.
MACULA_DISC_DIAMETERS = 2.65
MACULA_RADIUS_DISC_DIAMETERS = 1.5  # of the 5.5-mm macula lutea, a disc being 1.8 mm wide
# A disc this close to the middle (as a share of the picture's width) does not tell right from left.
CENTRAL_DISC = 0.12


@dataclass(frozen=True)
class Extent:
    """The part of the square that the picture fills, as shares of the square's side."""

    top: float
    left: float
    height: float
    width: float


PADDING = "padding outside the picture"
WHOLE = Extent(top=0.0, left=0.0, height=1.0, width=1.0)


@dataclass(frozen=True)
class Eye:
    """The optic disc of a fundus picture, in shares of the square's side."""

    disc_row: float
    disc_column: float
    disc_diameter: float
    source: str  # how it is known, as the page words it


@dataclass(frozen=True)
class Regions:
    """For every cell of an (h, w) map the region it belongs to."""

    names: tuple[str, ...]
    of_cell: NDArray[np.int64]  # (h, w) index of a name
    depth_names: tuple[str, ...]
    depth_of_cell: NDArray[np.int64]  # (h, w), zeros without names
    wider: dict[str, tuple[str, ...]]  # unions worth a name, the narrowest first
    frame: str


def with_padding(
    regions: Regions, rows: NDArray[np.float64], columns: NDArray[np.float64], extent: Extent
) -> Regions:
    """Return regions in which cells off the picture are a region of their own.

    Evidence there is no anatomy: a reader must see that the model looks at what is not the picture.
    """
    down, across = (
        _within(rows, extent.top, extent.height),
        _within(columns, extent.left, extent.width),
    )
    is_in = ((down >= 0) & (down < 1))[:, None] & ((across >= 0) & (across < 1))[None, :]
    if is_in.all():
        return regions
    return replace(
        regions,
        names=(*regions.names, PADDING),
        of_cell=np.where(is_in, regions.of_cell, len(regions.names)),
        depth_of_cell=np.where(is_in, regions.depth_of_cell, len(regions.depth_names)),
    )


def chest(rows: NDArray[np.float64], columns: NDArray[np.float64], extent: Extent) -> Regions:
    """Return six zones: the patient's side, and thirds of the picture's height.

    Frontal chest pictures are shown as if the patient faced the reader: the patient's right is on
    the picture's left.
    """
    across, down = (
        _within(columns, extent.left, extent.width),
        _within(rows, extent.top, extent.height),
    )
    sides, zones = ("right", "left"), ("upper", "mid", "lower")
    names = tuple(f"{side} {zone} zone" for side in sides for zone in zones)
    side = (across >= 0.5).astype(np.int64)
    zone = np.clip((down * 3).astype(np.int64), 0, 2)
    # The half of each side that is nearer to the midline holds hilum and heart.
    peripheral = (np.abs(across - 0.5) >= 0.25).astype(np.int64)
    both = {f"{zone} zones of both sides": _ending(names, f"{zone} zone") for zone in zones}
    return Regions(
        names=names,
        of_cell=side[None, :] * 3 + zone[:, None],
        depth_names=("central", "peripheral"),
        depth_of_cell=np.broadcast_to(peripheral, (len(rows), len(columns))),
        wider={f"{side} side": _starting(names, side) for side in sides} | both,
        frame="the patient's sides (the picture is taken to be frontal, the patient's right on its "
        "left) and thirds of the picture's height, not against outlines of lungs and heart",
    )


def fundus(
    rows: NDArray[np.float64], columns: NDArray[np.float64], extent: Extent, eye: Eye | None
) -> Regions:
    """Return the quadrants around the macula where the disc tells it, else those of the picture."""
    if eye is None:
        return _picture_quarters(rows, columns, extent, "the optic disc was not found")
    middle = extent.left + extent.width / 2
    if abs(eye.disc_column - middle) < CENTRAL_DISC * extent.width:
        why = f"the optic disc ({eye.source}) is in the middle and does not tell which eye it is"
        return _picture_quarters(rows, columns, extent, why)
    # The disc is nasal of the macula; seen from the front, the nose is on a right eye's right.
    is_right_eye = eye.disc_column > middle
    toward_macula = -1.0 if is_right_eye else 1.0
    macula = eye.disc_column + toward_macula * MACULA_DISC_DIAMETERS * eye.disc_diameter
    temporal = (columns - macula) * toward_macula >= 0
    inferior = rows >= eye.disc_row
    names = ("superior nasal", "superior temporal", "inferior nasal", "inferior temporal")
    distance = np.hypot(rows[:, None] - eye.disc_row, columns[None, :] - macula)
    outside = distance > MACULA_RADIUS_DISC_DIAMETERS * eye.disc_diameter
    return Regions(
        names=tuple(f"{name} quadrant" for name in names),
        of_cell=inferior[:, None].astype(np.int64) * 2 + temporal[None, :].astype(np.int64),
        depth_names=("within the macula", "outside the macula"),
        depth_of_cell=outside.astype(np.int64),
        wider=_halves(
            {"superior": (0, 1), "inferior": (2, 3), "nasal": (0, 2), "temporal": (1, 3)},
            tuple(f"{name} quadrant" for name in names),
        ),
        frame=f"quadrants around the macula of a {'right' if is_right_eye else 'left'} eye; the "
        f"optic disc ({eye.source}) tells the eye, and the macula is taken to be 2.65 disc "
        "diameters from it at its height",
    )


def tile(rows: NDArray[np.float64], columns: NDArray[np.float64], extent: Extent) -> Regions:
    """Return nine parts of a tile, which has no anatomy of its own to be measured against."""
    names = (
        "upper left part", "upper part", "upper right part",
        "left part", "centre", "right part",
        "lower left part", "lower part", "lower right part",
    )  # fmt: skip
    down = np.clip((_within(rows, extent.top, extent.height) * 3).astype(np.int64), 0, 2)
    across = np.clip((_within(columns, extent.left, extent.width) * 3).astype(np.int64), 0, 2)
    thirds = {"upper": (0, 1, 2), "lower": (6, 7, 8), "left": (0, 3, 6), "right": (2, 5, 8)}
    return Regions(
        names=names,
        of_cell=down[:, None] * 3 + across[None, :],
        depth_names=(),
        depth_of_cell=np.zeros((len(rows), len(columns)), dtype=np.int64),
        wider={
            f"{name} third": tuple(names[place] for place in places)
            for name, places in thirds.items()
        },
        frame="thirds of the tile's height and width, as it was given",
    )


def _picture_quarters(
    rows: NDArray[np.float64], columns: NDArray[np.float64], extent: Extent, why: str
) -> Regions:
    lower = _within(rows, extent.top, extent.height) >= 0.5
    right = _within(columns, extent.left, extent.width) >= 0.5
    names = tuple(f"{place} quarter" for place in ("upper left", "upper right")) + tuple(
        f"{place} quarter" for place in ("lower left", "lower right")
    )
    return Regions(
        names=names,
        of_cell=lower[:, None].astype(np.int64) * 2 + right[None, :].astype(np.int64),
        depth_names=(),
        depth_of_cell=np.zeros((len(rows), len(columns)), dtype=np.int64),
        wider=_halves({"upper": (0, 1), "lower": (2, 3), "left": (0, 2), "right": (1, 3)}, names),
        frame=f"quarters of the picture, left and right as shown: {why}",
    )


def _halves(
    parts: dict[str, tuple[int, int]], names: tuple[str, ...]
) -> dict[str, tuple[str, ...]]:
    return {f"{half} half": tuple(names[i] for i in places) for half, places in parts.items()}


def _within(centres: NDArray[np.float64], start: float, extent: float) -> NDArray[np.float64]:
    """Return positions as shares of the picture itself; padding lies outside [0, 1]."""
    return (centres - start) / extent


def _starting(names: tuple[str, ...], word: str) -> tuple[str, ...]:
    return tuple(name for name in names if name.startswith(f"{word} "))


def _ending(names: tuple[str, ...], words: str) -> tuple[str, ...]:
    return tuple(name for name in names if name.endswith(f" {words}"))
