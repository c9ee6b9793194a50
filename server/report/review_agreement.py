"""How far readers agree, and whether their judgement goes with what was measured. Pure.

Items are what readers judge (one map of one finding in one picture); intervals come from a
bootstrap over pictures, for items of one picture are not independent.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from common.metrics.bootstrap import (
    bootstrap,
    interval_or_reason,
    once_each,
    patients_lacking,
    ratio,
)
from common.metrics.estimate import Estimate, finite_or_none

FloatArray = NDArray[np.float64]

LEVELS = 3  # no, partly, yes
FEWEST_PICTURES = 10  # below it an interval would promise more than it holds


def weighted_kappa(judged: FloatArray, weights: FloatArray) -> FloatArray:
    """Return the quadratically weighted kappa of readers, for each row of weights.

    Cohen 1968, doi:10.1037/h0026256, for a pair of readers over the items both have judged; with
    more than two readers the mean over pairs for which it is defined (Light 1971,
    doi:10.1037/h0031643). 1 is full agreement, 0 what chance gives.

    Args:
        judged: levels 0 to 2 of each reader and item, NaN where not judged, shape (readers, N).
        weights: how often each item counts, shape (R, N).

    Returns:
        Shape (R,), NaN where no pair has two items that differ.
    """
    pairs = [
        _pair_kappa(judged[first], judged[second], weights)
        for first in range(len(judged))
        for second in range(first + 1, len(judged))
    ]
    if not pairs:
        return np.full(len(weights), np.nan)
    values = np.stack(pairs)
    defined = np.isfinite(values)
    count = defined.sum(axis=0)
    total = np.where(defined, values, 0).sum(axis=0)
    return ratio(total, count.astype(np.float64))


def _pair_kappa(first: FloatArray, second: FloatArray, weights: FloatArray) -> FloatArray:
    both = np.isfinite(first) & np.isfinite(second)
    a, b, w = first[both], second[both], weights[:, both]
    levels = np.arange(LEVELS)
    # (N, levels): which level each reader chose; then (R, levels, levels): how often which pair.
    chose_a, chose_b = a[:, None] == levels, b[:, None] == levels
    table = np.einsum("rn,ni,nj->rij", w, chose_a, chose_b)
    cost = (levels[:, None] - levels[None, :]) ** 2.0
    expected = np.einsum("ri,rj->rij", table.sum(axis=2), table.sum(axis=1))
    total = table.sum(axis=(1, 2))
    seen, by_chance = (table * cost).sum(axis=(1, 2)) * total, (expected * cost).sum(axis=(1, 2))
    return 1 - ratio(seen, by_chance)


def rank_correlation(x: FloatArray, y: FloatArray, weights: FloatArray) -> FloatArray:
    """Return Spearman's rank correlation for each row of weights (whole numbers), shape (R,).

    Ties share their mean rank; NaN where fewer than two values differ. ``x``, ``y``: shape (N,).
    """
    return np.array([_spearman(x, y, row) for row in weights])


def _spearman(x: FloatArray, y: FloatArray, copies: FloatArray) -> float:
    drawn = np.repeat(np.arange(len(x)), copies.astype(int))
    ranks = [rankdata(values[drawn]) for values in (x, y)] if len(drawn) else [np.zeros(0)] * 2
    spread = [values - values.mean() if len(values) else values for values in ranks]
    size = float(np.sqrt((spread[0] ** 2).sum() * (spread[1] ** 2).sum()))
    return float((spread[0] * spread[1]).sum() / size) if size > 0 else float("nan")


def weighted_mean(values: FloatArray, weights: FloatArray) -> FloatArray:
    """Return the mean of values (N,) for each row of weights (R, N), NaN where none counts."""
    return ratio(weights @ values, weights.sum(axis=1))


def estimated(
    statistic: Callable[[FloatArray], FloatArray],
    pictures: Sequence[str],
    *,
    chance: float | None,
    replicates: int,
    seed: int,
) -> Estimate:
    """Return a statistic with its interval by bootstrap over pictures.

    Args:
        statistic: maps weights (R, N) to values (R,).
        pictures: which picture each of the N items or reviews belongs to.
        chance: what chance gives, None where that means nothing.
        replicates: draws of the bootstrap.
        seed: of the draws.
    """
    names, codes = np.unique(np.array(pictures, dtype=str), return_inverse=True)
    value = finite_or_none(float(statistic(once_each(len(codes)))[0])) if len(codes) else None
    lack = patients_lacking("pictures", present=len(names), needed=FEWEST_PICTURES)
    if value is None:
        return Estimate(
            None, None, None, len(codes), None, None, chance, "not defined: nothing to compare"
        )
    values = np.zeros(0)
    if not lack:
        rng = np.random.default_rng(seed)
        values = bootstrap(statistic, codes, replicates=replicates, rng=rng)
    low, high, note = interval_or_reason(values, lack)
    if low is not None and low == high:
        # Nothing varies in the sample; that says nothing of the next picture.
        low, high, note = None, None, "no interval: all alike"
    return Estimate(value, low, high, len(codes), None, None, chance, note)
