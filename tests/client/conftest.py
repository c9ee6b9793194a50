"""A run small enough to train in a second, and its sites' shards."""

from collections.abc import Callable
from pathlib import Path

import pytest

from common.config import PhantomSource, RunConfig
from common.config_file import load_config
from common.datasets.prepare import prepare_shard
from common.datasets.sources import open_source
from common.seed import derive_seed

CONFIGS = Path(__file__).parents[2] / "configs"

MakeConfig = Callable[..., RunConfig]


def tiny_config(*overrides: str) -> RunConfig:
    """Return the demo's configuration with 20 small pictures a site."""
    small = ["data.image_size_px=64", "model.image_size_px=64", "train.batch_size=8"]
    small += [f"sites.{number}.source.patients=20" for number in range(5)]
    return load_config(CONFIGS / "experiments" / "demo.yaml", [*small, *overrides]).run


@pytest.fixture(scope="session")
def make_config() -> MakeConfig:
    return tiny_config


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One shard per site of the tiny run, by site."""
    config = tiny_config()
    root = tmp_path_factory.mktemp("shards")
    for site in config.sites:
        assert isinstance(site.source, PhantomSource)
        source = open_source(
            site.source,
            task=config.task(site.task),
            data_root=root,
            config_root=CONFIGS,
            site=site.name,
            seed=derive_seed(config.seed, site.name),
        )
        prepare_shard(
            source,
            task=config.task(site.task),
            parts={"train": 0.7, "val": 0.2, "test": 0.1},
            data=config.data,
            seed=config.seed,
            out=root / site.name,
        )
    return {site.name: root / site.name for site in config.sites}
