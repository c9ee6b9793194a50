"""Splits keep patients whole, honour shares, and depend on names and seed alone."""

from collections import Counter
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from common.datasets.split import label_strata, patient_units, quotas, split_patients
from common.errors import DataError

Cohort = tuple[list[str], NDArray[np.float32], dict[str, float], int]

SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}


@st.composite
def cohorts(draw: st.DrawFn) -> Cohort:
    number = draw(st.integers(1, 60))
    rows = draw(st.lists(st.integers(0, number - 1), min_size=number, max_size=3 * number))
    patients = [f"p{row}" for row in rows]
    logits = draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    targets = (rng.random((len(rows), logits)) < 0.3).astype(np.float32)
    targets[rng.random(targets.shape) < 0.1] = np.nan
    shares = draw(
        st.sampled_from(
            [SHARES, {"a": 0.5, "b": 0.25, "c": 0.25}, {"a": 1.0}, {"a": 0.34, "b": 0.66}]
        )
    )
    return patients, targets, shares, draw(st.integers(0, 1000))


def patients_per_part(
    patients: list[str], part: NDArray[np.int8], number: int
) -> NDArray[np.int64]:
    owner = dict(zip(patients, part.tolist(), strict=True))
    counts = Counter(owner.values())
    return np.array([counts[index] for index in range(number)])


@given(cohorts())
@settings(max_examples=60, deadline=None)
def test_no_patient_is_in_two_parts(cohort: Cohort) -> None:
    patients, targets, shares, seed = cohort
    part = split_patients(patients, targets, shares=shares, seed=seed)
    for patient in set(patients):
        assert len({p for p, name in zip(part, patients, strict=True) if name == patient}) == 1


@given(cohorts())
@settings(max_examples=60, deadline=None)
def test_shares_of_patients_are_met_to_the_whole_patient(cohort: Cohort) -> None:
    patients, targets, shares, seed = cohort
    part = split_patients(patients, targets, shares=shares, seed=seed)
    wanted = np.array(list(shares.values())) * len(set(patients))
    got = patients_per_part(patients, part, len(shares))
    assert (np.abs(got - wanted) < 1).all()


@given(cohorts(), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_the_order_of_rows_does_not_matter(cohort: Cohort, random: Random) -> None:
    patients, targets, shares, seed = cohort
    order = list(range(len(patients)))
    random.shuffle(order)
    first = split_patients(patients, targets, shares=shares, seed=seed)
    second = split_patients(
        [patients[row] for row in order], targets[order], shares=shares, seed=seed
    )
    assert (first[order] == second).all()


def test_another_seed_gives_another_split() -> None:
    patients = [f"p{row}" for row in range(100)]
    targets = np.zeros((100, 1), dtype=np.float32)
    splits = [split_patients(patients, targets, shares=SHARES, seed=seed) for seed in (0, 1)]
    assert (splits[0] != splits[1]).any()


@pytest.mark.parametrize(
    ("number", "expected"), [(1, [1, 0, 0]), (2, [2, 0, 0]), (3, [3, 0, 0]), (5, [4, 1, 0])]
)
def test_the_first_part_is_served_first_when_there_are_few_patients(
    number: int, expected: list[int]
) -> None:
    patients = [f"p{row}" for row in range(number)]
    part = split_patients(patients, np.zeros((number, 1)), shares=SHARES, seed=3)
    assert patients_per_part(patients, part, 3).tolist() == expected


def test_no_records_give_an_empty_split() -> None:
    assert len(split_patients([], np.zeros((0, 2)), shares=SHARES, seed=0)) == 0


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_every_label_is_spread_in_proportion(seed: int) -> None:
    rng = np.random.default_rng(seed)
    targets = (rng.random((400, 3)) < np.array([0.05, 0.2, 0.5])).astype(np.float32)
    patients = [f"p{row}" for row in range(400)]
    part = split_patients(patients, targets, shares=SHARES, seed=seed)
    for column in label_strata(targets).T:
        counts = np.bincount(part[column], minlength=3)
        wanted = np.array([0.8, 0.1, 0.1]) * column.sum()
        # A label stands in up to four combinations; each may be off by two and by rounding.
        assert (np.abs(counts - wanted) <= 10).all()


def test_grades_are_spread_in_proportion() -> None:
    grades = np.repeat([0, 1, 2, 3, 4], [200, 20, 100, 50, 30])[:, None].astype(np.float32)
    patients = [f"p{row}" for row in range(400)]
    part = split_patients(patients, grades, shares=SHARES, seed=7)
    test_counts = np.bincount(grades[part == 2, 0].astype(int), minlength=5)
    assert test_counts.tolist() == [20, 2, 10, 5, 3]


def test_patients_that_share_a_picture_stay_together_in_chains() -> None:
    patients = ["a", "b", "b", "c", "d"]
    units = patient_units(patients, groups=[(0, 1), (2, 3)])
    assert units[0] == units[1] == units[2] == units[3] != units[4]


@given(cohorts(), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_a_group_of_duplicates_never_straddles_parts(cohort: Cohort, group_seed: int) -> None:
    patients, targets, shares, seed = cohort
    rng = np.random.default_rng(group_seed)
    rows = rng.permutation(len(patients))
    groups = [tuple(rows[start : start + 3].tolist()) for start in range(0, len(rows) // 3, 3)]
    part = split_patients(patients, targets, shares=shares, seed=seed, groups=groups)
    for group in groups:
        assert len(set(part[list(group)].tolist())) == 1


def test_a_share_of_nothing_stays_empty() -> None:
    patients = [f"p{row}" for row in range(20)]
    shares = {"train": 0.9, "val": 0.1, "test": 0.0}
    part = split_patients(patients, np.zeros((20, 1)), shares=shares, seed=0)
    assert np.bincount(part, minlength=3).tolist() == [18, 2, 0]


def test_quotas_sum_to_the_total_despite_rounding() -> None:
    assert quotas(10, np.array([0.7, 0.2, 0.1])).tolist() == [7, 2, 1]


def test_shares_that_do_not_sum_to_one_are_refused() -> None:
    with pytest.raises(DataError, match="must sum to 1"):
        split_patients(["a"], np.zeros((1, 1)), shares={"train": 0.5}, seed=0)
