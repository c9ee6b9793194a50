"""How unlike known pictures a picture is, and how often an ordinary one is called novel."""

import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import LedoitWolf

from common.errors import DataError
from common.metrics.novelty import fit_familiar, novelty_limit

D = 12


def features(pictures: int, *, seed: int, shift: float = 0.0) -> np.ndarray:
    """Features whose spread differs a hundredfold from direction to direction."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(0).standard_normal((D, D)) * np.geomspace(0.03, 3, D)
    return rng.standard_normal((pictures, D)) @ mixing.T + 5 + shift


def test_the_distance_is_scipy_s_mahalanobis_distance_over_the_root_of_the_features() -> None:
    known, seen = features(40, seed=1), features(5, seed=2)
    reference = LedoitWolf().fit(known)
    inverse = np.linalg.inv(reference.covariance_)
    expected = [mahalanobis(x, reference.location_, inverse) / np.sqrt(D) for x in seen]
    # float32 holds the mean and the whitening
    assert fit_familiar(known).distance(seen) == pytest.approx(expected, rel=1e-3)


def test_fewer_pictures_than_features_and_dead_features_do_no_harm() -> None:
    known = features(6, seed=1)
    known[:, 3] = 0.0
    distances = fit_familiar(known).distance(features(4, seed=2))
    assert np.isfinite(distances).all()
    alike = fit_familiar(np.ones((5, D)))
    assert alike.distance(np.ones((2, D))) == pytest.approx([0, 0])
    assert (alike.distance(np.full((1, D), 2.0)) > 10).all()


@pytest.mark.parametrize("patients", [30, 150])
def test_the_limit_calls_as_many_ordinary_pictures_novel_as_it_says(patients: int) -> None:
    shares, expected = [], 0.0
    for seed in range(12):
        known = features(patients, seed=seed)
        rng = np.random.default_rng(seed)
        limit = novelty_limit(known, np.arange(patients), rng=rng)
        expected = limit.expected_share
        fresh = fit_familiar(known).distance(features(2000, seed=100 + seed))
        shares.append(float((fresh > limit.value).mean()))
    assert expected == pytest.approx(0.01 if patients >= 99 else 1 / 31)
    assert np.mean(shares) == pytest.approx(expected, abs=0.015)


def test_what_lies_elsewhere_is_beyond_the_limit() -> None:
    known = features(60, seed=1)
    limit = novelty_limit(known, np.arange(60), rng=np.random.default_rng(0))
    assert (fit_familiar(known).distance(features(50, seed=2, shift=4.0)) > limit.value).all()


def test_a_patient_s_own_pictures_do_not_bring_it_nearer() -> None:
    """Ten like pictures of each patient: a limit among pictures would be far too small."""
    once = features(25, seed=1)
    tenfold = np.repeat(once, 10, axis=0) + 0.01 * np.random.default_rng(2).random((250, D))
    limit = novelty_limit(tenfold, np.repeat(np.arange(25), 10), rng=np.random.default_rng(0))
    assert limit.expected_share == pytest.approx(1 / 26)
    of_fresh = fit_familiar(tenfold).distance(features(2000, seed=5))
    assert (of_fresh > limit.value).mean() < 0.15


def test_too_few_patients_have_no_limit() -> None:
    with pytest.raises(DataError, match="needs 20 patients, got 19"):
        novelty_limit(features(40, seed=1), np.arange(40) % 19, rng=np.random.default_rng(0))


def test_of_a_patient_the_farthest_picture_counts_whichever_comes_last() -> None:
    """Every patient has one odd picture, first or last: the limit must be that of the odd ones."""
    ordinary, odd = features(40, seed=1), features(40, seed=6, shift=1.0)
    patients = np.repeat(np.arange(40), 2)
    limits = [
        novelty_limit(
            np.stack(pair, axis=1).reshape(80, D), patients, rng=np.random.default_rng(0)
        ).value
        for pair in ((ordinary, odd), (odd, ordinary))
    ]
    assert limits[0] == pytest.approx(limits[1])
