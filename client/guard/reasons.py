"""In what words a site says that its trainer could not train: never in the trainer's own.

Pure. A trainer's reason may quote an error, and an error a file or a patient. Here it is matched
against what client/training/trainer.py says; what leaves is made of words that stand in this file,
of sizes in pixels and numbers of processes, and of names that the request itself holds. The rest of
the text stays in the site's own log.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass

from common.tasks import TASKS

UNKNOWN_REASON = "it could not train; its own log says why"

_SEE_LOG = "its own log says more"
_SENTENCES = (  # said as they are
    "its shard was prepared for another task or other labels",
    "no training pictures",
    "no val pictures",
)
_WITH_A_NUMBER = (  # likewise; a number tells how a site is set up, nothing of a picture
    r"its pictures are [0-9]{1,5} px wide, the run's are not",
    r"private training uses one process, this site [0-9]{1,4}: set machine\.processes to 1 in "
    r"site\.yaml",
)


@dataclass(frozen=True)
class Told:
    """A reason that may leave."""

    reason: str
    depends_on_pictures: bool  # another model might get another answer


def told_of(reason: str, *, arrays: Collection[str]) -> Told:
    """Return what is told of a trainer's reason.

    Args:
        reason: The trainer's.
        arrays: Names of the arrays that the request holds.
    """
    if reason in _SENTENCES or any(re.fullmatch(form, reason) for form in _WITH_A_NUMBER):
        return Told(reason, depends_on_pictures=False)
    return (
        _of_the_network(reason, arrays)
        or _of_the_training(reason, arrays)
        or Told(UNKNOWN_REASON, depends_on_pictures=True)
    )


def _of_the_network(reason: str, arrays: Collection[str]) -> Told | None:
    """Return what is told of what the request and this site's network make of each other."""
    if reason.removeprefix("the run has no task ") in TASKS:
        return Told(reason, depends_on_pictures=False)
    if found := re.fullmatch(r"the arrays are not this network's: (.+) differs", reason):
        differs = f"{found[1]} differs" if found[1] in arrays else _SEE_LOG
        return Told(f"the arrays are not this network's: {differs}", depends_on_pictures=False)
    if reason.startswith("private training: privacy.unit is patient"):
        told = (
            "private training: pictures without a patient in their table cannot be protected by "
            f"patient; {_SEE_LOG}"
        )
        return Told(told, depends_on_pictures=False)
    if not reason.startswith("private training: "):
        return None
    remedy = (
        "choose an encoder of configs/models/, set privacy.per_sample_gradients to auto, or turn "
        "privacy.enabled off"
    )
    told = f"private training: this network does not allow it; {remedy}; {_SEE_LOG}"
    return Told(told, depends_on_pictures=False)


def _of_the_training(reason: str, arrays: Collection[str]) -> Told | None:
    """Return what is told of a training that went wrong: not when, which the pictures decide."""
    if reason.startswith("non-finite: the loss was not finite"):
        return Told("non-finite: the loss was not finite", depends_on_pictures=True)
    found = re.fullmatch(r"non-finite: (.+) after training", reason)
    if found is None or found[1] not in arrays:
        return None
    return Told(f"non-finite: {found[1]} after training", depends_on_pictures=True)
