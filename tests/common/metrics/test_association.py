"""Association of concepts with logits against scipy's Spearman correlation."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from common.errors import DataError
from common.metrics.association import association


def test_it_equals_scipy_pair_by_pair_with_ties() -> None:
    rng = np.random.default_rng(0)
    concepts = rng.integers(0, 6, (40, 3)) / 6
    logits = rng.normal(size=(40, 2)) + 2 * concepts[:, :2]
    found = association(concepts, logits)
    assert found.shape == (3, 2)
    for k in range(3):
        for t in range(2):
            expected = spearmanr(concepts[:, k], logits[:, t]).statistic
            assert found[k, t] == pytest.approx(expected)


def test_an_increasing_function_changes_nothing() -> None:
    rng = np.random.default_rng(1)
    concepts, logits = rng.normal(size=(20, 2)), rng.normal(size=(20, 1))
    squashed = 1 / (1 + np.exp(-concepts))
    np.testing.assert_allclose(association(concepts, logits), association(squashed, logits))


def test_what_is_the_same_everywhere_goes_with_nothing() -> None:
    concepts = np.column_stack([np.full(5, 0.5), np.arange(5.0)])
    found = association(concepts, np.arange(5.0)[:, None])
    assert np.isnan(found[0, 0])
    assert found[1, 0] == 1.0


def test_a_column_that_is_not_finite_is_unknown() -> None:
    logits = np.array([[0.0, 1.0], [1.0, np.nan], [2.0, 3.0], [3.0, 5.0]])
    found = association(np.arange(4.0)[:, None], logits)
    assert found[0, 0] == 1.0
    assert np.isnan(found[0, 1])


def test_two_pictures_tell_no_association() -> None:
    assert np.isnan(association(np.eye(2), np.eye(2))).all()


def test_other_pictures_are_refused() -> None:
    with pytest.raises(DataError, match="same N pictures"):
        association(np.zeros((4, 1)), np.zeros((5, 1)))
