import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import AggregationError
from common.messages.kinds import Update
from server.aggregate import AGGREGATIONS
from server.aggregate.merge import merge
from server.aggregate.validate import objection
from server.aggregate.weighted_mean import weighted_mean

MODEL = {
    "trunk.w": np.zeros(3, np.float32),
    "heads.chestx.w": np.zeros(2, np.float32),
    "heads.retina.w": np.zeros(2, np.float32),
}


def update(site: str, task: str, num_examples: int, **arrays: np.ndarray) -> Update:
    named = {name.replace("__", "."): array.astype(np.float32) for name, array in arrays.items()}
    return Update("run", 1, site, task, num_examples, 1, {}, {}, named)


def test_the_trunk_is_merged_over_all_and_each_head_over_its_holders() -> None:
    updates = [
        update("a", "chestx", 10, trunk__w=np.full(3, 1), heads__chestx__w=np.array([1, 1])),
        update("b", "chestx", 30, trunk__w=np.full(3, 2), heads__chestx__w=np.array([5, 9])),
        update("c", "retina", 60, trunk__w=np.full(3, 4), heads__retina__w=np.array([7, 8])),
    ]

    merged = merge(updates, MODEL, weighted_mean)

    np.testing.assert_allclose(merged["trunk.w"], (10 * 1 + 30 * 2 + 60 * 4) / 100)
    np.testing.assert_allclose(merged["heads.chestx.w"], [4, 7])
    np.testing.assert_allclose(merged["heads.retina.w"], [7, 8])


def test_a_head_nobody_held_has_no_change() -> None:
    updates = [update("c", "retina", 1, trunk__w=np.ones(3), heads__retina__w=np.ones(2))]

    assert set(merge(updates, MODEL, weighted_mean)) == {"trunk.w", "heads.retina.w"}


@pytest.mark.parametrize("name", list(AGGREGATIONS))
@given(data=st.data())
def test_the_order_of_arrival_does_not_change_a_bit(name: str, data: st.DataObject) -> None:
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    scales = random.choice([1e-6, 1.0, 1e6], size=5)
    updates = [
        update(
            f"site-{k}",
            "chestx",
            int(random.integers(1, 10**6)),
            trunk__w=s * random.normal(size=3),
        )
        for k, s in enumerate(scales)
    ]
    shuffled = data.draw(st.permutations(updates))

    first = merge(updates, MODEL, AGGREGATIONS.get(name))["trunk.w"]
    second = merge(shuffled, MODEL, AGGREGATIONS.get(name))["trunk.w"]

    assert first.tobytes() == second.tobytes()


def test_an_array_of_one_number_stays_an_array() -> None:
    merged = merge([update("a", "chestx", 2, trunk__w=np.array(3.0))], MODEL, weighted_mean)

    assert isinstance(merged["trunk.w"], np.ndarray)
    assert merged["trunk.w"].shape == ()


def test_no_matching_array_is_an_error_that_names_the_sites() -> None:
    with pytest.raises(AggregationError, match="from north"):
        merge([update("north", "chestx", 1, decoder__w=np.ones(3))], MODEL, weighted_mean)


SHAPES = {"trunk.w": (3,), "heads.chestx.w": (2,)}


def good(**changes: object) -> Update:
    arrays = {"trunk.w": np.ones(3, np.float32), "heads.chestx.w": np.ones(2, np.float32)}
    values = {"num_examples": 5, "arrays": arrays, **changes}
    return Update("run", 1, "north", "chestx", num_steps=1, metrics={}, evaluation={}, **values)  # type: ignore[arg-type]


def with_array(name: str, array: np.ndarray) -> Update:
    return good(arrays={**good().arrays, name: array})


def test_a_good_update_meets_no_objection() -> None:
    assert objection(good(), SHAPES) is None


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (good(num_examples=0), "num_examples must be at least 1, got 0"),
        (good(arrays={}), "the update holds no arrays"),
        (good(arrays={"trunk.w": np.ones(3, np.float32)}), "'heads.chestx.w' is missing"),
        (
            with_array("heads.retina.w", np.ones(2, np.float32)),
            "'heads.retina.w' was not asked for",
        ),
        (with_array("trunk.w", np.ones((3, 1), np.float32)), "shape (3, 1), expected (3,)"),
        (with_array("trunk.w", np.ones(3)), "is float64, expected float32"),
        (with_array("trunk.w", np.float32([1, np.nan, 1])), "'trunk.w' holds non-finite values"),
        (with_array("trunk.w", np.float32([1, np.inf, 1])), "'trunk.w' holds non-finite values"),
    ],
    ids=["no-examples", "empty", "missing", "unknown", "shape", "type", "nan", "infinite"],
)
def test_a_bad_update_is_named(bad: Update, reason: str) -> None:
    assert reason in (objection(bad, SHAPES) or "")
