"""Which of the network's named arrays a site trains, sends and keeps to itself.

Names are the network's state names: ``trunk.*`` is shared by all sites, ``heads.<task>.*`` by the
sites of that task.
"""

from collections.abc import Collection, Iterable, Sequence

from common.errors import ConfigError, ModelError

TRUNK = "trunk"
_HEADS = "heads."


def group_of(name: str) -> str:
    """Return ``trunk`` or the task whose head the array belongs to.

    Raises ModelError for a name that is neither.
    """
    if name.startswith(TRUNK + "."):
        return TRUNK
    if name.startswith(_HEADS) and "." in name.removeprefix(_HEADS):
        return name.removeprefix(_HEADS).split(".", 1)[0]
    raise ModelError(f"array {name!r} is neither trunk.* nor heads.<task>.*; name it so.")


def held_by(task: str, names: Iterable[str]) -> list[str]:
    """Return the names a site of a task holds: trunk and its own head, in order."""
    return [name for name in names if group_of(name) in (TRUNK, task)]


def is_of_concepts(name: str) -> bool:
    """Say whether an array belongs to a task's concept heads, ``heads.<task>.concepts.*``."""
    return name.startswith(_HEADS) and name.split(".")[2:3] == ["concepts"]


def is_local(name: str, local_layers: Sequence[str]) -> bool:
    """Say whether the configuration keeps an array at the site (by name prefix)."""
    return any(name.startswith(prefix) for prefix in local_layers)


def shared(names: Iterable[str], local_layers: Sequence[str]) -> list[str]:
    """Return the names that leave a site, in order."""
    return [name for name in names if not is_local(name, local_layers)]


def refuse_unusable(
    names: Collection[str], tasks: Iterable[str], local_layers: Sequence[str]
) -> None:
    """Raise ConfigError for local layers that leave a task's sites nothing to train together."""
    if "" in local_layers:
        raise ConfigError(
            "federation.local_layers: '' is the prefix of every array, so nothing would be shared. "
            "Remove it, or name a layer."
        )
    for task in tasks:
        if not shared(held_by(task, names), local_layers):
            raise ConfigError(
                f"federation.local_layers: {', '.join(map(repr, local_layers))} keep every array "
                f"of task {task} at its sites, so nothing would be shared. Remove one."
            )


def tasks_with_local_head(
    names: Collection[str], tasks: Iterable[str], local_layers: Sequence[str]
) -> list[str]:
    """Return the tasks whose whole head stays at the sites: nobody else has it trained."""
    heads = {task: [name for name in names if group_of(name) == task] for task in tasks}
    return [task for task, head in heads.items() if head and not shared(head, local_layers)]


def unmatched_prefixes(names: Collection[str], local_layers: Sequence[str]) -> list[str]:
    """Return the prefixes that match no array: a misspelt one would silently share a layer."""
    return [p for p in local_layers if not any(name.startswith(p) for name in names)]
