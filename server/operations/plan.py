"""What a run's process will need, tried before any site hears of the run. Brings torch."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from common.config.reading import LoadedConfig
from common.config.run import AnySource, PoolSource, ReferenceConfig, RunConfig
from common.datasets.phantom_source import REFERENCE
from common.messages.digests import architecture_digest
from common.model.arrays import array_names, read_arrays
from server.planning.planned_network import planned_network
from server.planning.preparation import open_sources


def planned_architecture(config: RunConfig) -> str:
    """Return the digest of the whole network's architecture.

    Raises ConfigError or ModelError for a plan that cannot work, see :func:`planned_network`.
    """
    network = planned_network(config)
    return architecture_digest(read_arrays(network, array_names(network)))


def check_reference(loaded: LoadedConfig, *, data_root: Path | None) -> None:
    """Read the tables of every reference set, their pictures unread.

    Raises ConfigError or DataError when one is not there.
    """
    pools = loaded.run.data.pools
    for task, reference in loaded.run.reference.items():
        source = reference.source
        parts: Sequence[AnySource] = (source,)
        if isinstance(source, PoolSource) and source.pool in pools:
            parts = pools[source.pool].sources
        for part in parts:
            # A pool is shared out only after all of its pictures are read: here, part by part.
            alone = {**loaded.run.reference, task: ReferenceConfig(source=part)}
            config = loaded.run.model_copy(update={"reference": alone})
            open_sources(
                replace(loaded, run=config),
                [REFERENCE + task],
                data_root=data_root,
                out=loaded.root,
                watch=_unwatched,
            )


def _unwatched(name: str, done: int, total: int) -> None:
    del name, done, total
