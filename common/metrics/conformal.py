"""Split conformal prediction: sets of answers with a coverage that pictures can be counted for.

Vovk et al. 2005, Algorithmic Learning in a Random World; Angelopoulos and Bates 2021,
arXiv:2107.07511, section 1; for each answer by itself Vovk 2012, arXiv:1209.2673 (label-
conditional), Sadinle et al. 2019, doi:10.1080/01621459.2017.1395341.

An answer's nonconformity is one minus the probability that the model gives it. Of n calibration
pictures with one nonconformity of the right answer each, the threshold is the ceil((n + 1)
coverage)-th smallest; a new picture's right answer is then within it with a probability of at
least ``coverage``, as long as the new picture is exchangeable with these n. Nothing holds for
pictures from elsewhere. The probability is over the calibration pictures too: those that one has
may have been lucky, see :func:`coverage_floor`.
"""

import math
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

from common.metrics.bootstrap import Float64Array, IntArray


def rank_of(pictures: int, *, coverage: float) -> int:
    """Return ceil((n + 1) coverage), which nonconformity is the threshold, counted from 1.

    More than ``pictures``: they are too few for this coverage.
    """
    # As the decimal number that was written: 0.9 * 70 must not be rounded up past 63.
    return math.ceil((pictures + 1) * Fraction(str(coverage)))


def fewest_pictures(coverage: float) -> int:
    """Return how many calibration pictures a threshold of this coverage needs."""
    wanted = Fraction(str(coverage))
    return math.ceil(wanted / (1 - wanted))


def coverage_floor(pictures: int, *, coverage: float, doubt: float = 0.05) -> float:
    """Return the coverage that n calibration pictures fall short of with a chance of ``doubt``.

    Given the calibration pictures, the coverage of all new ones is Beta(k, n + 1 - k) distributed,
    k the rank of the threshold, where nonconformities are not tied: Vovk 2012, arXiv:1209.2673,
    section 3; Angelopoulos and Bates 2021, section 3.2. Ties only add to it.

    Args:
        pictures: n, at least :func:`fewest_pictures`.
        coverage: Wanted.
        doubt: In (0, 1).
    """
    rank = rank_of(pictures, coverage=coverage)
    return float(betaincinv(rank, pictures + 1 - rank, doubt))


def threshold(nonconformity: Float64Array, *, coverage: float) -> float | None:
    """Return the finite-sample quantile of the right answers' nonconformities, (n,).

    None where n is below :func:`fewest_pictures`.
    """
    rank = rank_of(len(nonconformity), coverage=coverage)
    if rank > len(nonconformity):
        return None
    return float(np.sort(nonconformity)[rank - 1])


def answer_sets(
    nonconformity: Float64Array, thresholds: Float64Array, *, is_ordered: bool
) -> NDArray[np.bool_]:
    """Say which answers cannot be ruled out, (N, A) → (N, A).

    A set may be empty: no answer fits as well as the right one does in nearly all calibration
    pictures. That is an answer too, "not sure: none fits".

    Args:
        nonconformity: Of every answer, (N, A), in [0, 1].
        thresholds: One per answer, (A,).
        is_ordered: The answers are grades. What lies between two members is then a member as well;
            a set only grows by that, and so does its coverage.
    """
    is_member: NDArray[np.bool_] = nonconformity <= thresholds
    if not is_ordered:
        return is_member
    up_to_here = np.logical_or.accumulate(is_member, axis=1)
    from_here = np.logical_or.accumulate(is_member[:, ::-1], axis=1)[:, ::-1]
    return up_to_here & from_here


def one_per_patient(patients: IntArray, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return one row of each patient, drawn evenly among the patient's rows, ascending.

    Pictures of one patient are not exchangeable with those of others; patients are.
    """
    order = rng.permutation(len(patients))
    _, first = np.unique(patients[order], return_index=True)
    return np.sort(order[first])
