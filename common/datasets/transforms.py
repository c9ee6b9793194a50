"""Random augmentation of a batch: one smooth warp for picture and ROI, then brightness."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from scipy.interpolate import BSpline
from torch import Tensor
from torch.nn import functional

from common.config.run import AugmentConfig

# ImageNet's, which the pretrained encoders expect; a grey picture gets them per channel too.
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)
EVERY_ROW = slice(None)


@dataclass(frozen=True)
class Augmentation:
    """What to do at random, and where the randomness comes from."""

    config: AugmentConfig
    generator: torch.Generator


@dataclass(frozen=True)
class Warp:
    """Where each pixel of a batch is taken from."""

    grid: Tensor  # (B, S, S, 2) x and y in [-1, 1] as torch.nn.functional.grid_sample reads them

    def __call__(self, pictures: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return pictures moved by their row of the grid, bilinear, mirrored at the edges.

        Args:
            pictures: (K, C, S, S) float.
            rows: (K,) which picture of the batch each belongs to; None: the batch itself.
        """
        grid = self.grid if rows is None else self.grid[rows]
        # Mirrored, so that turned tissue has no black corners; the ROI is mirrored with it.
        return functional.grid_sample(
            pictures, grid, mode="bilinear", padding_mode="reflection", align_corners=False
        )


def random_warp(
    batch: int, size_px: int, augmentation: Augmentation, *, rows: slice = EVERY_ROW
) -> Warp:
    """Draw flips, rotation, shear, scale, translation and elastic deformation for each picture.

    The elastic part is a free-form deformation (Rueckert et al. 1999, "Nonrigid registration using
    free-form deformations", eq. 1): random displacements of control points ``elastic_sigma_px``
    apart, interpolated by cubic B-splines, so that no pixel moves further than
    ``elastic_alpha_px`` along an axis.

    Args:
        batch: Number of pictures B.
        size_px: Side S of the pictures.
        augmentation: Ranges and randomness.
        rows: Which of the pictures the warp is for; the draws are the batch's.
    """
    config, generator = augmentation.config, augmentation.generator
    matrices = _affine(batch, config, generator)[rows]  # (B, 2, 3)
    shape = [len(matrices), 1, size_px, size_px]
    grid = functional.affine_grid(matrices, shape, align_corners=False)
    if config.elastic_alpha_px > 0:
        grid = grid + _elastic(batch, size_px, config, generator, rows)
    return Warp(grid)


def _uniform(shape: tuple[int, ...], low: float, high: float, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)


def _affine(batch: int, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Return (B, 2, 3) matrices that map output to input coordinates."""
    angle = torch.deg2rad(_uniform((batch,), -config.rotation_deg, config.rotation_deg, generator))
    shear = torch.tan(
        torch.deg2rad(_uniform((batch,), -config.shear_deg, config.shear_deg, generator))
    )
    # Equal chances of enlarging and shrinking by one factor.
    low, high = (math.log(limit) for limit in config.scale)
    inverse_scale = torch.exp(-_uniform((batch,), low, high, generator))
    # Coordinates span 2, hence a fraction of the side counts twice.
    reach = 2 * config.translate_fraction
    shift = _uniform((batch, 2), -reach, reach, generator)
    flips = torch.rand((batch, 2), generator=generator)
    mirror_x = 1.0 - 2.0 * (flips[:, 0] < config.horizontal_flip).float()
    mirror_y = 1.0 - 2.0 * (flips[:, 1] < config.vertical_flip).float()
    cos, sin = torch.cos(angle) * inverse_scale, torch.sin(angle) * inverse_scale
    rows = [
        torch.stack([mirror_x * cos, mirror_x * (shear * cos - sin), shift[:, 0]], dim=1),
        torch.stack([mirror_y * sin, mirror_y * (shear * sin + cos), shift[:, 1]], dim=1),
    ]
    return torch.stack(rows, dim=1)


@lru_cache(maxsize=8)
def _spline_weights(size_px: int, spacing_px: float) -> Tensor:
    """Return (S, n) weights of n control points on each pixel of a line; rows sum to 1."""
    spans = max(1, math.ceil(size_px / spacing_px))
    knots = np.arange(-3, spans + 4, dtype=np.float64) * spacing_px
    pixels = np.arange(size_px) + 0.5
    weights = BSpline.design_matrix(pixels, knots, 3).toarray()
    return torch.from_numpy(weights.astype(np.float32))


def _elastic(
    batch: int, size_px: int, config: AugmentConfig, generator: torch.Generator, rows: slice
) -> Tensor:
    """Return (B, S, S, 2) displacements in grid_sample's coordinates."""
    weights = _spline_weights(size_px, config.elastic_sigma_px)
    points = weights.shape[1]
    alpha = config.elastic_alpha_px * 2 / size_px
    nodes = _uniform((batch, 2, points, points), -alpha, alpha, generator)[rows]
    field = weights @ nodes @ weights.T  # (B, 2, n, n) -> (B, 2, S, S)
    return field.permute(0, 2, 3, 1)


def jitter(
    pictures: Tensor,
    augmentation: Augmentation,
    *,
    batch: int | None = None,
    rows: slice = EVERY_ROW,
) -> Tensor:
    """Change brightness and contrast of each picture; values stay in [0, 1].

    Args:
        pictures: (B, C, S, S) in [0, 1].
        augmentation: Ranges and randomness.
        batch: Size of the batch to draw for; None: these pictures are the batch.
        rows: Which of the batch the pictures are.
    """
    config, generator = augmentation.config, augmentation.generator
    if config.brightness == 0 and config.contrast == 0:
        return pictures
    shape = (len(pictures) if batch is None else batch, 1, 1, 1)
    shift = _uniform(shape, -config.brightness, config.brightness, generator)[rows]
    slope = _uniform(shape, 1 - config.contrast, 1 + config.contrast, generator)[rows]
    centre = pictures.mean(dim=(1, 2, 3), keepdim=True)
    return ((pictures - centre) * slope + centre + shift).clamp(0, 1)


def normalise(pictures: Tensor) -> Tensor:
    """Return (B, C, S, S) in [0, 1] as (B, 3, S, S) of roughly zero mean and unit deviation.

    Grey pictures (C = 1) are repeated over three channels.
    """
    mean = pictures.new_tensor(MEAN)[:, None, None]
    deviation = pictures.new_tensor(DEVIATION)[:, None, None]
    return (pictures.expand(-1, 3, -1, -1) - mean) / deviation


def denormalise(pictures: Tensor) -> Tensor:
    """Return what ``normalise`` was given, as (B, 3, S, S) in [0, 1], for showing it."""
    mean = pictures.new_tensor(MEAN)[:, None, None]
    deviation = pictures.new_tensor(DEVIATION)[:, None, None]
    return (pictures * deviation + mean).clamp(0, 1)
