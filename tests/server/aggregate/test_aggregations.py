import numpy as np
import pytest
from scipy.stats import trim_mean

from server.aggregate import AGGREGATIONS

THREE = [np.float32([1, 10]), np.float32([2, 20]), np.float32([6, 60])]


def test_the_weighted_mean_weighs_by_pictures() -> None:
    merged = AGGREGATIONS.get("weighted-mean")(THREE, [1, 1, 2])

    np.testing.assert_array_equal(merged, [(1 + 2 + 12) / 4, (10 + 20 + 120) / 4])


def test_the_uniform_mean_does_not() -> None:
    np.testing.assert_array_equal(AGGREGATIONS.get("uniform-mean")(THREE, [1, 1, 998]), [3, 30])


def test_the_median_ignores_an_outlier_however_heavy() -> None:
    outlier = [*THREE[:2], np.float32([1e9, -1e9])]

    np.testing.assert_array_equal(AGGREGATIONS.get("median")(outlier, [1, 1, 10**6]), [2, 10])


def test_the_trimmed_mean_is_scipy_s_for_ten_sites() -> None:
    arrays = list(np.random.default_rng(0).normal(size=(10, 4, 3)).astype(np.float32))
    expected = trim_mean(np.stack(arrays).astype(np.float64), 0.2, axis=0)

    np.testing.assert_allclose(
        AGGREGATIONS.get("trimmed-mean")(arrays, [1] * 10), expected, rtol=1e-12
    )


def test_the_trimmed_mean_of_three_sites_still_cuts_the_extremes() -> None:
    np.testing.assert_array_equal(AGGREGATIONS.get("trimmed-mean")(THREE, [1, 1, 1]), [2, 20])


@pytest.mark.parametrize("name", list(AGGREGATIONS))
def test_the_change_of_a_single_site_is_taken_as_it_is(name: str) -> None:
    np.testing.assert_array_equal(AGGREGATIONS.get(name)([THREE[0]], [7]), THREE[0])
