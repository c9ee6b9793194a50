"""Sites above the floor: one count, whether the sites are seen or only their sum."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.secure_sum.contribution import floor_bits
from server.record.floor import floor_entry
from server.record.summary import FloorEntry


@pytest.mark.parametrize(
    ("evaluations", "floor", "expected"),
    [
        ({"a": {"auroc": 0.7}, "b": {"auroc": 0.5}}, {"auroc": 0.6}, (1, 2)),
        ({"a": {"auroc": 0.6}}, {"auroc": 0.6}, (1, 1)),
        ({"a": {"auroc": 0.7, "accuracy": 0.1}}, {"auroc": 0.6, "accuracy": 0.5}, (0, 1)),
        ({"a": {"auroc": 0.7}, "b": {"accuracy": 0.9}}, {"auroc": 0.6}, (1, 1)),
        ({"a": {"accuracy": 0.9}}, {"auroc": 0.6}, None),
        ({"a": {"auroc": 0.7}}, {}, None),
        ({}, {"auroc": 0.6}, None),
    ],
)
def test_sites_that_reach_every_part_are_counted_among_those_that_could_tell(
    evaluations: Mapping[str, Mapping[str, float]],
    floor: Mapping[str, float],
    expected: tuple[int, int] | None,
) -> None:
    found = floor_entry(evaluations, floor)
    assert found == (None if expected is None else FloorEntry(above=expected[0], sites=expected[1]))


METRICS = ("auroc", "accuracy", "iou")
values = st.dictionaries(st.sampled_from(METRICS), st.floats(0, 1))


@given(evaluations=st.dictionaries(st.text("abc", min_size=1), values), floor=values)
def test_the_count_is_what_the_sites_would_add_up_to_under_masks(
    evaluations: dict[str, dict[str, float]], floor: dict[str, float]
) -> None:
    bits = [floor_bits(found, floor) for found in evaluations.values()]
    judged, met = sum(j for j, _ in bits), sum(m for _, m in bits)
    expected = FloorEntry(above=met, sites=judged) if judged else None
    assert floor_entry(evaluations, floor) == expected
