"""Is a picture unlike those that the model was calibrated on?

Pictures are compared by what the network's local tokens hold on average. Lee et al. 2018,
arXiv:1807.03888, section 2.1: the Mahalanobis distance to a Gaussian of known pictures; here to one
Gaussian of all of them, as findings overlap, with the covariance shrunk by Ledoit and Wolf 2004,
doi:10.1016/S0047-259X(03)00096-4, as there may be fewer pictures than features.

Chosen by measurement on generated chest X-rays and fundi (tests/benchmarks/coverage.py), 36 known
pictures, at a limit that calls 1 in 100 ordinary ones novel: of pictures with one half masked
100 %, the 5th nearest neighbour (Sun et al. 2022, arXiv:2204.06507) 99 and 0 %; with heavy noise
100 % against 77 and 0 %; of another task, inverted, black, or noise alone both 100 %. Neither sees
that a fundus is upside down, which says what novelty is about: what is in a picture, not where.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.errors import DataError
from common.metrics.bootstrap import Float64Array, IntArray
from common.metrics.conformal import threshold

ORDINARY_SHARE = 0.99  # of ordinary pictures that should not be called novel
FEWEST_PATIENTS = 20  # below this the largest distance seen says little
FOLDS = 10


@dataclass(frozen=True, eq=False)
class Familiar:
    """The features of known pictures as one Gaussian."""

    mean: NDArray[np.float32]  # (d,)
    whitening: NDArray[np.float32]  # (d, d); (x - mean) @ whitening has unit covariance

    def distance(self, features: NDArray[np.floating]) -> Float64Array:
        """Return the Mahalanobis distance of each row, (N, d) → (N,), divided by √d.

        About 1 for a picture like the known ones, whatever the number of features.
        """
        whitened = (features.astype(np.float64) - self.mean) @ self.whitening
        distances: Float64Array = np.sqrt(np.mean(whitened**2, axis=1))
        return distances


@dataclass(frozen=True)
class NoveltyLimit:
    """From which distance on a picture is called novel."""

    value: float
    expected_share: float  # of ordinary pictures that are called novel all the same


def fit_familiar(features: NDArray[np.floating]) -> Familiar:
    """Describe known pictures by their features, (N, d), N ≥ 2."""
    # A second to load, which predicting alone need not wait for.
    from sklearn.covariance import LedoitWolf  # noqa: PLC0415

    covariance = LedoitWolf().fit(features.astype(np.float64))
    values, vectors = np.linalg.eigh(covariance.covariance_)
    # Features that never vary (a dead channel) have no shrunk variance only if nothing varies.
    scales = 1 / np.sqrt(np.maximum(values, np.finfo(np.float32).eps * max(values.max(), 1e-12)))
    return Familiar(
        mean=covariance.location_.astype(np.float32),
        whitening=(vectors * scales).astype(np.float32),
    )


def novelty_limit(
    features: NDArray[np.floating], patients: IntArray, *, rng: np.random.Generator
) -> NoveltyLimit:
    """Return the distance that one in a hundred ordinary pictures exceeds.

    A picture's own part in the Gaussian would bring it nearer: every patient's pictures are
    measured against a Gaussian of the other patients, in up to ten folds. Of each patient the
    farthest picture counts. With fewer than 99 patients the largest distance is the limit, which
    one in (patients + 1) exceeds.

    Args:
        features: (N, d).
        patients: Code of each picture, (N,).
        rng: Draws the folds.

    Raises:
        DataError: There are fewer than ``FEWEST_PATIENTS`` patients.
    """
    codes, of_picture = np.unique(patients, return_inverse=True)
    if len(codes) < FEWEST_PATIENTS:
        raise DataError(
            f"a limit to what is novel needs {FEWEST_PATIENTS} patients, got {len(codes)}. Enlarge "
            "the calibration part."
        )
    fold = (rng.permutation(len(codes)) % FOLDS)[of_picture]
    distances = np.empty(len(features))
    for number in range(FOLDS):
        held = fold == number
        distances[held] = fit_familiar(features[~held]).distance(features[held])
    farthest = np.zeros(len(codes))
    np.maximum.at(farthest, of_picture, distances)
    found = threshold(farthest, coverage=ORDINARY_SHARE)
    if found is None:
        return NoveltyLimit(float(farthest.max()), 1 / (len(codes) + 1))
    return NoveltyLimit(found, 1 - ORDINARY_SHARE)
