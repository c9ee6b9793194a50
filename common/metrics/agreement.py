"""Do two explanation methods name the same places? Guards against evidence that is only said.

A map that is built into a model can look right while the model looks elsewhere. A method that
looks at the model from outside cannot be talked into that: where the two agree, both are believed
more. Agreement is no proof, as methods share weaknesses; disagreement is a warning.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata
from torch import Tensor

from common.errors import DataError
from common.metrics.bootstrap import Float64Array, IntArray
from common.metrics.estimate import Estimate
from common.metrics.geometry import area_means, brightest
from common.metrics.mean_estimate import mean_estimate

TOP_SHARE = 0.1  # of the picture: the places that a reader would look at first


@dataclass(frozen=True, eq=False)
class Agreement:
    """How far two maps of each of B pictures agree; NaN where one is the same everywhere or NaN.

    A map without positive evidence names no place, so it can neither agree nor disagree.
    """

    spearman: Float64Array  # (B,) rank correlation over cells, -1..1; 0 by chance
    top_iou: Float64Array  # (B,) overlap of the strongest places, 0..1
    top_iou_chance: float  # of two such regions laid down independently


def agreement(first: Tensor, second: Tensor, *, top_share: float = TOP_SHARE) -> Agreement:
    """Compare maps cell by cell on the coarser of their grids.

    Args:
        first: (B, h, w).
        second: (B, h', w') of the same pictures.
        top_share: Share of the cells that count as the strongest, in (0, 1]; at least one cell.

    Raises:
        DataError: The maps are not of equally many pictures.
    """
    one, other = on_coarser_grid(first, second)
    cells = one[0].size if len(one) else 1
    area = max(1, round(top_share * cells))
    overlaps = [_top_iou(a, b, area) for a, b in zip(one, other, strict=True)]
    share = area / cells
    return Agreement(
        spearman=rank_correlation(one.reshape(len(one), -1), other.reshape(len(other), -1)),
        top_iou=np.array(overlaps, dtype=np.float64),
        top_iou_chance=share / (2 - share),
    )


def agreement_estimates(
    measured: Agreement,
    patients: IntArray,
    *,
    replicates: int,
    min_patients: int,
    rng: np.random.Generator,
) -> dict[str, Estimate]:
    """Return ``spearman`` and ``top_iou`` averaged over pictures; see :func:`mean_estimate`."""
    chances = {"spearman": 0.0, "top_iou": measured.top_iou_chance}
    return {
        name: mean_estimate(
            getattr(measured, name),
            patients,
            replicates=replicates,
            min_patients=min_patients,
            rng=rng,
            chance=chance,
        )
        for name, chance in chances.items()
    }


def rank_correlation(first: Float64Array, second: Float64Array) -> Float64Array:
    """Return Spearman's rank correlation of each pair of rows, (N, C) and (N, C) -> (N,).

    Tied values share their mean rank. NaN where a row has one value only.
    """
    ranks = [rankdata(values, axis=1) for values in (first, second)]
    one, other = (rank - rank.mean(axis=1, keepdims=True) for rank in ranks)
    size = np.sqrt((one**2).sum(axis=1) * (other**2).sum(axis=1))
    correlation = np.full(len(first), np.nan)
    np.divide((one * other).sum(axis=1), size, out=correlation, where=size > 0)
    return correlation


def on_coarser_grid(first: Tensor, second: Tensor) -> tuple[Float64Array, Float64Array]:
    """Return both maps as means over the cells of the coarser grid, (B, rows, columns) each.

    Raises:
        DataError: The maps are not (B, h, w) of equally many pictures.
    """
    if first.ndim != 3 or second.ndim != 3 or len(first) != len(second):
        raise DataError(
            f"maps (B, h, w) of the same pictures are needed, got shapes {tuple(first.shape)} and "
            f"{tuple(second.shape)}. Compare the maps of one logit at a time."
        )
    rows, columns = (min(first.shape[axis], second.shape[axis]) for axis in (1, 2))
    one, other = (
        area_means(maps.detach().cpu().double().numpy(), rows, columns) for maps in (first, second)
    )
    return one, other


def _top_iou(first: Float64Array, second: Float64Array, area: int) -> float:
    """Return the IoU of the ``area`` strongest cells; cells tied at the border count in part."""
    if not (np.ptp(first) > 0 and np.ptp(second) > 0):  # NaN too
        return float("nan")
    one, other = brightest(first, area), brightest(second, area)
    return float(np.minimum(one, other).sum() / np.maximum(one, other).sum())
