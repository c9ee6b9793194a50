"""Who is summed with whom: the trunk over all sites, a head over the sites of its task."""

from collections.abc import Collection

from common.config.run import RunConfig
from common.model.layers import TRUNK, is_local


def groups_of(config: RunConfig) -> dict[str, tuple[str, ...]]:
    """Return the sites of every group of a run, by name: ``trunk`` and tasks.

    A head is a group where its task has at least ``secure_aggregation.min_group`` sites and
    ``federation.local_layers`` do not keep it at the sites; any other head is in no sum. The trunk
    always is a group: whether it is large enough is for who opens or joins it to say.
    """
    groups = {TRUNK: tuple(sorted(site.name for site in config.sites))}
    for task in config.tasks:
        sites = tuple(sorted(site.name for site in config.sites if site.task == task))
        if len(sites) >= config.secure_aggregation.min_group and not _stays(config, task):
            groups[task] = sites
    return groups


def groups_among(config: RunConfig, sites: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Return the groups as they are with these sites alone, without those that are too small.

    Of the sites of a round: what its masked updates hold. Of its survivors: what is opened.
    """
    left = {
        group: tuple(site for site in named if site in sites)
        for group, named in groups_of(config).items()
    }
    least = config.secure_aggregation.min_group
    return {group: present for group, present in left.items() if len(present) >= least}


def groups_of_task(config: RunConfig, task: str) -> tuple[str, ...]:
    """Return the groups that a site of a task is in."""
    return tuple(group for group in groups_of(config) if group in (TRUNK, task))


def _stays(config: RunConfig, task: str) -> bool:
    # Finer prefixes may keep every array too; then the group's vector holds no array.
    return is_local(f"heads.{task}.", config.federation.local_layers)
