"""One yes/no question put to a set of pictures, and every metric of its answers."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.metrics.bootstrap import (
    Float64Array,
    IntArray,
    interval_or_reason,
    once_each,
    patients_lacking,
)
from common.metrics.calibration import brier_score, expected_calibration_error
from common.metrics.confusion import Confusion
from common.metrics.estimate import Estimate, finite_or_none, joined
from common.metrics.ranking import auprc, auroc

DECISION_METRICS = (
    "accuracy",
    "balanced_accuracy",
    "precision",
    "sensitivity",
    "specificity",
    "f1",
)
RANKING_METRICS = ("auroc", "auprc")
CALIBRATION_METRICS = ("calibration_error", "brier")
METRICS = (*DECISION_METRICS, *RANKING_METRICS, *CALIBRATION_METRICS)


@dataclass(frozen=True, eq=False)
class BinaryQuestion:
    """The n pictures of a set of N for which the answer to one question is known."""

    name: str
    rows: NDArray[np.intp]  # into the set, (n,)
    probabilities: Float64Array  # of yes, (n,); a diverged model's may be not finite
    truths: Float64Array  # 0 or 1, (n,)
    patients: IntArray  # (n,)
    threshold: float  # yes is said from this probability on
    needed: int  # fewest patients on either side for an interval

    @property
    def positives(self) -> int:
        """Pictures whose true answer is yes."""
        return int(self.truths.sum())

    @property
    def positive_patients(self) -> int:
        """Patients with such a picture."""
        return len(np.unique(self.patients[self.truths == 1]))

    @property
    def is_finite(self) -> bool:
        """Whether the model gave usable probabilities."""
        return bool(np.isfinite(self.probabilities).all())

    @property
    def has_both_answers(self) -> bool:
        """Whether every metric is defined."""
        return self.is_finite and 0 < self.positives < self.truths.size

    @property
    def lack(self) -> str:
        """Why there can be no interval, "" if there can.

        Negative patients are needed as positive ones are: specificity and AUROC over three
        healthy patients would seem far surer than they are.
        """
        negative = len(np.unique(self.patients[self.truths == 0]))
        return patients_lacking(
            "positive patients", present=self.positive_patients, needed=self.needed
        ) or patients_lacking("negative patients", present=negative, needed=self.needed)

    def statistics(self, weights: Float64Array) -> Float64Array:
        """Return the values of ``METRICS`` for weights of the whole set, (R, N) -> (R, M)."""
        weights = weights[:, self.rows]
        if not self.is_finite:
            return np.full((len(weights), len(METRICS)), np.nan)
        said_yes = self.probabilities >= self.threshold
        values = [
            *_decision_and_ranking(said_yes, self.probabilities, self.truths, weights),
            expected_calibration_error(self.probabilities, self.truths, weights),
            brier_score(self.probabilities, self.truths, weights),
        ]
        return np.stack(values, axis=1)

    def majority(self) -> dict[str, float]:
        """Return the decision and ranking metrics of giving every picture the commoner answer."""
        constant = np.full(self.truths.size, self.truths.mean())
        weights = once_each(self.truths.size)
        values = _decision_and_ranking(constant > 0.5, constant, self.truths, weights)
        names = (*DECISION_METRICS, *RANKING_METRICS)
        return {name: float(value[0]) for name, value in zip(names, values, strict=True)}

    def chance(self) -> dict[str, float]:
        """Return what knowing only the share of yes gives, for the metrics where that means much.

        Accuracy of the commoner answer; precision and AUPRC of answering at random; Brier score
        of always stating the share.
        """
        if self.truths.size == 0:
            return {}
        share = float(self.truths.mean())
        return {
            "accuracy": max(share, 1 - share),
            "balanced_accuracy": 0.5,
            "precision": share,
            "auroc": 0.5,
            "auprc": share,
            "brier": share * (1 - share),
        }

    def estimates(self, values: Float64Array, drawn: Float64Array) -> dict[str, Estimate]:
        """Return ``METRICS`` with what they rest on, from values (M,) and replicates (R, M)."""
        chance = self.chance()
        said_no_yes = not (self.probabilities >= self.threshold).any()
        estimates = {}
        for m, metric in enumerate(METRICS):
            value = finite_or_none(values[m])
            low, high, why_not = interval_or_reason(drawn[:, m], self.lack)
            note = why_not
            if value is None:
                low, high, note = None, None, self._why_undefined()
            elif metric == "precision" and said_no_yes:
                note = joined("0 by convention: nothing was predicted positive", why_not)
            estimates[metric] = Estimate(
                value=value,
                low=low,
                high=high,
                support=self.truths.size,
                positives=self.positives,
                positive_patients=self.positive_patients,
                chance=chance.get(metric),
                note=note,
            )
        return estimates

    def _why_undefined(self) -> str:
        if self.truths.size == 0:
            return "not defined: no picture with a known label"
        if not self.is_finite:
            return "not defined: the model's output is not finite"
        return f"not defined: no {'negative' if self.positives else 'positive'} picture"


def _decision_and_ranking(
    said_yes: NDArray[np.bool_], scores: Float64Array, truths: Float64Array, weights: Float64Array
) -> list[Float64Array]:
    counts = Confusion.of(said_yes, truths, weights)
    return [
        counts.accuracy,
        counts.balanced_accuracy,
        counts.precision,
        counts.sensitivity,
        counts.specificity,
        counts.f1,
        auroc(scores, truths, weights),
        auprc(scores, truths, weights),
    ]
