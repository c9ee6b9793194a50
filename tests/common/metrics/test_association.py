"""Association of concepts with logits against scipy's Spearman correlation."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from common.errors import DataError
from common.metrics.association import SMALL, association, is_settled


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


def test_of_few_patients_chance_is_seldom_taken_for_an_association() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(600, 2, 20))
    by_chance = [float(spearmanr(*pair).statistic) for pair in values]
    large = [abs(value) >= SMALL for value in by_chance]

    settled = [is_settled(value, patients=20) for value in by_chance]

    assert np.mean(large) > 0.3
    assert np.mean(settled) < 0.08


@pytest.mark.parametrize(
    ("correlation", "patients", "settled"),
    [
        (0.5, 20, True),
        (-0.5, 20, True),
        (0.3, 20, False),
        (0.3, 60, True),
        (0.0, 60, False),  # it might be 0.25
        (0.0, 200, True),  # surely small
        (1.0, 20, True),
        (0.9, 3, False),
    ],
)
def test_what_is_settled_by_how_many(correlation: float, patients: int, settled: bool) -> None:
    assert is_settled(correlation, patients=patients) is settled


def test_the_interval_holds_the_true_correlation_as_often_as_it_says() -> None:
    """Settled to be above nought while the truth is nought: one in forty, on either side."""
    rng = np.random.default_rng(1)
    drawn = [float(spearmanr(*rng.normal(size=(2, 30))).statistic) for _ in range(2000)]
    above = [is_settled(value, patients=30) and value > 0 for value in drawn]
    assert np.mean(above) == pytest.approx(0.025, abs=0.01)
