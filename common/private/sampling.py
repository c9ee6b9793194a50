"""Who takes part in a step: every unit by its own coin, whatever the others' show.

The chance of being in a step is what the accountant counts with (Poisson subsampling, Abadi et al.
2016, https://arxiv.org/abs/1607.00133, section 3.1). The number of units drawn varies, and a step
may have none.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from common.config.privacy import PrivacyConfig, Unit
from common.datasets.shard import Shard
from common.errors import DataError
from common.private.secure_random import SecureRandom

Pictures = NDArray[np.int64]  # indices into a shard


def require_units(shard: Shard, part: str, *, unit: Unit) -> None:
    """Raise DataError where a part's pictures cannot be told apart by unit.

    A picture whose table names no patient passes for a patient of its own. One patient's pictures
    would then be several units, each with the noise of one.
    """
    if unit == "image":
        return
    unnamed = shard.unnamed_pictures(part)
    if unnamed:
        raise DataError(
            f"privacy.unit is patient, but {unnamed} of {len(shard.indices(part))} pictures of "
            f"part {part} have no patient in their table, so one patient may count as several. "
            "Name the patient column in the source (columns.patient) and prepare the shard again, "
            "or set privacy.unit to image where policies allow it."
        )


def units_of(shard: Shard, part: str, *, unit: Unit) -> tuple[Pictures, ...]:
    """Return the pictures of each unit of a part: of each patient, or each picture by itself.

    Raises DataError where patients are the unit and a picture's is not known.
    """
    require_units(shard, part, unit=unit)
    pictures = shard.indices(part)
    if unit == "image":
        return tuple(pictures[:, None])
    patients = shard.patients[pictures]
    order = np.argsort(patients, kind="stable")
    _, starts = np.unique(patients[order], return_index=True)
    return tuple(np.split(pictures[order], starts[1:]))


def draw_units(
    units: Sequence[Pictures], *, privacy: PrivacyConfig, random: SecureRandom
) -> list[Pictures]:
    """Return the pictures of the units that take part in one step.

    Of a unit with more than ``max_pictures_per_patient`` pictures so many are drawn anew. A unit
    is always one entry, however many pictures it has.
    """
    drawn = np.flatnonzero(random.bernoulli(len(units), rate=privacy.sample_rate))
    return [
        random.subset(units[number], size=privacy.max_pictures_per_patient)
        for number in drawn.tolist()
    ]


def packed(units: Sequence[Pictures], *, at_most: int) -> Iterator[list[Pictures]]:
    """Yield the units in groups of at most so many pictures; a larger unit stands alone."""
    group: list[Pictures] = []
    for unit in units:
        if group and sum(map(len, group)) + len(unit) > at_most:
            yield group
            group = []
        group.append(unit)
    if group:
        yield group
