"""The healthy retina of one patient: camera field, optic disc, macula and the vessel tree."""

from dataclasses import dataclass

import numpy as np

from common.datasets.phantom.canvas import Canvas
from common.datasets.phantom.fields import Ellipse, Field, fractal, grid, noise, ramp, wobble

CENTRE = (0.5, 0.5)
RADIUS = 0.475  # of the camera's circular field, picture widths


@dataclass(frozen=True)
class Retina:
    """One patient's retina; fields are (S, S) float32 in [0, 1]."""

    x: Field
    y: Field
    side: int  # +1: optic disc on the right of the picture, -1: on the left
    disc: tuple[float, float]  # centre of the optic disc
    fovea: tuple[float, float]
    picture: np.ndarray  # (S, S, 3), healthy, in [0, 1]
    field: Field  # coverage of the camera's field


def retina(rng: np.random.Generator, size_px: int) -> Retina:
    """Build a patient's retina; everything is drawn from ``rng`` in a fixed order."""
    x, y = grid(size_px)
    side = int(rng.choice([-1, 1]))
    fovea = (0.5 - side * float(rng.uniform(0.0, 0.05)), 0.5 + float(rng.uniform(0.0, 0.03)))
    disc = (
        fovea[0] + side * float(rng.uniform(0.29, 0.33)),
        fovea[1] - float(rng.uniform(0.0, 0.04)),
    )

    from_centre = Ellipse(*CENTRE, RADIUS, RADIUS).rho(x, y)
    field = ramp(from_centre, 1.006, 0.99)
    base = np.array([0.80, 0.39, 0.15]) * rng.uniform([0.9, 0.82, 0.65], [1.08, 1.15, 1.3])
    clouds = fractal(rng, size_px, cells=5, octaves=3)
    choroid = fractal(rng, size_px, cells=22, octaves=2)
    light = 1.0 + 0.05 * clouds + 0.022 * choroid
    # Vignetting, and the flash that lights the posterior pole best.
    squared = from_centre * from_centre
    light *= 1.04 - 0.42 * squared * squared - 0.10 * squared
    picture = light[..., None] * base.astype(np.float32)
    # The choroid shines through in the periphery: redder where clouds are thick.
    picture[..., 1] *= 1.0 - 0.05 * noise(rng, size_px, (7, 7))

    macula = Ellipse(*fovea, 1.0, 1.0).rho(x, y)
    pigment = 0.75 * ramp(macula, 0.105, 0.0) + 0.5 * ramp(macula, 0.035, 0.0)
    for channel, share in enumerate((0.24, 0.34, 0.34)):
        picture[..., channel] *= 1.0 - np.float32(share) * pigment

    _add_disc(picture, rng, disc)
    veins, arteries = _vessel_tree(rng, size_px, side=side, disc=disc, fovea=fovea)
    for channel, (dark, red) in enumerate(((0.34, 0.14), (0.66, 0.50), (0.55, 0.45))):
        picture[..., channel] *= (1.0 - np.float32(dark) * veins) * (
            1.0 - np.float32(red) * arteries
        )
    picture = np.clip(picture, 0.0, 1.0) * field[..., None]
    return Retina(x=x, y=y, side=side, disc=disc, fovea=fovea, picture=picture, field=field)


def _add_disc(picture: np.ndarray, rng: np.random.Generator, disc: tuple[float, float]) -> None:
    radius = float(rng.uniform(0.058, 0.072))
    outline = wobble(rng, strength=0.04)
    size_px = picture.shape[0]
    # Only the disc's window, as wide as its halo: full pictures would cost three times as much.
    left, top = (max(0, int((middle - 0.18) * size_px)) for middle in disc)
    right, bottom = (int((middle + 0.18) * size_px) for middle in disc)
    window = (slice(top, bottom), slice(left, right))
    x, y = (axis[window] for axis in grid(size_px))
    rho = Ellipse(disc[0], disc[1], radius, radius * 1.1, 0.0, outline).rho(x, y)
    picture = picture[window]
    rim = ramp(rho, 1.12, 0.88)[..., None]
    halo = 0.16 * ramp(rho, 2.2, 0.9)[..., None]
    cup_size = float(rng.uniform(0.3, 0.55))
    cup = ramp(rho, cup_size + 0.2, cup_size - 0.15)[..., None]
    picture += halo * (np.array([1.0, 0.68, 0.36], np.float32) - picture)
    picture += 0.92 * rim * (np.array([0.97, 0.74, 0.36], np.float32) - picture)
    picture += 0.75 * cup * (np.array([1.0, 0.93, 0.70], np.float32) - picture)


def _vessel_tree(
    rng: np.random.Generator,
    size_px: int,
    *,
    side: int,
    disc: tuple[float, float],
    fovea: tuple[float, float],
) -> tuple[Field, Field]:
    """Return veins and arteries: four arcades from the disc, each branching twice."""
    boards = Canvas(size_px), Canvas(size_px)
    for board, width, shift in zip(boards, (0.0150, 0.0110), (0.0, 0.05), strict=True):
        trunks = _arcades(rng, side=side, disc=disc, shift=shift)
        levels = [(trunks, width)]
        parents = trunks
        for count, length, thinner in ((5, 0.0185, 0.52), (2, 0.0115, 0.30)):
            parents = _branches(rng, parents, count=count, step=length)
            levels.append((parents, width * thinner))
        # Thin vessels first: the canvas keeps the last stroke.
        for pieces, (paths, thickness) in zip((1, 2, 3), reversed(levels), strict=True):
            board.tapered(_around_fovea(paths, fovea), width=thickness, pieces=pieces)
    return boards[0].field(), boards[1].field()


def _arcades(
    rng: np.random.Generator, *, side: int, disc: tuple[float, float], shift: float
) -> np.ndarray:
    """Return the four main arcades as (4, N, 2): towards the macula and away, up and down."""
    steps = 26
    along = np.linspace(0.0, 1.0, steps)
    paths = []
    for up in (-1.0, 1.0):
        height = float(rng.uniform(0.27, 0.32)) - shift
        rise = np.power(along, 0.55) * (1.0 - 0.38 * along * along)
        reach = 0.04 * np.sin(along * 3.0) - 0.62 * np.power(along, 1.45)
        paths.append(np.stack((side * reach, up * height * rise), axis=1))
        out = float(rng.uniform(0.20, 0.27))
        rise = np.power(along, 0.8) * (float(rng.uniform(0.24, 0.34)) - shift)
        paths.append(np.stack((side * out * along, up * rise), axis=1))
    waves = np.cumsum(rng.normal(0.0, 0.0042, (4, steps, 2)), axis=1) * along[None, :, None] ** 0.5
    start = np.array(disc) + np.array([side * 0.008, 0.0])
    arcades: np.ndarray = start + np.stack(paths) + waves
    return arcades


def _branches(
    rng: np.random.Generator, parents: np.ndarray, *, count: int, step: float
) -> np.ndarray:
    """Return ``count`` branches per parent, (P·count, 14, 2), leaving at alternating sides."""
    steps = 14
    number = len(parents) * count
    owner = np.repeat(np.arange(len(parents)), count)
    last = parents.shape[1] - 2
    slots = np.tile(np.linspace(0.18, 0.9, count), len(parents))
    place = np.clip((slots + rng.normal(0.0, 0.05, number)) * last, 1, last).astype(int)
    start = parents[owner, place]
    tangent = parents[owner, place + 1] - parents[owner, place - 1]
    turn = np.where(np.arange(number) % 2 == 0, 1.0, -1.0)
    heading = np.arctan2(tangent[:, 1], tangent[:, 0]) + turn * rng.uniform(0.55, 1.1, number)
    bends = rng.normal(0.0, 0.09, (number, steps)) - 0.035 * turn[:, None]
    angles = heading[:, None] + np.cumsum(bends, axis=1)
    length = step * rng.uniform(0.6, 1.3, number)
    moves = length[:, None, None] * np.stack((np.cos(angles), np.sin(angles)), axis=-1)
    return np.concatenate((start[:, None], start[:, None] + np.cumsum(moves, axis=1)), axis=1)


def _around_fovea(paths: np.ndarray, fovea: tuple[float, float]) -> np.ndarray:
    """Stop vessels, (B, N, 2), at the rim of the avascular zone."""
    near = np.hypot(paths[..., 0] - fovea[0], paths[..., 1] - fovea[1]) < 0.06
    inside = np.maximum.accumulate(near, axis=1)
    last = np.where(
        inside.any(axis=1), np.maximum(np.argmax(inside, axis=1) - 1, 0), paths.shape[1]
    )
    # Points beyond the last one allowed collapse onto it.
    kept = np.minimum(np.arange(paths.shape[1]), last[:, None])
    stopped: np.ndarray = np.take_along_axis(paths, kept[..., None], axis=1)
    return stopped
