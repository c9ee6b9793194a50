"""What both halves need: the run's configuration and its network."""

from pathlib import Path

from common.config.run import RunConfig
from common.model.network import Network, build_network


def config_of(path: object) -> RunConfig:
    """Read the run's configuration."""
    return RunConfig.model_validate_json(Path(str(path)).read_bytes())


def network_of(config: RunConfig) -> Network:
    """Build the run's network."""
    return build_network(config.model, config.task_table(), seed=config.seed)
