"""How surely a sign goes with an answer, and whether it still does: Spearman over patients.

The correlation of :func:`common.metrics.association.association`, with a bootstrap over patients.
"""

import numpy as np
from numpy.typing import NDArray

from common.errors import DataError
from common.metrics.bootstrap import (
    Float64Array,
    IntArray,
    Statistic,
    bootstrap,
    interval_or_reason,
    once_each,
    patients_lacking,
    ratio,
)
from common.metrics.estimate import Estimate, finite_or_none, joined

FEWEST_PICTURES = 3  # through two points a line always goes
ALL_ALIKE = "not defined: all alike in these pictures, or not finite"


def association_estimates(
    signs: NDArray[np.floating],
    answers: NDArray[np.floating],
    patients: IntArray,
    *,
    replicates: int,
    min_patients: int,
    rng: np.random.Generator,
) -> tuple[tuple[Estimate, ...], ...]:
    """Return Spearman's rank correlation of each sign with each answer, K tuples of T estimates.

    Every replicate is ranked anew, ties sharing their mean rank. All pairs see the same replicates.

    Args:
        signs: (N, K) probabilities, or anything that rises with them.
        answers: (N, T) of the same pictures.
        patients: Patient code of each picture, (N,).
        replicates: Of the bootstrap over patients; 0 for no interval.
        min_patients: Fewest patients for an interval.
        rng: Source of the bootstrap's draws.

    Returns values in [-1, 1], chance 0; ``support`` counts pictures, ``positive_patients`` is None.
    A pair of which one side is the same in all pictures, or not finite in one, has no value.

    Raises:
        DataError: The three are not of the same pictures.
    """
    _check(signs, answers, patients)

    def correlations(weights: Float64Array) -> Float64Array:
        return weighted_spearman(signs, answers, weights)

    return _estimates(
        correlations,
        patients,
        shape=(signs.shape[1], answers.shape[1]),
        replicates=replicates,
        min_patients=min_patients,
        rng=rng,
    )


def association_changes(
    before: tuple[NDArray[np.floating], NDArray[np.floating]],
    now: tuple[NDArray[np.floating], NDArray[np.floating]],
    patients: IntArray,
    *,
    replicates: int,
    min_patients: int,
    rng: np.random.Generator,
) -> tuple[tuple[Estimate, ...], ...]:
    """Return the correlation of one model less that of an earlier one, picture by picture.

    Both are computed in the same replicates, so that what the drawing of patients moves in both
    does not count as a change.

    Args:
        before: Signs (N, K) and answers (N, T) of the earlier model.
        now: Those of the later one, of the same pictures.
        patients: Patient code of each picture, (N,).
        replicates: Of the bootstrap over patients; 0 for no interval.
        min_patients: Fewest patients for an interval.
        rng: Source of the bootstrap's draws.

    Returns values in [-2, 2], chance 0, as :func:`association_estimates` does.

    Raises:
        DataError: They are not of the same pictures.
    """
    for signs, answers in (before, now):
        _check(signs, answers, patients)

    def changes(weights: Float64Array) -> Float64Array:
        return weighted_spearman(*now, weights) - weighted_spearman(*before, weights)

    return _estimates(
        changes,
        patients,
        shape=(now[0].shape[1], now[1].shape[1]),
        replicates=replicates,
        min_patients=min_patients,
        rng=rng,
    )


def weighted_spearman(
    first: NDArray[np.floating], second: NDArray[np.floating], weights: Float64Array
) -> Float64Array:
    """Return the rank correlation of each pair of columns for each row of weights, (R, K, T).

    With ``w_m`` copies of picture m, its rank is the number of copies below it plus half of one
    more than its own copies and those tied with it: the mean rank of a sample with the copies
    written out. Then Pearson's correlation of the ranks over the copies (Spearman 1904,
    https://doi.org/10.2307/1412159).

    Args:
        first: (N, K).
        second: (N, T).
        weights: Whole numbers, (R, N).

    Returns NaN where a side has one value only, or one that is not finite.
    """
    if len(first) < FEWEST_PICTURES:
        return np.full((len(weights), first.shape[1], second.shape[1]), np.nan)
    copies = np.sqrt(weights)
    signs = np.stack([_standardised(column, copies) for column in first.T], axis=1)  # (R, K, N)
    # Answers one by one: all of them at once would be gigabytes for a large set.
    found = [signs @ _standardised(column, copies)[:, :, None] for column in second.T]
    limited: Float64Array = np.clip(np.concatenate(found, axis=2), -1.0, 1.0)
    return limited


def _standardised(values: NDArray[np.floating], copies: Float64Array) -> Float64Array:
    """Return √w times the centred ranks of one column, of length 1 in each row of √w, (R, N)."""
    if not np.isfinite(values).all():
        return np.full(copies.shape, np.nan)
    distinct, group = np.unique(values.astype(np.float64), return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.arange(len(distinct)))
    tied = np.add.reduceat(copies[:, order] ** 2, starts, axis=1)  # (R, distinct values)
    # Twice the ranks less the number of copies, which centres them: whole numbers, so that values
    # that are all alike leave exactly nothing.
    total = tied.sum(axis=1, keepdims=True).round()
    centred = (2 * np.cumsum(tied, axis=1) - tied).round() - total
    spread = copies * centred[:, group]  # (R, N)
    length = np.sqrt(np.einsum("rn,rn->r", spread, spread))
    return ratio(spread, length[:, None])


def _estimates(
    statistic: Statistic,
    patients: IntArray,
    *,
    shape: tuple[int, int],
    replicates: int,
    min_patients: int,
    rng: np.random.Generator,
) -> tuple[tuple[Estimate, ...], ...]:
    values = statistic(once_each(len(patients)))[0]  # (K, T)
    lack = patients_lacking("patients", present=len(np.unique(patients)), needed=min_patients)
    drawn = np.empty((0, *shape))
    if replicates and not lack and np.isfinite(values).any():
        drawn = bootstrap(statistic, patients, replicates=replicates, rng=rng)
    return tuple(
        tuple(
            _estimate(float(values[k, t]), drawn[:, k, t], len(patients), lack)
            for t in range(shape[1])
        )
        for k in range(shape[0])
    )


def _estimate(value: float, drawn: Float64Array, pictures: int, lack: str) -> Estimate:
    is_defined = bool(np.isfinite(value))
    low, high, why_not = interval_or_reason(drawn, lack) if is_defined else (None, None, ALL_ALIKE)
    return Estimate(
        value=finite_or_none(value),
        low=low,
        high=high,
        support=pictures,
        positives=None,
        positive_patients=None,
        chance=0.0,
        note=joined(why_not),
    )


def _check(signs: NDArray[np.floating], answers: NDArray[np.floating], patients: IntArray) -> None:
    if signs.ndim != 2 or answers.ndim != 2 or not len(signs) == len(answers) == len(patients):
        raise DataError(
            f"signs {signs.shape} and answers {answers.shape} must be (N, K) and (N, T) of the "
            f"same N pictures, of {len(patients)} patients' pictures. Give those of one set."
        )
