"""A run's network, and all that can be known to be wrong with the run before pictures are read."""

from common.config.run import RunConfig
from common.errors import ConfigError
from common.model.arrays import array_names
from common.model.layers import unmatched_prefixes
from common.model.network import Network, build_network
from common.private.check import require_exact_gradients
from server.aggregate import AGGREGATIONS
from server.planning.compatibility import refuse_conflicts
from server.strategies import STRATEGIES


def planned_network(config: RunConfig) -> Network:
    """Return the network of a run, on the CPU, untrained.

    Raises ConfigError or ModelError for settings that do not go together, for a strategy,
    aggregation, network or local layers that cannot work, and for a network that cannot be trained
    with noise where the run asks for it.
    """
    refuse_conflicts(config)
    STRATEGIES.get(config.federation.strategy)(config)
    AGGREGATIONS.get(config.federation.aggregation)
    network = build_network(config.model, config.task_table(), seed=config.seed)
    names = array_names(network)
    if unmatched := unmatched_prefixes(names, config.federation.local_layers):
        raise ConfigError(
            f"federation.local_layers: no array's name starts with {unmatched[0]!r}. Names look "
            f"like {names[0]!r} and {names[-1]!r}."
        )
    if config.privacy.enabled:
        for task in config.task_table().values():
            require_exact_gradients(network, task=task, config=config)
    return network
