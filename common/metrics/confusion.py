"""Metrics of yes/no decisions from their four counts, for many sets of picture weights at once."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.metrics.bootstrap import Float64Array, ratio


@dataclass(frozen=True, eq=False)
class Confusion:
    """Weighted counts of right and wrong decisions, each of shape (R,).

    A metric is NaN in rows where the class it speaks of is absent: without a positive there is no
    sensitivity, precision, F1; without a negative no specificity; balanced accuracy needs both.
    """

    true_positive: Float64Array
    false_positive: Float64Array
    true_negative: Float64Array
    false_negative: Float64Array

    @classmethod
    def of(
        cls, decisions: NDArray[np.bool_], truths: Float64Array, weights: Float64Array
    ) -> "Confusion":
        """Count decisions (N,) against truths 0/1 (N,) under weights (R, N)."""
        is_positive = truths > 0.5
        cells = np.stack(
            [
                decisions & is_positive,
                decisions & ~is_positive,
                ~decisions & ~is_positive,
                ~decisions & is_positive,
            ],
            axis=1,
        )  # (N, 4)
        return cls(*(weights @ cells.astype(np.float64)).T)

    @property
    def accuracy(self) -> Float64Array:
        """Share of right decisions."""
        right = self.true_positive + self.true_negative
        return ratio(right, right + self.false_positive + self.false_negative)

    @property
    def sensitivity(self) -> Float64Array:
        """Share of the positives that were called."""
        return ratio(self.true_positive, self.true_positive + self.false_negative)

    @property
    def specificity(self) -> Float64Array:
        """Share of the negatives that were left alone."""
        return ratio(self.true_negative, self.true_negative + self.false_positive)

    @property
    def balanced_accuracy(self) -> Float64Array:
        """Mean of sensitivity and specificity."""
        return (self.sensitivity + self.specificity) / 2

    @property
    def precision(self) -> Float64Array:
        """Share of the calls that were right; 0, the usual convention, where nothing was called."""
        called = self.true_positive + self.false_positive
        share = np.nan_to_num(ratio(self.true_positive, called))
        return np.where(self.true_positive + self.false_negative > 0, share, np.nan)

    @property
    def f1(self) -> Float64Array:
        """Harmonic mean of precision and sensitivity."""
        doubled = 2 * self.true_positive
        score = ratio(doubled, doubled + self.false_positive + self.false_negative)
        return np.where(self.true_positive + self.false_negative > 0, score, np.nan)
