"""Colon-like tissue as densities of haematoxylin and eosin: stroma, crypts, tumour."""

from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import maximum_filter

from common.datasets.phantom.canvas import Canvas
from common.datasets.phantom.fields import Ellipse, Field, fractal, grid, noise, ramp, wobble

# Optical density per unit of stain in red, green, blue. Cf. Ruifrok & Johnston 2001,
# "Quantification of histochemical staining by color deconvolution", table 1.
HAEMATOXYLIN = (0.65, 0.70, 0.29)
EOSIN = (0.07, 0.99, 0.11)


@dataclass(frozen=True)
class Stained:
    """How much of each stain the light meets, (S, S) float32, at least 0."""

    haematoxylin: Field
    eosin: Field

    def blend(self, other: "Stained", share: Field) -> "Stained":
        """Return this tissue with ``share`` of it, (S, S) in [0, 2], moved towards ``other``."""
        mixed = (
            np.maximum(here + share * (there - here), 0.0)
            for here, there in (
                (self.haematoxylin, other.haematoxylin),
                (self.eosin, other.eosin),
            )
        )
        return Stained(*mixed)

    def light(self, *, stain: tuple[float, float]) -> np.ndarray:
        """Return the transmitted light, (S, S, 3) in [0, 1], by Beer and Lambert's law."""
        absorbed = np.float32(stain[0]) * self.haematoxylin[..., None] * np.array(
            HAEMATOXYLIN, np.float32
        ) + np.float32(stain[1]) * self.eosin[..., None] * np.array(EOSIN, np.float32)
        return np.float32(0.97) * np.exp(-absorbed)


def benign_tissue(rng: np.random.Generator, size_px: int) -> Stained:
    """Return orderly crypts in loose stroma."""
    stroma = _stroma(rng, size_px)
    crypts = _lattice(rng)
    rho, angle, owner = _nearest(crypts, size_px)
    inside = ramp(rho, 1.02, 0.96)
    lumen_size = rng.uniform(0.12, 0.30, len(crypts)).astype(np.float32)[owner]
    lumen = ramp(rho / lumen_size, 1.15, 0.8)
    # Goblet cells: pale mucin between thin walls that run from the base to the lumen.
    cells = rng.integers(15, 22, len(crypts)).astype(np.float32)[owner]
    turn = angle * cells * np.float32(0.5) + 0.6 * noise(rng, size_px, (14, 14))
    walls = ramp(np.abs(np.sin(turn)), 0.5, 0.0) * ramp(rho, 0.2, 0.45)
    nuclei = np.maximum(_crypt_nuclei(rng, size_px, crypts), _lymph_follicle(rng, size_px))
    rim = ramp(rho, 0.66, 0.86) * ramp(rho, 1.02, 0.96)
    haematoxylin = 0.16 + 0.20 * walls + 0.30 * rim
    eosin = 0.17 + 0.20 * walls + 0.26 * rim
    haematoxylin = haematoxylin * (1.0 - lumen) + 0.03 * lumen
    eosin = eosin * (1.0 - lumen) + 0.07 * lumen
    return Stained(
        haematoxylin=stroma.haematoxylin * (1.0 - inside) + haematoxylin * inside + 1.15 * nuclei,
        eosin=stroma.eosin * (1.0 - inside) + eosin * inside + 0.22 * nuclei,
    )


def _lymph_follicle(rng: np.random.Generator, size_px: int) -> Field:
    """A dense nest of lymphocytes: dark and crowded, yet benign; in every second patient."""
    radius = float(rng.uniform(0.10, 0.17))
    centre = rng.uniform(0.2, 0.8, 2)
    turn, away = rng.uniform(0.0, 2.0 * np.pi, 230), np.sqrt(rng.uniform(0.0, 1.0, 230))
    board = Canvas(size_px)
    if rng.random() < 0.5:
        size = rng.uniform(0.0075, 0.0095, 230)
        board.ellipses(
            centre
            + (radius * away)[:, None] * np.stack((np.cos(turn), 0.8 * np.sin(turn)), axis=1),
            rx=size,
            ry=0.95 * size,
            angle=turn,
            value=rng.uniform(0.7, 0.95, 230),
        )
    return board.field()


def malignant_tissue(rng: np.random.Generator, size_px: int, region: Field) -> Stained:
    """Return crowded, irregular glands with large, dark, unequal nuclei, drawn in ``region``."""
    spaces = fractal(rng, size_px, cells=7, octaves=2, fading=0.5)
    # Ragged lumina where the noise is high, cribriform holes at its peaks.
    lumen = ramp(spaces, 1.0, 1.3)
    septum = ramp(np.abs(noise(rng, size_px, (5, 5))), 0.16, 0.03) * (1.0 - lumen)
    board = Canvas(size_px)
    per_side = 34
    cells = np.arange(per_side, dtype=np.float64)
    places = np.stack(np.meshgrid(cells, cells), axis=-1).reshape(-1, 2)
    places[:, 0] += 0.5 * (places[:, 1] % 2)
    places = (places + 0.5 + rng.normal(0.0, 0.26, places.shape)) / per_side
    radii = 0.0155 * np.exp(rng.normal(0.0, 0.28, len(places)))
    lean = fractal(rng, 32, cells=3, octaves=2)  # cells of one gland lie alike
    shades = rng.uniform(0.55, 1.0, len(places))
    stretch = rng.uniform(0.5, 0.95, len(places))
    columns, rows = np.clip((places * 32).astype(int), 0, 31).T
    pixels = np.clip((places * size_px).astype(int), 0, size_px - 1).T
    near = maximum_filter(region, size=2 * (size_px // 20) + 1)[pixels[1], pixels[0]] > 0.0
    board.ellipses(
        places[near],
        rx=radii[near],
        ry=(radii * stretch)[near],
        angle=2.0 * lean[rows, columns][near],
        value=shades[near],
    )
    chromatin = 1.0 + 0.16 * noise(rng, size_px, (90, 90))
    nuclei = board.field() * chromatin * (1.0 - lumen) * (1.0 - 0.75 * septum)
    solid = 1.0 - lumen
    return Stained(
        haematoxylin=0.03 + solid * (0.42 - 0.28 * septum) + 1.35 * nuclei,
        eosin=0.05 + solid * (0.42 + 0.10 * septum) + 0.10 * nuclei,
    )


def tumour_region(rng: np.random.Generator, size_px: int) -> tuple[Field, np.ndarray]:
    """Return where the tumour grows: its soft share of each pixel, and its exact mask.

    The mask covers 15 to 40 % of the tile.
    """
    x, y = grid(size_px)
    place = rng.uniform(0.32, 0.68, 2)
    ratio = float(rng.uniform(0.7, 1.4))
    outline = wobble(rng, strength=0.16, harmonics=5)
    unit = Ellipse(float(place[0]), float(place[1]), ratio**0.5, ratio**-0.5, 0.6, outline)
    rho = unit.rho(x, y)
    # The outline that leaves exactly the drawn share of the tile inside.
    edge = float(np.quantile(rho, float(rng.uniform(0.17, 0.38))))
    return ramp(rho / edge, 1.03, 0.97), rho < edge


def _stroma(rng: np.random.Generator, size_px: int) -> Stained:
    x, y = grid(size_px)
    # Collagen: bands of equal height of a slow field, so that fibres run side by side.
    flow = 2.2 * noise(rng, size_px, (4, 4)) + 9.0 * (x * float(rng.normal()) + y)
    fibres = np.sin(2.6 * flow + 1.2 * noise(rng, size_px, (20, 20)))
    gaps = ramp(fibres + 0.7 * noise(rng, size_px, (10, 10)), 1.0, 1.7)
    board = Canvas(size_px)
    count = 210
    places = rng.uniform(0.0, 1.0, (count, 2))
    is_round = rng.random(count) < 0.55  # lymphocytes; the others are spindle-shaped fibroblasts
    lengths = np.where(is_round, rng.uniform(0.007, 0.010, count), rng.uniform(0.011, 0.017, count))
    flats = np.where(is_round, 0.9, 0.33)
    angles = rng.uniform(0.0, np.pi, count)
    value = np.full(count, 0.95)
    board.ellipses(places, rx=lengths, ry=lengths * flats, angle=angles, value=value)
    nuclei = board.field()
    return Stained(
        haematoxylin=0.07 + 0.02 * fibres * (1 - gaps) - 0.04 * gaps + 1.1 * nuclei,
        eosin=(0.34 + 0.07 * fibres) * (1.0 - 0.85 * gaps) + 0.12 * nuclei,
    )


def _lattice(rng: np.random.Generator) -> list[Ellipse]:
    """Return crypts on a shaken hexagonal lattice, all leaning alike."""
    gap = float(rng.uniform(0.30, 0.38))
    lean, start = float(rng.uniform(0.0, np.pi)), rng.uniform(0.0, gap, 2)
    tilt = float(rng.uniform(0.7, 1.0))
    crypts = []
    rows = int(np.ceil(1.0 / (gap * 0.87))) + 2
    for row in range(rows):
        for column in range(rows):
            shake = rng.normal(0.0, 0.022, 2)
            size = float(rng.uniform(0.36, 0.43)) * gap
            outline = wobble(rng, strength=0.06)
            x = (column - 1 + 0.5 * (row % 2)) * gap + start[0] + shake[0]
            y = (row - 1) * 0.87 * gap + start[1] + shake[1]
            if -size < x < 1.0 + size and -size < y < 1.0 + size:
                angle = lean + float(rng.normal(0.0, 0.15))
                crypts.append(Ellipse(float(x), float(y), size * 1.08, size * tilt, angle, outline))
    return crypts


def _nearest(crypts: list[Ellipse], size_px: int) -> tuple[Field, Field, np.ndarray]:
    """Return relative radius (2 outside all) and angle in the nearest crypt, and its number."""
    x, y = grid(size_px)
    rho = np.full_like(x, 2.0)
    angle = np.zeros_like(x)
    owner = np.zeros(x.shape, np.intp)
    for number, crypt in enumerate(crypts):
        # Only the crypt's own window: a dozen full pictures would cost most of the time.
        reach = 1.25 * max(crypt.rx, crypt.ry)
        window = tuple(
            slice(
                max(0, int((middle - reach) * size_px)),
                max(0, min(size_px, int((middle + reach) * size_px) + 1)),
            )
            for middle in (crypt.y, crypt.x)
        )
        here_x, here_y = x[window], y[window]
        here = crypt.rho(here_x, here_y)
        closer = here < rho[window]
        rho[window][closer] = here[closer]
        turn = np.arctan2(here_y - np.float32(crypt.y), here_x - np.float32(crypt.x))
        angle[window][closer] = turn[closer]
        owner[window][closer] = number
    return rho, angle, owner


def _crypt_nuclei(rng: np.random.Generator, size_px: int, crypts: list[Ellipse]) -> Field:
    """One row of small, dark nuclei along the base of each crypt, pointing at its lumen."""
    places, inward = [], []
    for crypt in crypts:
        ring = replace(crypt, rx=crypt.rx * 0.885, ry=crypt.ry * 0.885)
        base = ring.points(int(rng.integers(34, 42)))
        places.append(base)
        inward.append(np.arctan2(crypt.y - base[:, 1], crypt.x - base[:, 0]))
    centres = np.concatenate(places)
    lengths = rng.uniform(0.0115, 0.0155, len(centres))
    board = Canvas(size_px)
    board.ellipses(
        centres + rng.normal(0.0, 0.0025, centres.shape),
        rx=lengths,
        ry=0.5 * lengths,
        angle=np.concatenate(inward),
        value=rng.uniform(0.75, 1.0, len(centres)),
    )
    return board.field()
