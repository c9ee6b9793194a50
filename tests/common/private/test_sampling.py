"""Who is drawn: each patient by itself, at the rate the accountant is told."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from common.config.privacy import PrivacyConfig
from common.config.run import RunConfig
from common.datasets.shard import Shard
from common.errors import DataError
from common.private.sampling import draw_units, packed, units_of
from common.private.secure_random import SecureRandom

RARE = 1e-6


def privacy_of(config: RunConfig, **changes: object) -> PrivacyConfig:
    return config.privacy.model_copy(update=changes)


def test_a_patient_is_one_unit_of_all_its_training_pictures(shard: Shard) -> None:
    units = units_of(shard, "train", unit="patient")

    assert [unit.tolist() for unit in units] == [
        [0],
        [1, 2],
        [3, 4, 5],
        [6, 7, 8, 9],
        [10],
        [11, 12],
        [13, 14, 15],
    ]


def test_a_patient_whose_pictures_lie_apart_is_still_one_unit(shard: Shard) -> None:
    mixed = Shard(**{**vars(shard), "patients": np.arange(len(shard), dtype=np.int32) % 3})

    units = units_of(mixed, "train", unit="patient")

    assert [set(unit % 3) for unit in units] == [{0}, {1}, {2}]
    assert sorted(np.concatenate(units)) == list(range(16))


def test_pictures_without_a_patient_are_no_units_where_patients_are_protected(
    shard: Shard,
) -> None:
    train, val = shard.card.parts
    parts = (replace(train, unnamed_pictures=2), val)
    unnamed = replace(shard, card=replace(shard.card, parts=parts))

    with pytest.raises(DataError, match=r"2 of 16 pictures.*columns\.patient.*unit to image"):
        units_of(unnamed, "train", unit="patient")

    assert len(units_of(unnamed, "train", unit="image")) == 16
    assert len(units_of(unnamed, "val", unit="patient")) == 1


def test_a_picture_is_a_unit_where_pictures_are_protected(shard: Shard) -> None:
    units = units_of(shard, "train", unit="image")

    assert [unit.tolist() for unit in units] == [[i] for i in range(16)]


def test_each_unit_is_drawn_at_the_rate_and_independently(config: RunConfig) -> None:
    units = [np.array([i]) for i in range(50)]
    privacy, random = privacy_of(config, sample_rate=0.2), SecureRandom()
    drawn = np.zeros((4000, 50))
    for row in drawn:
        for unit in draw_units(units, privacy=privacy, random=random):
            row[unit[0]] += 1

    assert drawn.max() == 1  # never twice in one step
    pvalues = [stats.binomtest(int(n), 4000, 0.2).pvalue for n in drawn.sum(axis=0)]
    assert min(pvalues) > RARE / 50
    # Binomial, not of fixed size.
    sizes = drawn.sum(axis=1)
    assert abs(sizes.var() / (50 * 0.2 * 0.8) - 1) < 5 * np.sqrt(2 / 4000)
    assert np.abs(np.corrcoef(drawn.T) - np.eye(50)).max() < 6 / np.sqrt(4000)


def test_no_patient_has_more_pictures_in_a_step_than_allowed(
    config: RunConfig, shard: Shard
) -> None:
    units = units_of(shard, "train", unit="patient")
    privacy = privacy_of(config, sample_rate=1.0, max_pictures_per_patient=2)
    random = SecureRandom()
    seen: set[int] = set()
    for _ in range(60):
        drawn = draw_units(units, privacy=privacy, random=random)
        assert [len(unit) for unit in drawn] == [1, 2, 2, 2, 1, 2, 2]
        assert all(set(part) <= set(unit) for part, unit in zip(drawn, units, strict=True))
        seen.update(np.concatenate(drawn).tolist())

    assert seen == set(range(16))  # each picture has its turn


def test_a_draw_may_be_empty(config: RunConfig) -> None:
    privacy = privacy_of(config, sample_rate=1e-12)

    assert draw_units([np.array([0])], privacy=privacy, random=SecureRandom()) == []


@given(st.lists(st.integers(1, 7), max_size=12), st.integers(1, 8))
def test_packing_keeps_units_whole_and_groups_small(sizes: list[int], at_most: int) -> None:
    ends = np.cumsum([0, *sizes])
    units = [np.arange(a, b) for a, b in pairwise(ends)]

    groups = list(packed(units, at_most=at_most))

    assert [u.tolist() for group in groups for u in group] == [u.tolist() for u in units]
    assert all(len(g) == 1 or sum(map(len, g)) <= at_most for g in groups)
    assert all(groups)
