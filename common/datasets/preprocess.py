"""What preparation does to a picture once, always the same way: crop, fit, stain, contrast."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import label as connected_parts
from skimage import exposure
from skimage.color import rgb2ycbcr, ycbcr2rgb
from torchstain.numpy.normalizers import NumpyMacenkoNormalizer, NumpyReinhardNormalizer

from common.config.run import PreprocessConfig
from common.errors import DataError

DARK = 16  # of 255: a retina camera's surround is below, its dimmest retina above
MIN_PICTURE_SHARE = 0.05  # a crop to less than this of the picture has found no picture
MIN_TISSUE_SHARE = 0.02  # of pixels; below it a tile is glass and has no stain to estimate
TISSUE_DENSITY = 0.15  # optical density in every channel, Macenko's beta
TRANSMITTED = 240  # intensity of unstained glass

# Mean and deviation of L, a, b that Reinhard's method maps to: rounded means over 329 colorectal
# H&E tiles (EBHI-Seg).
REINHARD_MEANS = (47.0, 32.0, -35.0)
REINHARD_DEVIATIONS = (21.0, 12.0, 14.0)


@dataclass(frozen=True)
class Preprocessed:
    """A picture ready for a shard, and what could not be done to it."""

    image: NDArray[np.uint8]  # (S, S, C)
    masks: tuple[NDArray[np.bool_], ...]  # (S, S) each, in the order given
    skipped: tuple[str, ...]  # steps left out, as the data card counts them


def preprocess(
    image: NDArray[np.uint8],
    masks: Sequence[NDArray[np.bool_]],
    *,
    size_px: int,
    config: PreprocessConfig,
) -> Preprocessed:
    """Crop, fit into a square, normalise stain, stretch and equalise contrast; masks move along.

    The picture keeps its proportions: its longer side becomes ``size_px`` and the rest is padded
    evenly with the median colour of its border. Stain and contrast are computed on the picture
    itself, never on the padding.

    Args:
        image: (H, W, C), C = 1 or 3.
        masks: (H, W) each.
        size_px: Side S of the result.
        config: What to do for this task.

    Raises:
        DataError: A mask of another size than the picture, or an image that is not (H, W, 1 or 3).
    """
    _check(image, masks)
    if config.crop_dark_border:
        rows, columns = bright_extent(image)
        image = image[rows, columns]
        masks = [mask[rows, columns] for mask in masks]
    height, width = fitted_size(image.shape[0], image.shape[1], size_px)
    small = _resize(image, height, width)
    skipped = []
    if config.stain_normalisation != "none" and small.shape[2] == 3:
        if is_stained(small):
            small = normalise_stain(small, config.stain_normalisation)
        else:
            skipped.append("stain normalisation: too little tissue")
    if config.contrast_percentiles is not None:
        small = stretch_contrast(small, config.contrast_percentiles)
    if config.clahe_clip_limit > 0:
        small = equalise(small, clip_limit=config.clahe_clip_limit, tiles=config.clahe_tiles)
    return Preprocessed(
        image=_pad(small, size_px),
        masks=tuple(_centre(shrink_mask(mask, height, width), size_px) for mask in masks),
        skipped=tuple(skipped),
    )


def _check(image: NDArray[np.uint8], masks: Sequence[NDArray[np.bool_]]) -> None:
    if (
        image.dtype != np.uint8
        or image.ndim != 3
        or image.shape[2] not in (1, 3)
        or 0 in image.shape
    ):
        raise DataError(
            f"a picture must be uint8 of shape (H, W, 1) or (H, W, 3), "
            f"got {image.dtype} {image.shape}; its reader must convert it."
        )
    for mask in masks:
        if mask.shape != image.shape[:2]:
            raise DataError(
                f"a mask must have its picture's size {image.shape[:2]}, got {mask.shape}; "
                "export the mask again from the same picture."
            )


def bright_extent(image: NDArray[np.uint8]) -> tuple[slice, slice]:
    """Return the rows and columns that hold the picture within its black surround.

    A picture that is dark nearly everywhere is left whole.

    Args:
        image: (H, W, C).
    """
    bright = image.max(axis=2) > DARK
    # A single bright pixel (dust, a burnt-in letter) is no picture: a line needs 1 % of its length.
    rows = np.flatnonzero(bright.mean(axis=1) > 0.01)
    columns = np.flatnonzero(bright.mean(axis=0) > 0.01)
    whole = (slice(0, image.shape[0]), slice(0, image.shape[1]))
    if not len(rows) or not len(columns):
        return whole
    found = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    share = (rows[-1] + 1 - rows[0]) * (columns[-1] + 1 - columns[0]) / bright.size
    return found if share >= MIN_PICTURE_SHARE else whole


def fitted_size(height: int, width: int, size_px: int) -> tuple[int, int]:
    """Return (height, width) of the picture inside a square, proportions kept, at least 1."""
    scale = size_px / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _resize(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    # Pillow widens its filter when shrinking, which is the antialiasing; bilinear never rings.
    channels = [
        np.asarray(
            Image.fromarray(np.ascontiguousarray(image[..., channel])).resize(
                (width, height), Image.Resampling.BILINEAR
            )
        )
        for channel in range(image.shape[2])
    ]
    return np.stack(channels, axis=-1)


def shrink_mask(mask: NDArray[np.bool_], height: int, width: int) -> NDArray[np.bool_]:
    """Resize a mask by area and keep every lesion of it, however small.

    A cell is in when at least half of it is covered. A connected part that fills no cell half
    keeps the cell it covers most, so that a microaneurysm of 10 pixels survives a 16-fold
    reduction.

    Args:
        mask: (H, W).
        height: Rows of the result.
        width: Columns of the result.
    """
    if not mask.any():
        return np.zeros((height, width), dtype=np.bool_)
    solid = Image.fromarray(mask.astype(np.uint8) * 255)
    small = np.asarray(solid.resize((width, height), Image.Resampling.BOX)) >= 128
    small = small.copy()
    parts, _ = connected_parts(mask, structure=np.ones((3, 3)))
    y, x = np.nonzero(mask)
    part = parts[y, x].astype(np.int64)
    # A pixel counts for the cell that its centre lies in.
    cell = ((2 * y + 1) * height // (2 * mask.shape[0])) * width
    cell += (2 * x + 1) * width // (2 * mask.shape[1])
    pairs, counts = np.unique(part * (height * width) + cell, return_counts=True)
    owner, place = np.divmod(pairs, height * width)
    survives = np.zeros(int(parts.max()) + 1, dtype=np.bool_)
    survives[owner[small.ravel()[place]]] = True
    best_last = np.lexsort((counts, owner))
    ends = np.flatnonzero(np.diff(owner[best_last], append=-1))
    best = best_last[ends]
    lost = best[~survives[owner[best]]]
    small.ravel()[place[lost]] = True
    return small


def is_stained(image: NDArray[np.uint8]) -> bool:
    """Say whether a tile shows enough tissue, of more than one colour, to estimate its stain.

    Args:
        image: (H, W, 3).
    """
    lit = white_balanced(image).reshape(-1, 3)
    density = -np.log((lit.astype(np.float64) + 1) / TRANSMITTED)
    tissue = density[(density >= TISSUE_DENSITY).all(axis=1)]
    if len(tissue) < max(16, MIN_TISSUE_SHARE * len(density)):
        return False
    # Two stains span a plane; tissue of one colour leaves the second direction undefined.
    return bool(np.linalg.eigvalsh(np.cov(tissue.T))[1] > 1e-6)


def white_balanced(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Scale each channel so that its brightest percent is as bright as unstained glass.

    Under a dim or tinted lamp glass is dense enough to pass for tissue, and its colour is then
    taken for a stain.

    Args:
        image: (H, W, 3).
    """
    white = np.maximum(np.percentile(image, 99, axis=(0, 1)), 1.0)
    return np.minimum(image * (TRANSMITTED / white), 255.0).astype(np.uint8)


def normalise_stain(image: NDArray[np.uint8], method: str) -> NDArray[np.uint8]:
    """Bring an H&E tile to a common stain.

    ``macenko``: Macenko et al. 2009, "A method for normalizing histology slides for quantitative
    analysis", to that paper's reference stains. ``reinhard``: Reinhard et al. 2001, "Color
    transfer between images", to fixed means and deviations.

    Args:
        image: (H, W, 3), see ``is_stained``.
        method: ``macenko`` or ``reinhard``.
    """
    image = white_balanced(image)
    if method == "macenko":
        normal, _, _ = NumpyMacenkoNormalizer().normalize(
            image, Io=TRANSMITTED, beta=TISSUE_DENSITY, stains=False
        )
        return np.asarray(normal, dtype=np.uint8)
    reinhard = NumpyReinhardNormalizer()
    reinhard.target_means = np.array(REINHARD_MEANS)
    reinhard.target_stds = np.array(REINHARD_DEVIATIONS)
    return np.asarray(reinhard.normalize(image), dtype=np.uint8)


def stretch_contrast(
    image: NDArray[np.uint8], percentiles: tuple[float, float]
) -> NDArray[np.uint8]:
    """Map the given shares of brightness to black and white, all channels alike.

    Args:
        image: (H, W, C).
        percentiles: Shares in [0, 1], the lower first.
    """
    low, high = np.quantile(image.mean(axis=2), percentiles)
    if high - low < 1:
        return image  # a blank picture: stretching it would only show noise
    return np.round(np.interp(image, (low, high), (0, 255))).astype(np.uint8)


def equalise(image: NDArray[np.uint8], *, clip_limit: float, tiles: int) -> NDArray[np.uint8]:
    """Contrast-limited adaptive histogram equalisation of the brightness; colours keep their hue.

    Args:
        image: (H, W, C).
        clip_limit: In (0, 1], larger is stronger.
        tiles: Tiles per side.
    """
    kernel = [max(1, side // tiles) for side in image.shape[:2]]
    if image.shape[2] == 1:
        equal = exposure.equalize_adapthist(image[..., 0], kernel, clip_limit=clip_limit)
        return np.asarray(np.round(equal * 255), dtype=np.uint8)[..., None]
    ycbcr = rgb2ycbcr(image)  # Y in [16, 235]
    luma = np.clip((ycbcr[..., 0] - 16) / 219, 0, 1)
    ycbcr[..., 0] = 16 + 219 * exposure.equalize_adapthist(luma, kernel, clip_limit=clip_limit)
    return np.asarray(np.round(np.clip(ycbcr2rgb(ycbcr), 0, 1) * 255), dtype=np.uint8)


def _offset(height: int, width: int, size_px: int) -> tuple[int, int]:
    return (size_px - height) // 2, (size_px - width) // 2


def _pad(image: NDArray[np.uint8], size_px: int) -> NDArray[np.uint8]:
    height, width, channels = image.shape
    if (height, width) == (size_px, size_px):
        return image
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    padded = np.empty((size_px, size_px, channels), dtype=np.uint8)
    padded[:] = np.median(border, axis=0).astype(np.uint8)
    top, left = _offset(height, width, size_px)
    padded[top : top + height, left : left + width] = image
    return padded


def _centre(mask: NDArray[np.bool_], size_px: int) -> NDArray[np.bool_]:
    height, width = mask.shape
    centred = np.zeros((size_px, size_px), dtype=np.bool_)
    top, left = _offset(height, width, size_px)
    centred[top : top + height, left : left + width] = mask
    return centred
