"""Does an explanation stay when the picture changes in a way that means nothing?

Structural similarity (SSIM; Wang et al. 2004, doi:10.1109/TIP.2003.819861, Gaussian window of
standard deviation 1.5 px) of the map before and after. Each pair of maps is divided by the higher
of its two maxima, so that the range of the data is 1 and a fainter map counts as a change. Two maps
that are empty nearly everywhere are alike there: read every value beside what the maps of two
different pictures reach (:func:`between_pictures`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from skimage.metrics import structural_similarity
from torch import Tensor
from torch.nn import functional

from common.errors import DataError
from common.machine.seed import generator
from common.metrics.agreement import rank_correlation
from common.metrics.bootstrap import Float64Array

Explain = Callable[[Tensor], Tensor]  # pictures (B, 3, H, W) -> saliency maps (B, H, W)

# Of pictures as the network sees them, whose unit is about 0.22 of the range from black to white.
NOISE_DEVIATION = 0.1
BRIGHTNESS = 0.2
SHIFT_SHARE = 1 / 32  # of the side, to the right and down, at least one pixel
SMALLEST_PX = 11  # side of SSIM's window


@dataclass(frozen=True, eq=False)
class Stability:
    """SSIM of each picture's map with its map after a change, (B,) each, at most 1."""

    noise: Float64Array
    brightness: Float64Array
    shift: Float64Array  # the map moved back, without the border that came in
    flip: Float64Array | None  # the map mirrored back; None: the anatomy does not allow it


@dataclass(frozen=True, eq=False)
class Reproducibility:
    """How alike the maps of networks are that differ in their seed, mean over their pairs."""

    ssim: Float64Array  # (B,)
    spearman: Float64Array  # (B,) NaN where no pair has two maps that differ from place to place


def stability(
    explain: Explain, images: Tensor, *, may_flip: bool, seed: int, saliency: Tensor | None = None
) -> Stability:
    """Change the pictures slightly, explain them again and compare.

    ``explain`` is called once for each of noise, brightness, shift and flip, and once more where
    the maps of the unchanged pictures are not given.

    Args:
        explain: A method with everything but the pictures decided.
        images: (B, 3, H, W) as the network sees them.
        may_flip: Whether a mirrored picture means the same (``Task.horizontal_flip``).
        seed: Of the noise, which is the same for each picture of the batch.
        saliency: (B, H, W), what ``explain`` says of the unchanged pictures, if it is known.
    """
    before = explain(images) if saliency is None else saliency
    noise = torch.randn(images.shape[1:], generator=generator(seed)).to(images)
    step_px = max(1, round(SHIFT_SHARE * images.shape[-1]))
    moved = explain(shifted(images, step_px))[:, step_px:, step_px:]
    return Stability(
        noise=similarity(before, explain(images + NOISE_DEVIATION * noise)),
        brightness=similarity(before, explain(images + BRIGHTNESS)),
        shift=similarity(before[:, :-step_px, :-step_px], moved),
        flip=similarity(before, explain(images.flip(-1)).flip(-1)) if may_flip else None,
    )


def shifted(images: Tensor, step_px: int) -> Tensor:
    """Return pictures (B, C, H, W) moved right and down, their upper and left edges repeated."""
    height, width = images.shape[-2:]
    wider = functional.pad(images, (step_px, 0, step_px, 0), mode="replicate")
    return wider[..., :height, :width]


def similarity(first: Tensor, second: Tensor) -> Float64Array:
    """Return the SSIM of each pair of maps, (B, H, W) and (B, H, W) -> (B,).

    Two empty maps are alike: 1. Values that are not finite give NaN.

    Raises:
        DataError: The shapes differ or a side is smaller than the window.
    """
    if first.shape != second.shape or first.ndim != 3 or min(first.shape[1:]) < SMALLEST_PX:
        raise DataError(
            f"SSIM needs two maps (B, H, W) of one shape and at least {SMALLEST_PX} px, got "
            f"{tuple(first.shape)} and {tuple(second.shape)}."
        )
    pairs = zip(_arrays(first), _arrays(second), strict=True)
    return np.array([_ssim(one, other) for one, other in pairs], dtype=np.float64)


def between_pictures(saliency: Tensor) -> Float64Array:
    """Return the SSIM of each map with the next picture's, (B, H, W) -> (B,).

    What a method reaches that gives alike maps to all pictures: chance, for stability. NaN for a
    single picture.
    """
    if len(saliency) < 2:
        return np.full(len(saliency), np.nan)
    return similarity(saliency, saliency.roll(1, dims=0))


def reproducibility(maps: Sequence[Tensor]) -> Reproducibility:
    """Compare the maps (B, H, W) that several networks, equal but for their seed, give.

    Raises:
        DataError: There are fewer than two networks.
    """
    if len(maps) < 2:
        raise DataError(f"reproducibility needs the maps of at least 2 networks, got {len(maps)}.")
    pairs = list(combinations(maps, 2))
    ranks = np.stack(
        [
            rank_correlation(_arrays(a).reshape(len(a), -1), _arrays(b).reshape(len(b), -1))
            for a, b in pairs
        ]
    )  # (P, B)
    defined = np.isfinite(ranks)
    count = defined.sum(axis=0)
    mean = np.full(ranks.shape[1], np.nan)
    np.divide(np.where(defined, ranks, 0.0).sum(axis=0), count, out=mean, where=count > 0)
    return Reproducibility(
        ssim=np.mean([similarity(a, b) for a, b in pairs], axis=0), spearman=mean
    )


def _arrays(maps: Tensor) -> Float64Array:
    values: Float64Array = maps.detach().cpu().double().numpy()
    return values


def _ssim(first: Float64Array, second: Float64Array) -> float:
    highest = max(np.abs(first).max(), np.abs(second).max())
    if highest == 0:
        return 1.0
    # Mirrored by half a window: scikit-image leaves a border of that width out of its mean.
    border = SMALLEST_PX // 2
    one, other = (np.pad(x / highest, border, mode="reflect") for x in (first, second))
    value = structural_similarity(  # type: ignore[no-untyped-call]
        one,
        other,
        data_range=1.0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    return float(value)
