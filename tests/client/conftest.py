"""A run small enough to train in a second, and its sites' shards."""

from collections.abc import Callable
from pathlib import Path

import pytest

from common.config.run import RunConfig
from tests.small_demo import prepare_sites, small_demo

MakeConfig = Callable[..., RunConfig]


@pytest.fixture(scope="session")
def make_config() -> MakeConfig:
    return small_demo


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One shard per site of the tiny run, by site."""
    return prepare_sites(small_demo(), tmp_path_factory.mktemp("shards"))
