"""What must hold between several values of a configuration; raises the ValueErrors of pydantic."""

from collections.abc import Mapping

from common.errors import ConfigError
from common.registry import unknown_name
from common.tasks import TASKS, task_named


def check_ascending(key: str, bounds: tuple[float, float] | None, *, equal_allowed: bool) -> None:
    """Raise ValueError where the lower of two bounds does not come first."""
    if bounds is None or bounds[0] < bounds[1] or (equal_allowed and bounds[0] == bounds[1]):
        return
    must = "be at most" if equal_allowed else "be less than"
    raise ValueError(f"the first value of {key} must {must} the second, got {list(bounds)}")


def check_whole(shares: Mapping[str, float]) -> None:
    """Raise ValueError where shares by name do not sum to 1."""
    total = sum(shares.values())
    if abs(total - 1.0) > 1e-6:
        raise ValueError(f"{' + '.join(shares)} must be 1, got {total:g}: change one of them")


def check_labels(
    restricted: Mapping[str, tuple[str, ...] | None],
    *,
    context_labels: Mapping[str, tuple[str, ...]],
) -> None:
    """Raise ValueError for labels that a task, or the task as the run restricts it, has not.

    Args:
        restricted: Per task of the run the labels it keeps, None where all.
        context_labels: Per task the logits with a context part. Tasks that the run leaves out
            may stand here, as the files that a run extends know them.
    """
    for name, labels in restricted.items():
        try:
            logits = task_named(name, labels).logit_names
        except ConfigError as error:
            key = f"tasks.{name}.labels" if name in TASKS else "tasks"
            raise ValueError(f"{key}: {error}") from error
        for label in context_labels.get(name, ()):
            if label not in logits:
                unknown = unknown_name("context label", label, dict.fromkeys(logits))
                instead = f", or add it to tasks.{name}.labels" if labels else ""
                raise ValueError(
                    f"model.context_labels.{name}: {unknown} "
                    f"Take it out, e.g. with --set model.context_labels.{name}=[]{instead}."
                )
    for name in context_labels:
        if name not in TASKS:
            raise ValueError("model.context_labels: " + unknown_name("task", name, TASKS))
