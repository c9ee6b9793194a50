"""Areas under the ROC and precision-recall curves for many sets of picture weights at once."""

from dataclasses import dataclass

import numpy as np

from common.metrics.bootstrap import Float64Array, ratio


@dataclass(frozen=True, eq=False)
class _ScoreGroups:
    """Weight of the positives and negatives at each distinct score, scores ascending."""

    positive: Float64Array  # (R, G)
    negative: Float64Array  # (R, G)


def auroc(scores: Float64Array, truths: Float64Array, weights: Float64Array) -> Float64Array:
    """Area under the ROC curve: how often a positive scores above a negative, ties counting half.

    The weighted Mann-Whitney form (Hanley & McNeil 1982, doi:10.1148/radiology.143.1.7063747).

    Args:
        scores: shape (N,).
        truths: 0 or 1, shape (N,).
        weights: at least 0, shape (R, N).

    Returns:
        Shape (R,), NaN where a row has no positive or no negative.
    """
    if scores.size == 0:
        return np.full(len(weights), np.nan)
    groups = _grouped(scores, truths, weights)
    below = np.cumsum(groups.negative, axis=1) - groups.negative / 2  # negatives beaten, (R, G)
    won = np.sum(groups.positive * below, axis=1)
    return ratio(won, groups.positive.sum(axis=1) * groups.negative.sum(axis=1))


def auprc(scores: Float64Array, truths: Float64Array, weights: Float64Array) -> Float64Array:
    """Area under the precision-recall curve as average precision, without interpolation.

    Sum over distinct scores of (recall gained there) x (precision there); linear interpolation
    would be too optimistic (Davis & Goadrich 2006, doi:10.1145/1143844.1143874).

    Args:
        scores: shape (N,).
        truths: 0 or 1, shape (N,).
        weights: at least 0, shape (R, N).

    Returns:
        Shape (R,), NaN where a row has no positive or no negative.
    """
    if scores.size == 0:
        return np.full(len(weights), np.nan)
    groups = _grouped(scores, truths, weights)
    found = np.cumsum(groups.positive[:, ::-1], axis=1)[:, ::-1]  # at this score or above
    called = found + np.cumsum(groups.negative[:, ::-1], axis=1)[:, ::-1]
    precision = np.nan_to_num(ratio(found, called))  # a group of weight 0 gains no recall either
    area = ratio(np.sum(groups.positive * precision, axis=1), groups.positive.sum(axis=1))
    return np.where(groups.negative.sum(axis=1) > 0, area, np.nan)


def _grouped(scores: Float64Array, truths: Float64Array, weights: Float64Array) -> _ScoreGroups:
    """Add up the weights of equal scores, so that ties need no further thought."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))
    positive = weights[:, order] * truths[order]
    negative = weights[:, order] - positive
    return _ScoreGroups(
        positive=np.add.reduceat(positive, starts, axis=1),  # (R, N) -> (R, G)
        negative=np.add.reduceat(negative, starts, axis=1),
    )
