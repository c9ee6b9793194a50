"""A group's vector: where its numbers stand, how exact their sum is, and what is scaled down."""

import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from common.config.reading import load_config
from common.config.run import RunConfig
from common.errors import ConfigError, DataError, WireError
from common.messages.kinds import Update
from common.secure_sum.contribution import contribution, floor_bits, scaling, site_extras
from common.secure_sum.layout import PEAK, Layout, layouts
from common.secure_sum.measures import LOSS_PARTS

CLIP_NORM = 10.0
SHAPES = {"trunk.b": (3,), "trunk.a": (2, 4), "heads.chestx.w": (5,), "heads.retina.w": (6,)}


@cache
def config_of(
    sites: int = 4, *, clip_norm: float = CLIP_NORM, max_examples: int = 4096, local: str = ""
) -> RunConfig:
    values = load_config(Path("configs/experiments/demo.yaml")).run.model_dump()
    values["sites"] = [
        {"name": f"s{n}", "task": "chestx", "source": {"kind": "pool", "pool": "p", "share": 1.0}}
        for n in range(sites)
    ]
    values["secure_aggregation"] |= {"clip_norm": clip_norm, "max_examples": max_examples}
    values["federation"] |= {"local_layers": (local,) if local else (), "required_sites": ()}
    return RunConfig.model_validate(values)


def update_of(
    arrays: Mapping[str, NDArray[np.float32]],
    *,
    num_examples: int = 100,
    evaluation: Mapping[str, float] | None = None,
    metrics: Mapping[str, float] | None = None,
) -> Update:
    return Update(
        run="r",
        server_round=1,
        site="s0",
        task="chestx",
        num_examples=num_examples,
        num_steps=1,
        metrics=metrics or {},
        evaluation=evaluation or {},
        arrays=arrays,
    )


def ones(value: float = 1.0) -> dict[str, NDArray[np.float32]]:
    return {
        name: np.full(shape, value, np.float32)
        for name, shape in SHAPES.items()
        if "retina" not in name
    }


def summed(
    updates: list[Update], config: RunConfig, group: str = "trunk"
) -> tuple[Layout, dict[str, NDArray[np.float64]], dict[str, float]]:
    shapes = {name: array.shape for name, array in updates[0].arrays.items()}
    layout = layouts(config, shapes, task="chestx")[group]
    total = np.zeros(layout.size, np.uint32)
    for update in updates:
        total += contribution(update, config, shapes=shapes)[group]
    found = layout.decode(total)
    return layout, found.mean(), found.extras


# --- places ----------------------------------------------------------------------------------


def test_arrays_stand_in_the_order_of_their_names_and_extras_after_them() -> None:
    placed = layouts(config_of(), SHAPES, task="chestx")
    assert list(placed) == ["trunk", "chestx"]
    trunk = placed["trunk"]
    assert trunk.names == ("trunk.a", "trunk.b")
    assert trunk.extras[:5] == ("weight", "pictures", "clipped", "floor_judged", "floor_met")
    assert trunk.extras[5:7] == ("train_total.sites", "train_total.sum")
    assert trunk.size == 11 + 5 + 2 * len(LOSS_PARTS)
    assert placed["chestx"].names == ("heads.chestx.w",)
    assert placed["chestx"].extras[0] == "weight"
    assert "quadratic_weighted_kappa.sum" not in placed["chestx"].extras

    numbers = np.arange(11, dtype=np.float32)
    extras = dict.fromkeys(trunk.extras, 0.0) | {"weight": 4096.0, "pictures": 17.0}
    vector = trunk.encode(
        {"trunk.a": numbers[:8].reshape(2, 4) / 10, "trunk.b": numbers[8:] / 10}, extras
    )
    steps = trunk.decode(vector)
    np.testing.assert_allclose(vector[:11].view(np.int32), numbers / 10 * (2**31 / 40), rtol=1e-6)
    np.testing.assert_allclose(steps.mean()["trunk.a"].ravel(), numbers[:8] / 10, atol=1e-7)
    assert vector[12] == 17


def test_every_site_of_a_task_and_the_coordinator_have_one_trunk() -> None:
    values = config_of(9).model_dump()
    for number, site in enumerate(values["sites"]):
        site["task"] = "chestx" if number % 2 else "retina"
    config = RunConfig.model_validate(values)
    of_chestx = {name: shape for name, shape in SHAPES.items() if "retina" not in name}
    of_retina = {name: shape for name, shape in SHAPES.items() if "chestx" not in name}
    ours = layouts(config, of_chestx, task="chestx")
    theirs = layouts(config, of_retina, task="retina")
    whole = layouts(config, SHAPES, task="retina")
    for one in (ours, theirs, whole):
        assert one["trunk"].shapes == ours["trunk"].shapes
        assert one["trunk"].numbers == ours["trunk"].numbers
    assert "quadratic_weighted_kappa.sum" in theirs["retina"].extras


def test_layers_that_stay_at_the_site_are_in_no_vector() -> None:
    placed = layouts(config_of(local="trunk.b"), SHAPES, task="chestx")
    assert placed["trunk"].names == ("trunk.a",)
    assert "chestx" not in layouts(config_of(local="heads.chestx"), SHAPES, task="chestx")


def test_what_does_not_belong_or_is_missing_is_refused() -> None:
    config = config_of()
    arrays = ones()
    shapes = {name: array.shape for name, array in arrays.items()}
    trunk = layouts(config, shapes, task="chestx")["trunk"]
    extras = dict.fromkeys(trunk.extras, 0.0)
    parts = {"trunk.a": arrays["trunk.a"], "trunk.b": arrays["trunk.b"]}
    with pytest.raises(WireError, match=r"'trunk\.b' is missing"):
        trunk.encode({"trunk.a": parts["trunk.a"]}, extras)
    with pytest.raises(WireError, match="'other' is missing or not summed"):
        trunk.encode(parts, extras | {"other": 1.0})
    with pytest.raises(WireError, match=r"trunk.a has shape \(8,\)"):
        trunk.encode(parts | {"trunk.a": parts["trunk.a"].ravel()}, extras)
    with pytest.raises(WireError, match="expected"):
        trunk.decode(np.zeros(3, np.uint32))
    fewer = {name: array for name, array in arrays.items() if name != "trunk.b"}
    with pytest.raises(WireError, match=r"the update has no array trunk\.b"):
        contribution(update_of(fewer), config, shapes=shapes)
    with pytest.raises(ConfigError, match="max_examples"):
        layouts(config_of(max_examples=2**30), SHAPES, task="chestx")


# --- scaling down ----------------------------------------------------------------------------


def test_an_update_within_its_bounds_is_left_as_it_is() -> None:
    config = config_of()
    placed = layouts(config, SHAPES, task="chestx")
    assert scaling(update_of(ones(1.0)), placed) == 1.0  # norm 4


def test_a_longer_update_is_scaled_as_a_whole_over_all_its_groups() -> None:
    config = config_of()
    arrays = ones(30.0)
    arrays["heads.retina.w"] = np.full(6, 1e6, np.float32)  # in no sum of this site
    placed = layouts(config, SHAPES, task="chestx")
    factor = scaling(update_of(arrays), placed)
    assert factor == pytest.approx(CLIP_NORM / (30 * math.sqrt(16)))
    _, mean, extras = summed([update_of(ones(30.0))], config)
    np.testing.assert_allclose(mean["trunk.a"], CLIP_NORM / 4, atol=1e-5)
    assert extras["clipped"] == 1


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(1, 30_000),
    length=st.floats(1e-3, 1e6),
    peaked=st.booleans(),
    seed=st.integers(0, 99),
)
def test_no_update_leaves_the_range_however_long_or_peaked(
    size: int, length: float, peaked: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    change = rng.normal(0, length, size).astype(np.float32)
    if peaked:
        change[rng.integers(size)] = 1e3 * length
    config = config_of()
    layout, mean, _ = summed([update_of({"trunk.w": change}, num_examples=10**6)], config)
    bound = CLIP_NORM * min(1.0, PEAK / math.sqrt(size))
    norm, largest = float(np.linalg.norm(change.astype(float))), float(np.abs(change).max())
    factor = min(1.0, CLIP_NORM / norm, bound / largest)
    step = bound / (2**31 // 4)
    np.testing.assert_allclose(mean["trunk.w"], factor * change.astype(float), atol=step)
    assert layout.largest_number == pytest.approx(bound)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_update_that_is_not_finite_is_an_error(value: float) -> None:
    arrays = ones()
    arrays["trunk.b"][1] = value
    shapes = {name: array.shape for name, array in arrays.items()}
    with pytest.raises(DataError, match="cannot be summed"):
        contribution(update_of(arrays), config_of(), shapes=shapes)


# --- exactness -------------------------------------------------------------------------------


@pytest.mark.parametrize("examples", [(50,) * 10, (4096,) * 10, tuple(range(50, 4600, 455))])
@pytest.mark.parametrize("norm", [1.0, 10.0])
def test_the_mean_is_within_a_ten_thousandth_of_the_plain_one(
    examples: tuple[int, ...], norm: float
) -> None:
    size, rng = 100_000, np.random.default_rng(1)
    config = config_of(len(examples))
    drawn = [rng.normal(0, 1, size) for _ in examples]  # unrelated: the shortest mean there is
    changes = [(norm / np.linalg.norm(each) * each).astype(np.float32) for each in drawn]
    updates = [
        update_of({"trunk.w": change}, num_examples=count)
        for change, count in zip(changes, examples, strict=True)
    ]
    layout, mean, extras = summed(updates, config)
    weights = np.minimum(examples, 4096)
    exact = np.average(changes, axis=0, weights=weights)
    error = float(np.linalg.norm(mean["trunk.w"] - exact))
    assert error < 1e-4 * np.linalg.norm(exact)
    # As the docstring has it: 64 · C · K · S / 2^32, over the mean weight; not exceeded, and the
    # error of random rounding about 1 / √(3K) of it.
    stated = PEAK * CLIP_NORM * len(examples) * 10 / 2**32 * 4096 / weights.sum()
    assert stated / math.sqrt(3 * len(examples)) == pytest.approx(error, rel=0.1)
    assert error < stated
    assert extras["weight"] == weights.sum()
    assert extras["pictures"] == sum(examples)
    assert layout.sites == len(examples)


# --- extras ----------------------------------------------------------------------------------


def test_extras_say_what_was_measured_and_what_was_not() -> None:
    config = config_of()
    update = update_of(
        ones(),
        num_examples=5000,
        evaluation={"auroc": 0.75, "loss_total": 250.0, "unheard_of": 3.0},
        metrics={"total": 1.5, "seconds": 9.0},
    )
    extras = site_extras(update, config, is_clipped=True)
    assert extras["trunk"]["weight"] == 4096
    assert extras["trunk"]["pictures"] == 5000
    assert extras["trunk"]["clipped"] == 1
    assert extras["chestx"]["auroc.sites"] == 1
    assert extras["chestx"]["brier.sites"] == 0
    _, _, trunk = summed([update], config)
    assert (trunk["train_total.sites"], trunk["train_saliency.sites"]) == (1, 0)
    assert trunk["train_total.sum"] == pytest.approx(1.5, abs=1e-6)
    _, _, head = summed([update, update], config, "chestx")
    assert head["auroc.sum"] == pytest.approx(1.5, abs=1e-8)
    assert head["loss_total.sum"] == pytest.approx(200.0, abs=1e-5)  # each counts as 100
    assert "unheard_of.sum" not in head


def test_a_measured_value_is_summed_to_within_the_stated_error() -> None:
    config = config_of(10)
    values = np.random.default_rng(0).uniform(0, 1, 10)
    updates = [update_of(ones(), evaluation={"auroc": float(value)}) for value in values]
    layout, _, extras = summed(updates, config, "chestx")
    point = next(extra.point for extra in layout.numbers if extra.name == "auroc.sum")
    assert abs(extras["auroc.sum"] - values.sum()) <= point.largest_error(10)
    assert point.largest_error(10) < 3e-8


def test_all_sites_weigh_alike_where_the_mean_is_uniform() -> None:
    values = config_of().model_dump()
    values["federation"]["aggregation"] = "uniform-mean"
    config = RunConfig.model_validate(values)
    updates = [update_of(ones(1.0), num_examples=5), update_of(ones(0.5), num_examples=500)]
    _, mean, extras = summed(updates, config)
    np.testing.assert_allclose(mean["trunk.a"], 0.75, atol=1e-7)
    assert (extras["weight"], extras["pictures"]) == (2, 505)


@pytest.mark.parametrize(
    ("evaluation", "floor", "expected"),
    [
        ({"auroc": 0.7}, {}, (False, False)),
        ({"auroc": 0.7}, {"auroc": 0.6}, (True, True)),
        ({"auroc": 0.6}, {"auroc": 0.6}, (True, True)),
        ({"auroc": 0.5}, {"auroc": 0.6}, (True, False)),
        ({"auroc": 0.7}, {"auroc": 0.6, "brier": 0.1}, (False, False)),
        ({"auroc": 0.7, "brier": 0.0}, {"auroc": 0.6, "brier": 0.1}, (True, False)),
        ({}, {"auroc": 0.6}, (False, False)),
    ],
)
def test_a_site_is_judged_only_by_what_it_measured(
    evaluation: dict[str, float], floor: dict[str, float], expected: tuple[bool, bool]
) -> None:
    assert floor_bits(evaluation, floor) == expected
