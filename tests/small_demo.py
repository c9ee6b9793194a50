"""The demo, small enough to train in a second: its configuration and its sites' shards."""

from pathlib import Path

from common.config.reading import load_config
from common.config.run import PhantomSource, RunConfig
from common.datasets.prepare import prepare_shard
from common.datasets.sources import open_source
from common.machine.seed import derive_seed

CONFIGS = Path(__file__).parents[1] / "configs"


def small_demo(*overrides: str) -> RunConfig:
    """Return the demo's configuration with 20 small pictures a site."""
    small = ["data.image_size_px=64", "model.image_size_px=64", "train.batch_size=8"]
    small += [f"sites.{number}.source.patients=20" for number in range(5)]
    return load_config(CONFIGS / "experiments" / "demo.yaml", [*small, *overrides]).run


def prepare_sites(config: RunConfig, root: Path) -> dict[str, Path]:
    """Draw every site's pictures, prepare its shard below a folder, and return the shards' places.

    The sites of the configuration must have generated pictures.
    """
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
