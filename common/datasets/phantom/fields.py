"""Smooth fields over a picture: pixel coordinates, soft edges, fractal noise, wobbly ellipses."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Field = NDArray[np.floating]  # (S, S), single precision throughout


@lru_cache(maxsize=8)
def grid(size_px: int) -> tuple[Field, Field]:
    """Return x (right) and y (down) of the pixel centres in picture widths, [0, 1]; read-only."""
    centres = (np.arange(size_px, dtype=np.float32) + 0.5) / size_px
    y, x = np.meshgrid(centres, centres, indexing="ij")
    x.setflags(write=False)
    y.setflags(write=False)
    return x, y


def ramp(values: Field, low: float, high: float) -> Field:
    """Rise smoothly from 0 at ``low`` to 1 at ``high``, or fall when low > high.

    Exactly 0 and 1 beyond the ends, so that what is drawn with it has a finite reach.
    """
    t = np.asarray(values - np.float32(low))
    t *= np.float32(1.0 / (high - low))  # in place from here: this is most of the drawing time
    np.clip(t, 0.0, 1.0, out=t)
    rise = t * np.float32(-2.0)
    rise += np.float32(3.0)
    rise *= t
    rise *= t
    return np.asarray(rise)


def noise(rng: np.random.Generator, size_px: int, cells: tuple[int, int]) -> Field:
    """Return smooth noise of about unit spread with ``cells`` (down, right) bumps per picture.

    The draw depends on ``cells`` alone: the same stream gives the same clouds at every size.
    """
    coarse = rng.standard_normal(cells, dtype=np.float32)
    fine = Image.fromarray(coarse).resize((size_px, size_px), Image.Resampling.BICUBIC)
    return np.asarray(fine, dtype=np.float32)


def fractal(
    rng: np.random.Generator, size_px: int, *, cells: int, octaves: int, fading: float = 0.6
) -> Field:
    """Return noise summed over octaves, each twice as fine and ``fading`` times as strong."""
    total = np.zeros((size_px, size_px), np.float32)
    for octave in range(octaves):
        bumps = cells * 2**octave
        total += np.float32(fading**octave) * noise(rng, size_px, (bumps, bumps))
    return total


@dataclass(frozen=True)
class Wobble:
    """Low harmonics that turn a circle into a natural outline."""

    amplitudes: np.ndarray  # (K,) relative radius, harmonics 2..K+1
    phases: np.ndarray  # (K,) radians

    def radius(self, cosine: np.ndarray, sine: np.ndarray) -> np.ndarray:
        """Return the outline's relative radius, about 1, in each direction (unit vectors)."""
        total = np.ones_like(cosine)
        c, s = cosine, sine
        for amplitude, phase in zip(self.amplitudes, self.phases, strict=True):
            # The addition theorem: cos and sin of the next multiple, without calling either.
            c, s = c * cosine - s * sine, s * cosine + c * sine
            total += c * np.float32(amplitude * np.cos(phase))
            total -= s * np.float32(amplitude * np.sin(phase))
        return total


def wobble(rng: np.random.Generator, *, strength: float, harmonics: int = 4) -> Wobble:
    """Draw an outline whose radius varies by about ``strength``; finer waves are weaker."""
    fading = 1.0 / np.sqrt(np.arange(1, harmonics + 1))
    return Wobble(
        amplitudes=strength * fading * rng.uniform(-0.7, 0.7, harmonics),
        phases=rng.uniform(0.0, 2.0 * np.pi, harmonics),
    )


@dataclass(frozen=True)
class Ellipse:
    """A rotated, possibly wobbly ellipse in picture units."""

    x: float
    y: float
    rx: float
    ry: float
    angle: float = 0.0  # radians, of the rx axis, clockwise as y points down
    outline: Wobble | None = None

    def rho(self, x: Field, y: Field) -> Field:
        """Return the relative radius: 0 at the centre, 1 on the outline."""
        dx, dy = x - np.float32(self.x), y - np.float32(self.y)
        cosine, sine = np.float32(np.cos(self.angle)), np.float32(np.sin(self.angle))
        along = (dx * cosine + dy * sine) / np.float32(self.rx)
        across = (dy * cosine - dx * sine) / np.float32(self.ry)
        # Three times as fast as np.hypot.
        radius: Field = np.sqrt(along * along + across * across)
        if self.outline is None:
            return radius
        away = np.maximum(radius, np.float32(1e-6))
        radius /= self.outline.radius(along / away, across / away)
        return radius

    def points(self, count: int = 14) -> np.ndarray:
        """Return the outline as (count, 2) points."""
        angle = np.linspace(0.0, 2.0 * np.pi, count, endpoint=False)
        along, across = np.cos(angle), np.sin(angle)
        radius = 1.0 if self.outline is None else self.outline.radius(along, across)
        along, across = self.rx * radius * along, self.ry * radius * across
        cosine, sine = np.cos(self.angle), np.sin(self.angle)
        return np.stack(
            (self.x + along * cosine - across * sine, self.y + along * sine + across * cosine),
            axis=1,
        )
