"""How much the logit drops when a region is taken out of the picture, and an equal one elsewhere.

A lesion that the model relies on costs more to take out than the same shape laid down somewhere
else. The region is filled in from its surroundings, so that what was there cannot shine through.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from common.errors import DataError
from common.machine.seed import derive_seed
from common.metrics.bootstrap import Float64Array
from common.metrics.geometry import BoolArray, brightest, dilated, shifted_overlaps

PLACEMENTS = 8  # of the same shape elsewhere
AT_ONCE = 32  # pictures of one forward pass

Score = Callable[[Tensor], Tensor]  # pictures (B, 3, H, W) -> logits (B,)


@dataclass(frozen=True, eq=False)
class RegionDrop:
    """Logits lost by B pictures; NaN where there is nothing to take out or no place for it."""

    inside: Float64Array  # (B,) the region itself is filled in
    elsewhere: Float64Array  # (B,) mean over the same shape at other places
    placements: tuple[int, ...]  # how many other places there were, at most as many as asked for


def region_drop(
    score: Score,
    images: Tensor,
    regions: BoolArray,
    *,
    seed: int,
    placements: int = PLACEMENTS,
    at_once: int = AT_ONCE,
) -> RegionDrop:
    """Fill in each picture's region, then the same shape at places that do not touch the region.

    Costs at most 2 + placements forward passes per picture. The shape is only moved, and lies
    wholly within the picture. Where that cannot be, as with lesions scattered over the picture, it
    wraps around the borders, as chance does for localisation; where even then it would touch the
    region everywhere, there is no such place.

    Args:
        score: Asked without gradients; a network behind it should be in evaluation mode.
        images: (B, 3, H, W).
        regions: (B, H, W) bool.
        seed: Draws the places out of all that are possible.
        placements: How many of them.
        at_once: Pictures of one forward pass.

    Raises:
        DataError: Pictures and regions do not belong together.
    """
    if images.ndim != 4 or regions.shape != (len(images), *images.shape[-2:]):
        raise DataError(
            f"pictures (B, 3, H, W) and one region (H, W) for each are needed, got "
            f"{tuple(images.shape)} and {regions.shape}."
        )
    shapes = [_shapes(region, placements=placements, seed=seed) for region in regions]
    rows = torch.tensor([row for row, found in enumerate(shapes) for _ in found], dtype=torch.long)
    filled = [torch.empty(0, dtype=torch.float64)]
    with torch.no_grad():
        whole = torch.cat([score(part).double().cpu() for part in torch.split(images, at_once)])
        masks = torch.from_numpy(np.array([mask for found in shapes for mask in found], dtype=bool))
        # Where no picture has a region there is nothing to split: torch would give one empty part.
        for chosen in torch.split(torch.arange(len(rows)), at_once) if len(rows) else ():
            pictures = inpainted(images[rows[chosen]], masks[chosen].to(images.device))
            filled.append(score(pictures).double().cpu())
    drops = (whole[rows] - torch.cat(filled)).numpy()
    inside, elsewhere = np.full(len(images), np.nan), np.full(len(images), np.nan)
    for picture, found in enumerate(shapes):
        own = drops[rows.numpy() == picture]
        if len(found):
            inside[picture] = own[0]
        if len(found) > 1:
            elsewhere[picture] = own[1:].mean()
    return RegionDrop(inside, elsewhere, tuple(max(0, len(found) - 1) for found in shapes))


def strongest_region(saliency: Tensor, *, share: float) -> BoolArray:
    """Return the highest pixels of each map, (B, H, W) -> (B, H, W) bool, ``share`` of the picture.

    Pixels tied at the border are left out, so a flat map has no region, nor has an empty one.
    """
    maps = saliency.detach().cpu().double().numpy()
    area_px = max(1, round(share * maps[0].size)) if len(maps) else 1
    chosen = [
        brightest(values, area_px) >= 1 if values.max() > 0 else np.zeros(values.shape, np.bool_)
        for values in maps
    ]
    return np.array(chosen, dtype=np.bool_).reshape(maps.shape)


def inpainted(images: Tensor, regions: Tensor) -> Tensor:
    """Return pictures whose region is filled in from its surroundings.

    Pull-push (Gortler et al. 1996, "The Lumigraph", section 3.4): means of what is known, taken at
    ever coarser scales until every place has one, then spread back. Nothing of the region's own
    content is left, unlike in a blurred copy. A region that is the whole picture becomes 0.

    Args:
        images: (B, C, H, W).
        regions: (B, H, W) bool.
    """
    known = (~regions)[:, None].to(images.dtype)
    return torch.where(regions[:, None], _filled(images * known, known), images)


def _filled(sums: Tensor, weights: Tensor) -> Tensor:
    """Fill in where the weight is below 1; ``sums`` (B, C, H, W) are values times weights."""
    if max(sums.shape[-2:]) == 1:
        return sums / weights.clamp(min=torch.finfo(weights.dtype).tiny)
    coarse = _filled(
        *(functional.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)
          for x in (sums, weights))
    )  # fmt: skip
    size = (sums.shape[-2], sums.shape[-1])
    return sums + (1 - weights) * functional.interpolate(coarse, size=size, mode="bilinear")


def _shapes(region: BoolArray, *, placements: int, seed: int) -> list[BoolArray]:
    """Return the region and the same shape at other places; nothing for an empty region."""
    if not region.any():
        return []
    rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
    height, width = region.shape
    touched = shifted_overlaps(region.astype(np.float64), dilated(region, 1))
    is_free = touched < 0.5  # by shift; negative ones count from the end
    stays = np.zeros_like(is_free)
    down = np.arange(-rows[0], height - rows[-1])
    across = np.arange(-columns[0], width - columns[-1])
    stays[np.ix_(down, across)] = True
    places = np.argwhere(is_free & stays)
    if not len(places):
        places = np.argwhere(is_free)
    rng = np.random.default_rng(derive_seed(seed, "placements"))
    chosen = rng.permutation(len(places))[:placements]
    moved = [np.roll(region, (y, x), axis=(0, 1)) for y, x in places[chosen]]
    return [region, *moved]
