"""A run under secure sums as it can be: heads of tasks with too few sites stay at those sites.

Pure. Settled before the manifest is signed, so that sites read of it what everybody does.
"""

from common.config.run import RunConfig
from common.model.layers import is_local


def secured(config: RunConfig) -> tuple[RunConfig, tuple[str, ...]]:
    """Return the run with such heads among its local layers, and a sentence on each.

    A sum over fewer than ``secure_aggregation.min_group`` sites is never opened, so nobody could
    merge these heads. A run without secure sums comes back as it is; so does one that was secured.
    """
    if not config.secure_aggregation.enabled:
        return config, ()
    least = config.secure_aggregation.min_group
    local_layers = config.federation.local_layers
    notes = []
    for task in config.tasks:
        sites = sum(site.task == task for site in config.sites)
        prefix = f"heads.{task}."
        if 0 < sites < least and not is_local(prefix, local_layers):
            local_layers = (*local_layers, prefix)
            notes.append(
                f"{task}: {sites} site{'s' if sites > 1 else ''}, fewer than {least}: its head "
                "stays at its sites; central metrics of the task measure an untrained head"
            )
    federation = config.federation.model_copy(update={"local_layers": local_layers})
    return config.model_copy(update={"federation": federation}), tuple(notes)
