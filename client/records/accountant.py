"""How much privacy was spent: epsilon of all that was, as one composition.

Epsilons do not add up. Privacy loss distributions are composed instead, numerically and rounded to
the safe side (Doroshenko et al. 2022, "Connect the Dots: Tighter Discrete Approximations of Privacy
Loss Distributions", https://doi.org/10.56553/popets-2022-0122), under the relation that adds or
removes one unit. Light: the library loads with the first composition.
"""

import logging
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache

from client.records.spending import Spending
from common.config.privacy import Unit

# Width of a step of the discretised loss: at sampling rates from 0.001 on, epsilon comes out at
# most 0.3 % too high, in half a second.
_INTERVAL = 2e-4

# Beyond, epsilon promises nothing, and the coarser bound will do: the fine one would need memory
# in proportion to it.
_COARSE_FROM = 100.0

# Removing a picture replaces its patient's clipped gradient by another one: it moves the sum by up
# to twice what removing the patient does, so the noise is worth half.
_PICTURE_OF_PATIENT = 0.5

_Group = tuple[float, float, int]  # noise multiplier, sample rate, steps


def covers(spending: Spending, unit: Unit) -> bool:
    """Say whether a mechanism protects a unit: what hides a patient hides each of the pictures."""
    return spending.unit == "patient" or unit == "image"


def epsilon(spendings: Iterable[Spending], *, unit: Unit, delta: float) -> float:
    """Return epsilon at ``delta`` of all mechanisms that protect ``unit`` together; 0.0 for none.

    A mechanism that protects pictures only tells nothing of patients: it is not in the number,
    see :func:`covers`. Infinite where no finite epsilon holds at ``delta``.
    """
    steps: Counter[tuple[float, float]] = Counter()
    for spending in spendings:
        if covers(spending, unit):
            noise = _noise_multiplier(spending, unit)
            steps[noise, spending.sample_rate] += spending.steps
    groups = tuple(sorted((noise, rate, count) for (noise, rate), count in steps.items()))
    return _composed(groups, delta) if groups else 0.0


def shown(epsilon: float) -> str:
    """Return an epsilon in two digits, rounded up: never less than was spent."""
    return f"{math.ceil(epsilon * 100) / 100:.2f}" if math.isfinite(epsilon) else "infinite"


def _noise_multiplier(spending: Spending, unit: Unit) -> float:
    if spending.unit == "patient" and unit == "image":
        return spending.noise_multiplier * _PICTURE_OF_PATIENT
    return spending.noise_multiplier


@lru_cache(maxsize=256)
def _composed(groups: tuple[_Group, ...], delta: float) -> float:
    from dp_accounting import (  # noqa: PLC0415 - takes a second or two
        ComposedDpEvent,
        GaussianDpEvent,
        PoissonSampledDpEvent,
        SelfComposedDpEvent,
    )
    from dp_accounting.pld import PLDAccountant  # noqa: PLC0415 - likewise
    from dp_accounting.rdp import RdpAccountant  # noqa: PLC0415 - likewise

    event = ComposedDpEvent(
        [
            SelfComposedDpEvent(PoissonSampledDpEvent(rate, GaussianDpEvent(noise)), steps)
            for noise, rate, steps in groups
        ]
    )
    with _quiet():
        coarse = float(RdpAccountant().compose(event).get_epsilon(delta))
        if coarse > _COARSE_FROM:
            return coarse
        fine = PLDAccountant(value_discretization_interval=_INTERVAL).compose(event)
        # Both hold.
        return min(coarse, float(fine.get_epsilon(delta)))


@contextmanager
def _quiet() -> Iterator[None]:
    """Drop what the library itself logs meanwhile, such as which order of its bound was the best.

    Other libraries that log by the same name are heard.
    """

    def is_others(record: logging.LogRecord) -> bool:
        return "dp_accounting" not in record.pathname

    logger = logging.getLogger("absl")
    logger.addFilter(is_others)
    try:
        yield
    finally:
        logger.removeFilter(is_others)
