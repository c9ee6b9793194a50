"""Pictures with a lesion and a marker that betrays the label, for asking where a model looks.

A lung-like texture; in positives a round lesion; in a corner an L that agrees with the label more
often in training than in testing. Every picture also comes without its lesion and without its
marker, exactly, so that the effect of either on a logit can be measured and not guessed.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from common.studies.looks_config import PhantomConfig

_FIELD = 0.9  # brightness between the lungs
_LUNG = -0.7  # brightness within them
_MARKER_VALUE = 2.2
_MOTTLE = ((1 / 32, 0.35), (1 / 16, 0.35), (3 / 16, 0.3))  # (scale as share of the side, amplitude)


@dataclass(frozen=True)
class Phantoms:
    """N pictures, (N, 1, S, S) each, roughly of zero mean and unit deviation."""

    images: Tensor
    without_lesion: Tensor
    without_marker: Tensor
    lesion: Tensor  # (N, 1, S, S) bool: pixels of the lesion, none in negatives
    label: Tensor  # (N,) 0 or 1
    marked: Tensor  # (N,) bool


def make_phantoms(
    config: PhantomConfig, *, count: int, marker_agreement: float, seed: int
) -> Phantoms:
    """Draw pictures; P(marker = label) is ``marker_agreement``, half of them are positive."""
    draw = torch.Generator().manual_seed(seed)
    label = (torch.rand(count, generator=draw) < 0.5).float()
    agrees = torch.rand(count, generator=draw) < marker_agreement
    marked = (label > 0) == agrees
    lungs = _lungs(count, config.side_px, draw)
    background = _texture(lungs, config, draw)
    lesion, disc = _lesions(count, config, draw)
    lesion = lesion * label[:, None, None, None]
    marker = _markers(count, config.side_px, draw) & marked[:, None, None, None]
    with_lesion = background + config.lesion_amplitude * lesion
    return Phantoms(
        images=_stamp(with_lesion, marker),
        without_lesion=_stamp(background, marker),
        without_marker=with_lesion,
        lesion=disc & (label > 0)[:, None, None, None],
        label=label,
        marked=marked,
    )


def _stamp(images: Tensor, marker: Tensor) -> Tensor:
    return torch.where(marker, torch.full_like(images, _MARKER_VALUE), images)


def _axes(side_px: int) -> tuple[Tensor, Tensor]:
    """Return pixel centres as shares of the side, rows (S, 1) and columns (1, S)."""
    centres = (torch.arange(side_px) + 0.5) / side_px
    return centres[:, None], centres[None, :]


def _lungs(count: int, side_px: int, draw: torch.Generator) -> Tensor:
    """Return two soft ellipses per picture, (N, 1, S, S) in [0, 1]."""
    rows, columns = _axes(side_px)
    jitter = 0.02 * torch.randn(count, 4, 1, 1, generator=draw)
    both = torch.zeros(count, side_px, side_px)
    for index, centre in enumerate((0.28, 0.72)):
        across = (columns - centre - jitter[:, index]) / 0.19
        along = (rows - 0.54 - jitter[:, 2 + index]) / 0.38
        inside = torch.sigmoid((1 - (across**2 + along**2)) * 6)
        both = torch.maximum(both, inside)
    return both[:, None]


def _texture(lungs: Tensor, config: PhantomConfig, draw: torch.Generator) -> Tensor:
    """Return lungs darker than their surroundings, with vessels' mottle and detector noise."""
    count, _, side_px, _ = lungs.shape
    picture = _FIELD + (_LUNG - _FIELD) * lungs
    for share, amplitude in _MOTTLE:
        noise = torch.randn(count, 1, side_px, side_px, generator=draw)
        picture = picture + config.texture_amplitude * amplitude * _smooth(noise, share * side_px)
    return picture + 0.1 * torch.randn(count, 1, side_px, side_px, generator=draw)


def _smooth(noise: Tensor, scale_px: float) -> Tensor:
    """Return Gaussian-filtered noise of unit deviation."""
    side_px = noise.shape[-1]
    frequency = torch.fft.fftfreq(side_px)[:, None] ** 2 + torch.fft.rfftfreq(side_px)[None] ** 2
    response = torch.exp(-2 * (math.pi * scale_px) ** 2 * frequency)
    smooth: Tensor = torch.fft.irfft2(torch.fft.rfft2(noise) * response, s=(side_px, side_px))
    return smooth / smooth.std()


def _lesions(count: int, config: PhantomConfig, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return one blob per picture inside a lung, in [0, 1], and the disc it fills, as bool."""
    rows, columns = _axes(config.side_px)
    smallest, largest = config.lesion_radius_px
    chance = torch.rand(count, 4, 1, 1, generator=draw)
    radius = (smallest + (largest - smallest) * chance[:, 0]) / config.side_px
    # Uniform over the middle of one of the two ellipses.
    angle, reach = 2 * math.pi * chance[:, 1], 0.75 * chance[:, 2].sqrt()
    side = torch.where(chance[:, 3] < 0.5, 0.28, 0.72)
    column = side + reach * angle.cos() * 0.19
    row = 0.54 + reach * angle.sin() * 0.38
    distance = ((rows - row) ** 2 + (columns - column) ** 2).sqrt() / radius
    blob = torch.exp(-0.5 * (distance / 0.6) ** 2)
    return torch.where(distance < 1.5, blob, 0.0)[:, None], (distance < 1)[:, None]


def _markers(count: int, side_px: int, draw: torch.Generator) -> Tensor:
    """Return an L in the upper left corner, shifted by at most one pixel, (N, 1, S, S) bool."""
    unit = side_px // 64
    glyph = torch.zeros(side_px, side_px, dtype=torch.bool)
    glyph[2 * unit : 9 * unit, 2 * unit : 4 * unit] = True
    glyph[7 * unit : 9 * unit, 2 * unit : 7 * unit] = True
    shifts = torch.randint(0, 3, (count, 2), generator=draw)
    table = torch.stack(
        [torch.roll(glyph, (down, right), dims=(0, 1)) for down in range(3) for right in range(3)]
    )
    return table[shifts[:, 0] * 3 + shifts[:, 1]][:, None]


def cell_coverage(mask: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return the share of each cell that a mask covers, (N, 1, S, S) -> (N, 1, h, w)."""
    return functional.adaptive_avg_pool2d(mask.float(), grid)
