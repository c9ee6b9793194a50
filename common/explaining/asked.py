"""What is wanted of every picture beside its prediction and the model's own map. Light."""

from dataclasses import dataclass
from typing import Literal

from common.errors import ModelError
from common.explain import EXPLAINERS
from common.registry import unknown_name

ALL = "all"

Trust = Literal["none", "own", "all"]  # of which methods faithfulness and stability are measured
# Orders of removal that a map is held against. A map of noise is better than each of ten in at
# most one picture of ten; every one costs 17 forward passes for each finding.
RANDOM_ORDERS = 10
FEWEST_ORDERS = 2  # noise beats a single one in nearly every second picture


@dataclass(frozen=True)
class Asked:
    """What is wanted of every picture."""

    task: str
    methods: tuple[str, ...] = ()
    trust: Trust = "own"
    findings: tuple[str, ...] | None = None  # None: those called or left open
    random_orders: int = RANDOM_ORDERS


def named(text: str) -> tuple[str, ...]:
    """Return the names in a text that separates them by commas, each once."""
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def methods_named(text: str) -> tuple[str, ...]:
    """Return the explanation methods that a reader names, ``all`` of them or some.

    Raises ModelError for a name that is none.
    """
    if text.strip() == ALL:
        return tuple(EXPLAINERS)
    for name in named(text):
        if name not in EXPLAINERS:
            raise ModelError(unknown_name("explanation method", name, dict.fromkeys(EXPLAINERS)))
    return named(text)
