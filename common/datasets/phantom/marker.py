"""Corner markers: what a department leaves in the picture that has nothing to do with disease."""

import numpy as np

from common.datasets.phantom.canvas import Canvas
from common.datasets.phantom.fields import Ellipse, Field, wobble


def lead_letter(size_px: int, rng: np.random.Generator) -> Field:
    """Return the coverage of a burnt-in side letter L, upper corner at the patient's left."""
    x, y = 0.905 + rng.uniform(-0.02, 0.02), 0.035 + rng.uniform(-0.01, 0.02)
    height, stroke = 0.095, 0.024
    canvas = Canvas(size_px)
    canvas.fill(_box(x, y, stroke, height))
    canvas.fill(_box(x, y + height - stroke, 0.62 * height, stroke))
    return canvas.field()


def camera_notch(
    size_px: int, rng: np.random.Generator, *, centre: tuple[float, float], radius: float
) -> Field:
    """Return the coverage of a bright tab on the rim of the camera's field, upper right."""
    angle = np.deg2rad(-42.0 + rng.uniform(-4.0, 4.0))
    direction = np.array([np.cos(angle), np.sin(angle)])
    across = np.array([-direction[1], direction[0]])
    inner = np.array(centre) + 0.97 * radius * direction
    outer = np.array(centre) + (radius + 0.04) * direction
    half = 0.032 * across
    canvas = Canvas(size_px)
    canvas.fill(np.stack((inner - half, outer - half, outer + half, inner + half)))
    return canvas.field()


def pen_dot(size_px: int, rng: np.random.Generator) -> Field:
    """Return the coverage of a pathologist's ink dot in the upper left corner."""
    x, y = 0.075 + rng.uniform(-0.015, 0.015), 0.075 + rng.uniform(-0.015, 0.015)
    dot = Ellipse(x, y, 0.055, 0.05, 0.0, wobble(rng, strength=0.2))
    canvas = Canvas(size_px)
    canvas.fill(dot.points(count=24))
    return canvas.field()


def _box(x: float, y: float, width: float, height: float) -> np.ndarray:
    return np.array([(x, y), (x + width, y), (x + width, y + height), (x, y + height)])
