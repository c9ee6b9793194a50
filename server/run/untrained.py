"""Which tasks of a run a model cannot answer, because nobody has trained their heads together.

Such a head has the weights it began with: its answers would be noise, and would look like answers.
Pure.
"""

from collections.abc import Collection, Sequence

from common.config.run import RunConfig
from common.model.layers import TRUNK, group_of, is_local, is_of_concepts
from server.exchange.participation import Outcome, Participation
from server.record.summary import RoundEntry


def untrained_tasks(
    config: RunConfig,
    names: Collection[str],
    rounds: Sequence[RoundEntry],
    *,
    participation: Sequence[Participation],
    until: int,
) -> dict[str, str]:
    """Return the tasks that the model of a round cannot answer, each with the reason in a sentence.

    Layers of the trunk that stay at the sites leave out every task: each site uses the model with
    its own, and the coordinator's copy, which was never trained, belongs to none of them. Signs
    alone may stay: a sign's head that was not taught answers nothing by itself
    (:class:`common.model.concepts.ConceptHead`).

    Args:
        config: The run's, after tasks with too few sites for secure sums were settled.
        names: Of the network's arrays.
        rounds: Their entries.
        participation: What came of each round.
        until: The model's round.
    """
    local = [name for name in names if is_local(name, config.federation.local_layers)]
    trunk = [name for name in local if group_of(name) == TRUNK]
    found: dict[str, str] = {}
    for task in config.tasks:
        head = [name for name in local if group_of(name) == task and not is_of_concepts(name)]
        if trunk:
            found[task] = (
                f"Layers of the trunk stay at their sites ({trunk[0]} and others like it, by "
                "federation.local_layers), where each site has trained its own: the coordinator's "
                "copy of them was never trained."
            )
        elif head:
            found[task] = _stays(config, task)
        elif until == 0:
            found[task] = (
                "The model is that of round 0, before any training: no later one was better."
            )
        elif not training_of(config, task, rounds, participation=participation, until=until)[0]:
            found[task] = (
                f"No site had trained its head together with the others until round {until}, "
                "which the model is of."
            )
    return found


def training_of(
    config: RunConfig,
    task: str,
    rounds: Sequence[RoundEntry],
    *,
    participation: Sequence[Participation],
    until: int,
) -> tuple[int, int | None]:
    """Return how many sites have trained a task's head until a round, on how many pictures.

    A round that left the model as it was has trained nothing, whoever answered: too few did, or a
    masked sum was not opened. No pictures are known where the server sees sums alone.

    Arguments as of :func:`untrained_tasks`.
    """
    stayed = {each.server_round for each in participation if not each.changed_model}
    of_task = {site.name for site in config.sites if site.task == task}
    counts = {
        site.site: site.num_examples
        for entry in rounds
        if entry.round <= until and entry.round not in stayed and _has_head(entry, task)
        for site in entry.sites
        if site.site in of_task and site.outcome is Outcome.ANSWERED
    }
    known = [count for count in counts.values() if count is not None]
    return len(counts), sum(known) if len(known) == len(counts) else None


def _has_head(entry: RoundEntry, task: str) -> bool:
    """Say whether a round that changed the model changed the task's head too."""
    if entry.summed is None:
        return True
    group = entry.summed.groups.get(task)
    return not entry.summed.reason and group is not None and group.sites > 0


def _stays(config: RunConfig, task: str) -> str:
    sites = sum(site.task == task for site in config.sites)
    secure = config.secure_aggregation
    if secure.enabled and sites < secure.min_group:
        return (
            f"Its head stays at its sites, as {sites} are too few for a sum under masks, which "
            f"needs {secure.min_group} (secure_aggregation.min_group): the coordinator's copy was "
            "never trained."
        )
    return (
        "Its head, or a part of it, stays at its sites (federation.local_layers): the "
        "coordinator's copy was never trained."
    )
