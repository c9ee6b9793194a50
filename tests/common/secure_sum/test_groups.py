"""Groups follow from the configuration: the trunk over all, a head where enough sites share it."""

from pathlib import Path

import pytest

from common.config.reading import load_config
from common.config.run import RunConfig
from common.secure_sum.groups import groups_among, groups_of, groups_of_task

SITES = {
    "chestx": ("a", "d", "g"),
    "retina": ("b", "e", "h"),
    "pathoscan": ("c", "f"),
}


@pytest.fixture(scope="module")
def config() -> RunConfig:
    run = load_config(Path("configs/experiments/demo.yaml")).run
    sites = [
        {"name": name, "task": task, "source": {"kind": "pool", "pool": "p", "share": 1.0}}
        for task, names in SITES.items()
        for name in names
    ]
    return RunConfig.model_validate(run.model_dump() | {"sites": sites})


def test_a_head_is_summed_only_over_enough_sites(config: RunConfig) -> None:
    assert groups_of(config) == {
        "trunk": tuple("abcdefgh"),
        "chestx": ("a", "d", "g"),
        "retina": ("b", "e", "h"),
    }
    assert groups_of_task(config, "retina") == ("trunk", "retina")
    assert groups_of_task(config, "pathoscan") == ("trunk",)


def test_groups_shrink_to_who_is_there_and_vanish_when_too_small(config: RunConfig) -> None:
    assert groups_among(config, {"a", "d", "g", "b", "e", "z"}) == {
        "trunk": ("a", "b", "d", "e", "g"),
        "chestx": ("a", "d", "g"),
    }
    assert groups_among(config, {"a", "b"}) == {}


@pytest.mark.parametrize("prefix", ["heads.", "heads.chestx", "heads.chestx.", "h"])
def test_a_head_that_stays_at_the_sites_is_no_group(config: RunConfig, prefix: str) -> None:
    federation = config.federation.model_copy(update={"local_layers": (prefix,)})
    assert "chestx" not in groups_of(config.model_copy(update={"federation": federation}))


@pytest.mark.parametrize("prefix", ["heads.chestx.thresholds", "heads.chestxy", "trunk."])
def test_a_head_of_which_a_part_stays_is_a_group(config: RunConfig, prefix: str) -> None:
    federation = config.federation.model_copy(update={"local_layers": (prefix,)})
    assert "chestx" in groups_of(config.model_copy(update={"federation": federation}))
