"""What is wanted of every picture beside its prediction and the model's own map. Light."""

from dataclasses import dataclass
from typing import Literal

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
