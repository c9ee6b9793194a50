"""The healthy chest of one patient: what X-rays meet on their way, and where air lets them pass."""

from dataclasses import dataclass, replace

import numpy as np
from scipy.interpolate import PchipInterpolator

from common.datasets.phantom.canvas import Canvas
from common.datasets.phantom.fields import Ellipse, Field, fractal, grid, noise, ramp, wobble

PATIENT_RIGHT, PATIENT_LEFT = -1, 1  # which side of the midline, seen from the front


@dataclass(frozen=True)
class Lung:
    """One pleural cavity, in body coordinates (X from the midline, Y down, picture units)."""

    side: int
    width: float  # how far the lateral wall lies from the midline
    apex: float  # Y of the apex
    dome: float  # Y of the diaphragm's highest point

    def across(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return -1 at the medial border, 0 in the middle, 1 at the chest wall."""
        medial, lateral = self._borders(y)
        place: np.ndarray = (2.0 * self.side * x - lateral - medial) / (lateral - medial)
        return place

    def x_at(self, across: float, y: float) -> float:
        """Return the X of a point given by its place between the borders."""
        medial, lateral = (float(border) for border in self._borders(np.asarray(y)))
        return self.side * 0.5 * (medial + lateral + across * (lateral - medial))

    def rho(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return 0 along the axis of the cavity and 1 on its medial, lateral and upper wall."""
        across, up = self.across(x, y), self.above_shoulder(y)
        radius: np.ndarray = np.sqrt(across * across + up * up)
        return radius

    def above_shoulder(self, y: np.ndarray) -> np.ndarray:
        """Return 0 where the side walls are straight, rising to 1 at the apex."""
        return np.minimum(y - np.float32(0.36), 0.0) / np.float32(self.apex - 0.36)

    def floor(self, x: np.ndarray) -> np.ndarray:
        """Return the Y of the diaphragm, lowest in the costophrenic angle."""
        off = (self.side * x - np.float32(0.16)) / np.float32(self.width - 0.16)
        return np.float32(self.dome) + np.float32(0.075) * off * off

    def _borders(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        medial = 0.05 + 0.0 * y
        lateral = np.float32(self.width) * (0.70 + 0.30 * ramp(y, self.apex - 0.06, 0.58))
        return medial, lateral


@dataclass(frozen=True)
class Chest:
    """Fields of one patient's chest, (S, S) float32 unless said otherwise."""

    x: Field  # body coordinates of the pixels
    y: Field
    tissue: Field  # density of everything but air, heart and fluid
    lungs: tuple[Lung, Lung]  # image left first
    cavity: tuple[Field, Field]  # soft coverage of each pleural cavity
    depth: tuple[Field, Field]  # thickness of air in each, 0 to 1
    vessels: Field  # density of lung vessels
    heart: Ellipse  # body coordinates
    tilt: float  # radians
    shift: tuple[float, float]

    def heart_cover(self, heart: Ellipse) -> Field:
        """Return the soft silhouette of a heart and its great vessels, above the diaphragm."""
        muscle = 1.0 - heart.rho(self.x, self.y)
        # The vessels widen downwards into the heart; a smooth union leaves no notch between them.
        down = ramp(self.y, 0.24, heart.y)
        trunk = (0.045 + 0.055 * down - np.abs(self.x - 0.025 * down)) / np.float32(0.13)
        trunk = np.minimum(trunk, (np.float32(heart.y) - self.y) / np.float32(0.10))
        gap = np.maximum(0.22 - np.abs(muscle - trunk), 0.0)
        joined = np.maximum(muscle, trunk) + gap * gap * np.float32(1.1)
        floor = self.lungs[0].dome
        return ramp(joined, -0.05, 0.06) * ramp(self.y, floor + 0.14, floor + 0.06)

    def density(
        self, *, heart: Field, fluid: Field | None = None, free_air: Field | None = None
    ) -> Field:
        """Return what the X-rays were weakened by, 0 (air) to about 1.2.

        Args:
            heart: Silhouette of the heart, [0, 1].
            fluid: Share of the lung's air replaced by fluid or tissue, [0, 1].
            free_air: Share of lung tissue replaced by air outside the lung, [0, 1].
        """
        depth = self.depth[0] + self.depth[1]
        air = depth * (1.0 - 0.93 * heart)
        if fluid is not None:
            air = air * (1.0 - fluid)
        vessels = self.vessels * air
        if free_air is not None:
            vessels = vessels * (1.0 - free_air)
            air = air * (1.0 + 0.16 * free_air)
        return self.tissue + 0.11 * heart - 0.56 * air + vessels


def chest(rng: np.random.Generator, size_px: int) -> Chest:
    """Build a patient's chest; everything is drawn from ``rng`` in a fixed order."""
    tilt = float(np.clip(rng.normal(0.0, 0.03), -0.07, 0.07))
    across, down = np.clip(rng.normal(0.0, 0.022, 2), -0.045, 0.045)
    shift = (float(across), float(down))
    zoom = float(rng.uniform(0.88, 1.06))
    px, py = grid(size_px)
    cosine, sine = np.float32(np.cos(tilt) / zoom), np.float32(np.sin(tilt) / zoom)
    from_x, from_y = px - np.float32(0.5 + shift[0]), py - np.float32(0.5 + shift[1])
    x = from_x * cosine + from_y * sine
    y = from_y * cosine - from_x * sine + np.float32(0.5)

    width, apex = float(rng.uniform(0.365, 0.415)), float(rng.uniform(0.075, 0.115))
    dome = float(rng.uniform(0.70, 0.79))
    lungs = (
        Lung(PATIENT_RIGHT, width, apex, dome),
        Lung(PATIENT_LEFT, width, apex, dome + 0.025),
    )
    heart = Ellipse(
        x=0.05 + float(rng.normal(0.0, 0.006)),
        y=dome - 0.095,
        rx=width * float(rng.uniform(0.41, 0.46)),
        ry=width * float(rng.uniform(0.33, 0.38)),
        angle=float(rng.uniform(0.45, 0.65)),
        outline=wobble(rng, strength=0.05, harmonics=3),
    )
    rhos = [lung.rho(x, y) for lung in lungs]
    cavity = [
        ramp(rho, 1.03, 0.97) * ramp(lung.floor(x) - y, -0.006, 0.012)
        for lung, rho in zip(lungs, rhos, strict=True)
    ]
    texture = 1.0 + 0.07 * fractal(rng, size_px, cells=9, octaves=3)
    depth = [
        cover * (0.72 + 0.28 * (1.0 - np.square(np.minimum(rho, 1.0)))) * texture
        for cover, rho in zip(cavity, rhos, strict=True)
    ]
    built = Chest(
        x=x,
        y=y,
        tissue=x,  # replaced below: bones and soft tissue need the cavities first
        lungs=lungs,
        cavity=(cavity[0], cavity[1]),
        depth=(depth[0], depth[1]),
        vessels=_vessels(rng, size_px, lungs, tilt=tilt, shift=shift, zoom=zoom),
        heart=heart,
        tilt=tilt,
        shift=shift,
    )
    soft = _soft_tissue(rng, size_px, built)
    return replace(built, tissue=soft + _bones(rng, built) * ramp(soft, 0.15, 0.4))


def _soft_tissue(rng: np.random.Generator, size_px: int, body: Chest) -> Field:
    """Skin outline, muscle, mediastinum and abdomen."""
    x, y = body.x, body.y
    aside = np.abs(x)
    levels = [-0.2, 0.0, 0.05, 0.09, 0.14, 0.22, 0.34, 0.48, 0.62, 0.80, 1.20]
    build = float(rng.uniform(0.98, 1.05))  # slim to broad
    widths = np.array([0.15, 0.15, 0.18, 0.29, 0.43, 0.53, 0.55, 0.50, 0.465, 0.465, 0.48]) * build
    fine = np.linspace(levels[0], levels[-1], 256)
    half = np.interp(y, fine, PchipInterpolator(levels, widths)(fine)).astype(np.float32)
    inside = aside / half
    density: Field = ramp(inside, 1.03, 0.94) * (
        0.42 + 0.40 * np.sqrt(np.clip(1.0 - inside * inside, 0.0, 1.0))
    )
    # The shoulders: thick muscle above and beside the upper lungs.
    density += 0.10 * ramp(Ellipse(0.40, 0.22, 0.20, 0.17).rho(aside, y), 1.2, 0.3)
    floor = np.where(x < 0, body.lungs[0].floor(x), body.lungs[1].floor(x))
    belly = ramp(y - floor, -0.006, 0.05) * ramp(inside, 1.0, 0.86)
    density += 0.26 * belly
    density -= 0.22 * _stomach_bubble(rng, body) * belly
    if rng.random() < 0.4:
        drop = float(rng.uniform(0.62, 0.70))
        breast = Ellipse(0.19, drop, 0.17, 0.13)
        density += 0.09 * ramp(breast.rho(aside, y), 1.0, 0.75) * ramp(inside, 1.0, 0.9)
    upper, lower = float(rng.uniform(0.045, 0.06)), float(rng.uniform(0.055, 0.075))
    middle = upper + (lower - upper) * np.clip(y, 0.0, 1.0)
    density += 0.18 * ramp(aside - middle, 0.014, -0.016) * ramp(y, 0.02, 0.16)
    knob = Ellipse(0.062, float(rng.uniform(0.29, 0.33)), 0.036, 0.042)
    density += 0.12 * ramp(knob.rho(x, y), 1.1, 0.8)
    windpipe = ramp(np.abs(x + 0.03 * (y - 0.1)), 0.024, 0.010)
    density -= 0.13 * windpipe * ramp(y, 0.40, 0.33)
    density += 0.012 * fractal(rng, size_px, cells=6, octaves=3) * ramp(inside, 1.0, 0.9)
    return density


def _stomach_bubble(rng: np.random.Generator, body: Chest) -> Field:
    height = body.lungs[1].dome + float(rng.uniform(0.07, 0.10))
    bubble = Ellipse(0.18 + float(rng.normal(0, 0.02)), height, 0.075, 0.032, 0.1)
    bubble = replace(bubble, outline=wobble(rng, strength=0.15, harmonics=3))
    return float(rng.uniform(0.0, 1.0)) * ramp(bubble.rho(body.x, body.y), 1.15, 0.7)


def _bones(rng: np.random.Generator, body: Chest) -> Field:
    """Ribs, clavicles, spine, shoulder blades and the heads of the humeri."""
    x, y = body.x, body.y
    aside = np.abs(x)
    gap = float(rng.uniform(0.066, 0.074))
    phase = float(rng.uniform(0.0, 1.0))
    rho = np.minimum(body.lungs[0].rho(x, y), body.lungs[1].rho(x, y))
    cage = ramp(rho, 1.13, 1.02) * ramp(y, 0.10, 0.16) * ramp(y, 0.88, 0.72)
    # Posterior ribs leave the spine, rise a little, then fall towards the side of the chest.
    fall = 1.35 * aside * aside - 0.10 * aside + 0.35 * np.maximum(aside - 0.22, 0.0)
    bones = 0.085 * _rib((y - fall) / gap + phase, 0.50) * cage * ramp(aside, 0.035, 0.07)
    # Anterior ribs: fainter, wider apart, falling towards the breastbone, ending in cartilage.
    rise = 0.42 * (0.36 - aside) - 0.5 * np.maximum(aside - 0.27, 0.0)
    front = _rib((y - rise) / (1.22 * gap) + phase * 0.7, 0.55)
    bones += 0.045 * front * cage * ramp(aside, 0.11, 0.19) * ramp(y, 0.68, 0.55)
    collar = float(rng.uniform(0.155, 0.185))
    line = collar - 0.22 * aside + 0.03 * np.sin(aside * 19.0)
    bones += 0.14 * _bar(y - line, 0.014) * ramp(aside, 0.025, 0.05) * ramp(aside, 0.42, 0.37)
    blade = np.abs(aside - (0.375 - 0.16 * (y - 0.20)))
    inner = ramp(blade, 0.012, 0.0) * ramp(y, 0.16, 0.24) * ramp(y, 0.48, 0.40)
    plate = ramp(aside - (0.375 - 0.16 * (y - 0.20)), 0.0, 0.012) * ramp(aside, 0.50, 0.42)
    bones += 0.06 * inner + 0.05 * plate * ramp(y, 0.16, 0.24) * ramp(y, 0.46, 0.34)
    bones += 0.13 * ramp(Ellipse(0.455, 0.185, 0.062, 0.062).rho(aside, y), 1.0, 0.73)
    bones += 0.10 * ramp(aside - (0.43 + 0.10 * (y - 0.2)), 0.0, 0.012) * ramp(y, 0.18, 0.26)
    discs = np.abs(((y / 0.058) % 1.0) - 0.5) * 2.0
    return bones + (0.025 + 0.035 * ramp(discs, 0.95, 0.6)) * ramp(aside, 0.036, 0.026)


def _rib(position: Field, filled: float) -> Field:
    """Return a band per unit of position, with the brighter rims of cortical bone."""
    away = np.abs(position - np.floor(position) - 0.5) * 2.0
    inside = ramp(away, filled + 0.12, filled - 0.06)
    return inside * (0.55 + 0.45 * ramp(away, filled - 0.35, filled - 0.08))


def _bar(away: Field, half: float) -> Field:
    distance = np.abs(away)
    return ramp(distance, 1.25 * half, 0.85 * half) * (
        0.65 + 0.35 * ramp(distance, 0.2, 0.9 * half)
    )


def _vessels(
    rng: np.random.Generator,
    size_px: int,
    lungs: tuple[Lung, Lung],
    *,
    tilt: float,
    shift: tuple[float, float],
    zoom: float,
) -> Field:
    """Branching vessels that leave the hila and thin out towards the chest wall."""
    trunks, steps = 11, 12
    canvas = Canvas(size_px)
    hila = np.array([(lung.side * 0.085, 0.43 + 0.01 * lung.side) for lung in lungs])
    start = np.repeat(hila, trunks, axis=0)  # (B, 2)
    fan = np.tile(np.linspace(-1.25, 1.25, trunks), 2) + rng.normal(0.0, 0.1, 2 * trunks)
    sides = np.repeat([lung.side for lung in lungs], trunks)
    lines, widths = [], []
    step = rng.uniform(0.018, 0.024, 2 * trunks)
    for width in (0.010, 0.006, 0.004):
        turns = rng.normal(0.0, 0.11, (len(start), steps)) + 0.03 * np.sign(fan)[:, None]
        heading = fan[:, None] + np.cumsum(turns, axis=1)  # (B, N)
        moves = np.stack((sides[:, None] * np.cos(heading), np.sin(heading)), axis=-1)
        path = np.concatenate(
            (start[:, None], start[:, None] + np.cumsum(step[:, None, None] * moves, axis=1)),
            axis=1,
        )
        lines.append(path)
        widths.append(width)
        fork = rng.integers(2, steps - 2, len(start))
        start = path[np.arange(len(path)), fork]
        fan = heading[np.arange(len(path)), fork] + rng.choice([-0.6, 0.6], len(path))
        step = step * 0.75
    cosine, sine = np.cos(tilt) * zoom, np.sin(tilt) * zoom
    for paths, width in zip(lines[::-1], widths[::-1], strict=True):
        right, down = paths[..., 0], paths[..., 1] - 0.5
        placed = np.stack(
            (
                right * cosine - down * sine + 0.5 + shift[0],
                right * sine + down * cosine + 0.5 + shift[1],
            ),
            axis=-1,
        )
        canvas.tapered(placed, width=width, pieces=2)
    x, y = grid(size_px)
    haze = np.zeros_like(x)
    for hilum in hila:
        spot = Ellipse(hilum[0] + 0.5 + shift[0], hilum[1] + shift[1], 0.055, 0.085)
        haze += ramp(spot.rho(x, y), 1.3, 0.0)
    haze *= np.float32(0.15)
    haze += 0.12 * canvas.field() + 0.018 * noise(rng, size_px, (48, 48))
    return haze
