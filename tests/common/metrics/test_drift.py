"""Maps that stay alike one, maps that move lower, and what cannot be compared said."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from common.errors import DataError
from common.metrics.drift import map_similarity
from common.metrics.estimate import Estimate


def similarity(first: np.ndarray, second: np.ndarray, **changes: int) -> dict[str, Estimate]:
    rules = {"replicates": 200, "min_patients": 5} | changes
    return map_similarity(
        first, second, np.arange(len(first)), rng=np.random.default_rng(0), **rules
    )


@pytest.fixture
def maps() -> np.ndarray:
    return np.random.default_rng(3).normal(size=(12, 5, 5)).astype(np.float32)


def test_a_model_that_stays_is_wholly_similar(maps: np.ndarray) -> None:
    found = similarity(maps, maps.copy())
    for metric in ("spearman", "top_iou"):
        assert (found[metric].value, found[metric].low, found[metric].high) == (1.0, 1.0, 1.0)
        assert found[metric].support == 12


def test_a_stronger_map_of_the_same_places_has_not_moved(maps: np.ndarray) -> None:
    assert similarity(maps, 7 * maps)["spearman"].value == pytest.approx(1.0)


def test_a_model_that_turns_round_is_opposite(maps: np.ndarray) -> None:
    found = similarity(maps, -maps)
    assert found["spearman"].value == pytest.approx(-1.0)
    assert found["top_iou"].value == 0.0


def test_the_mean_is_that_of_scipy_over_pictures(maps: np.ndarray) -> None:
    other = maps + np.random.default_rng(4).normal(size=maps.shape).astype(np.float32)
    expected = [spearmanr(a.ravel(), b.ravel()).statistic for a, b in zip(maps, other, strict=True)]
    found = similarity(maps, other)["spearman"]
    assert found.value == pytest.approx(np.mean(expected))
    assert found.low is not None
    assert found.high is not None
    assert found.low < np.mean(expected) < found.high


def test_maps_without_any_place_are_counted_and_left_out(maps: np.ndarray) -> None:
    flat = maps.copy()
    flat[:2], flat[2] = 0.5, np.nan
    found = similarity(maps, flat)["spearman"]
    assert (found.value, found.support) == (pytest.approx(1.0), 9)
    assert "3 of 12" in found.note


def test_few_patients_get_no_interval(maps: np.ndarray) -> None:
    found = similarity(maps, maps, min_patients=20)["spearman"]
    assert (found.low, found.high) == (None, None)
    assert "12 patients, 20 needed" in found.note


def test_models_are_compared_on_the_same_pictures(maps: np.ndarray) -> None:
    with pytest.raises(DataError, match="one set of pictures"):
        similarity(maps, maps[:5])
