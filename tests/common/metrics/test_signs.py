"""The share of a class's evidence that lies where a sign is seen, by hand and against chance."""

import numpy as np
import pytest

from common.errors import DataError
from common.metrics.bootstrap import patient_weights
from common.metrics.estimate import Estimate
from common.metrics.signs import CORE, evidence_on_sign, sign_places


def measured(
    maps: np.ndarray, places: np.ndarray, *, replicates: int = 0, min_patients: int = 1
) -> dict[str, Estimate]:
    return evidence_on_sign(
        maps,
        places,
        np.arange(len(maps)),
        replicates=replicates,
        min_patients=min_patients,
        rng=np.random.default_rng(0),
    )


# Where a sign's map lies


def test_a_sign_lies_in_the_fewest_cells_that_hold_its_core() -> None:
    cells = np.array([[[6.0, 3.0], [0.5, -9.0]]])  # 9.5 speak for it; 0.8 of them are 7.6
    assert CORE == 0.8
    assert sign_places(cells).tolist() == [[[1.0, 1.0], [0.0, 0.0]]]


def test_a_flat_map_lies_everywhere_alike() -> None:
    places = sign_places(np.ones((1, 5, 2)))
    np.testing.assert_allclose(places, np.full((1, 5, 2), 0.8))


def test_a_map_that_speaks_for_nothing_or_is_not_finite_lies_nowhere() -> None:
    maps = np.array([[[-1.0, -2.0]], [[np.nan, 3.0]]])
    assert not sign_places(maps).any()


# How much of a class lies there


def test_share_and_chance_are_those_of_a_hand_computation() -> None:
    maps = np.array([[[3.0, 1.0], [-5.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]]])
    places = np.array([[[1.0, 0.0], [0.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]])
    # Evidence 4 and 2. On the sign 3 and 1: 4 of 6. By area a quarter of 4 and half of 2: 2 of 6.
    found = measured(maps, places)
    assert found["evidence_on_sign"].value == pytest.approx(4 / 6)
    assert found["evidence_on_sign"].chance == pytest.approx(2 / 6)
    assert found["evidence_on_sign_above_chance"].value == pytest.approx(2 / 6)
    assert found["evidence_on_sign_above_chance"].chance == 0.0
    assert found["evidence_on_sign"].support == 2
    assert found["evidence_on_sign"].positive_patients == 2
    assert found["evidence_on_sign"].note.startswith("no interval")


def test_a_map_that_is_the_sign_s_own_reaches_the_core() -> None:
    maps = np.random.default_rng(3).exponential(size=(20, 6, 6))
    places = sign_places(maps)
    value = measured(maps, places)["evidence_on_sign"].value
    assert value is not None
    assert CORE <= value < CORE + 0.05


def test_maps_laid_down_anywhere_are_not_above_chance_even_if_the_sign_is_where_evidence_is() -> (
    None
):
    rng = np.random.default_rng(4)
    strength = np.repeat([10.0, 0.1], 60)  # much speaks for the class just where the sign is
    maps = rng.exponential(size=(120, 6, 6)) * strength[:, None, None]
    has_sign = np.where(strength > 1, 1.0, -1.0)[:, None, None]
    places = sign_places(rng.exponential(size=(120, 6, 6)) * has_sign)
    found = measured(maps, places, replicates=300, min_patients=20)
    above = found["evidence_on_sign_above_chance"]
    assert above.low is not None
    assert above.high is not None
    assert above.low < 0 < above.high
    # By the area alone, not by where evidence is, the share would look like twice chance.
    assert found["evidence_on_sign"].value > 1.5 * places.mean()


def test_evidence_where_the_sign_is_lies_above_chance_for_sure() -> None:
    rng = np.random.default_rng(5)
    signs = rng.exponential(size=(40, 6, 6))
    found = measured(
        signs + rng.exponential(size=signs.shape),
        sign_places(signs),
        replicates=300,
        min_patients=20,
    )
    above = found["evidence_on_sign_above_chance"]
    assert above.low is not None
    assert above.low > 0


def test_the_interval_is_over_patients_and_pairs_share_and_chance() -> None:
    rng = np.random.default_rng(6)
    maps, signs = rng.exponential(size=(2, 24, 4, 4))
    places, patients = sign_places(signs), np.arange(24) // 2
    drawn = patient_weights(patients, replicates=400, rng=np.random.default_rng(0))
    gains = []
    for copies in drawn.astype(int):  # each drawn set written out
        rows = np.repeat(np.arange(24), copies)
        evidence, sign = maps[rows], places[rows]
        share = (evidence * sign).sum() / evidence.sum()
        by_picture = evidence.sum(axis=(1, 2)) * sign.mean(axis=(1, 2))
        gains.append(share - by_picture.sum() / evidence.sum())
    above = evidence_on_sign(
        maps, places, patients, replicates=400, min_patients=12, rng=np.random.default_rng(0)
    )["evidence_on_sign_above_chance"]
    assert (above.low, above.high) == pytest.approx(tuple(np.quantile(gains, (0.025, 0.975))))
    assert (above.support, above.positive_patients) == (24, 12)


def test_pictures_in_which_nothing_speaks_for_the_class_are_counted_and_left_out() -> None:
    maps = np.array([[[1.0, 0.0]], [[-1.0, 0.0]], [[np.inf, 0.0]]])
    found = measured(maps, np.ones((3, 1, 2)))["evidence_on_sign"]
    assert found.support == 1
    assert "nothing speaks for the class in 2 of 3" in found.note


def test_signs_without_a_place_are_counted() -> None:
    places = np.array([[[1.0, 0.0]], [[0.0, 0.0]]])
    found = measured(np.ones((2, 1, 2)), places)["evidence_on_sign"]
    assert "nothing speaks for the sign in 1 of 2 pictures" in found.note
    assert found.value == pytest.approx(0.25)


def test_a_class_without_evidence_has_no_value() -> None:
    found = measured(np.zeros((2, 1, 2)), np.ones((2, 1, 2)), replicates=10)
    assert found["evidence_on_sign"].value is None
    assert found["evidence_on_sign"].chance is None
    assert "nothing speaks for the class in 2 of 2" in found["evidence_on_sign"].note


def test_a_sign_that_lies_nowhere_has_no_share_rather_than_none() -> None:
    found = measured(np.ones((30, 1, 2)), np.zeros((30, 1, 2)), replicates=50)
    for estimate in found.values():
        assert (estimate.value, estimate.low, estimate.high) == (None, None, None)
        assert estimate.note == "not defined: nothing speaks for the sign in any of them"
        assert estimate.support == 30


def test_too_few_patients_give_no_interval_and_say_so() -> None:
    found = measured(np.ones((3, 1, 2)), np.ones((3, 1, 2)), replicates=50, min_patients=20)
    assert found["evidence_on_sign"].low is None
    assert "3 patients, 20 needed" in found["evidence_on_sign"].note


def test_maps_of_other_pictures_are_refused() -> None:
    with pytest.raises(DataError, match="same N pictures"):
        measured(np.ones((2, 1, 2)), np.ones((3, 1, 2)))
