"""What sites are told of the run's configuration: what they train by and approve, and no more."""

from common.config.run import FederationConfig, PoolSource, ReferenceConfig, RunConfig
from common.secure_sum.groups import groups_of

# In place of every source: where pictures lie is the affair of those who prepare them.
_WITHHELD = PoolSource(kind="pool", pool="withheld", share=1.0)


def told(config: RunConfig) -> RunConfig:
    """Return the configuration as every site gets it, one and the same for all.

    Without the tracking server, whose address may hold a password, and without any source of
    pictures. The sites keep their names and tasks: whoever takes part may know with whom, and the
    signed manifest names them anyway. Heads that are in no secure sum, because their task has too
    few sites, stay at the sites. It is valid, but its digest is not the run's.
    """
    return config.model_copy(
        update={
            "sites": tuple(s.model_copy(update={"source": _WITHHELD}) for s in config.sites),
            "reference": {task: ReferenceConfig(source=_WITHHELD) for task in config.reference},
            "data": config.data.model_copy(update={"pools": {}}),
            "federation": _with_heads_that_stay(config),
            "tracking": config.tracking.model_copy(update={"uri": None}),
        }
    )


def _with_heads_that_stay(config: RunConfig) -> FederationConfig:
    rules = config.federation
    if not config.secure_aggregation.enabled:
        return rules
    summed = groups_of(config)
    heads = (f"heads.{task}." for task in config.tasks if task not in summed)
    staying = tuple(head for head in heads if head not in rules.local_layers)
    return rules.model_copy(update={"local_layers": (*rules.local_layers, *staying)})
