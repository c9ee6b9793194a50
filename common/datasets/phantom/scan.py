"""From a drawn scene to the picture a site's device would store."""

from functools import lru_cache

import numpy as np
from scipy.ndimage import gaussian_filter1d

from common.datasets.phantom.case import Scanner
from common.datasets.phantom.fields import Field, grid

TONES = 8192  # steps of the tone curve, 32 per grey level stored
BLUR_REACH = 3.0  # the blur ends after so many standard deviations


def scan(
    scene: np.ndarray, *, scanner: Scanner, grain: np.ndarray, aperture: Field | None = None
) -> np.ndarray:
    """Return the scene as the scanner stores it, (S, S, C) uint8.

    Every step is local: a change of the scene moves no pixel beyond the blur's reach.

    Args:
        scene: (S, S, C) float32 in [0, 1].
        scanner: The site's scanner.
        grain: (S, S, C) standard normal noise; shared by the pictures of one case.
        aperture: (S, S) in [0, 1]; outside it nothing but noise is recorded.
    """
    light = scene
    if scanner.blur_px > 0.0:
        for axis in (0, 1):
            light = gaussian_filter1d(light, scanner.blur_px, axis=axis, truncate=BLUR_REACH)
    if scanner.illumination > 0.0:
        light = light * _fall_of_light(scene.shape[0], scanner)[..., None]
    steps = np.clip(light, 0.0, 1.0) * np.float32(TONES - 1) + np.float32(0.5)
    light = _tone_curve(scanner)[steps.astype(np.uint16)]
    if aperture is not None:
        light = light * aperture[..., None]
    light = light + np.float32(scanner.noise) * grain
    grey = np.clip(light, 0.0, 1.0) * np.float32(255.0)
    stored: np.ndarray = (grey + np.float32(0.5)).astype(np.uint8)
    return stored


@lru_cache(maxsize=64)
def _tone_curve(scanner: Scanner) -> np.ndarray:
    """Return what becomes of each of ``TONES`` intensities: gamma, then contrast, brightness."""
    light = np.linspace(0.0, 1.0, TONES) ** scanner.gamma
    light = np.clip(scanner.contrast * (light - 0.5) + 0.5, 0.0, 1.0)
    light = light + 4.0 * scanner.brightness * light * (1.0 - light)
    return light.astype(np.float32)


def _fall_of_light(size_px: int, scanner: Scanner) -> Field:
    x, y = grid(size_px)
    angle = np.deg2rad(scanner.illumination_angle_deg)
    across = (x - 0.5) * np.float32(np.cos(angle)) + (y - 0.5) * np.float32(np.sin(angle))
    return 1.0 - np.float32(scanner.illumination) * (0.5 + across)
