"""What a site is told of the run's configuration: what its training depends on, and no more."""

from common.config import PoolSource, ReferenceConfig, RunConfig

# In place of every source: where pictures lie is the affair of those who prepare them.
_WITHHELD = PoolSource(kind="pool", pool="withheld", share=1.0)


def told_to(site: str, config: RunConfig) -> RunConfig:
    """Return the configuration as one site gets it.

    Without the tracking server, whose address may hold a password, without any source of pictures
    and without the other sites. It is valid, but its digest is not the run's.
    """
    own = tuple(s.model_copy(update={"source": _WITHHELD}) for s in config.sites if s.name == site)
    return config.model_copy(
        update={
            "sites": own,
            "reference": {task: ReferenceConfig(source=_WITHHELD) for task in config.reference},
            "data": config.data.model_copy(update={"pools": {}}),
            "federation": config.federation.model_copy(
                update={"required_sites": (), "min_sites": 1}
            ),
            "tracking": config.tracking.model_copy(update={"uri": None}),
        }
    )
