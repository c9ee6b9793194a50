"""Where each number of a group's vector stands: arrays by name, then extras in their order.

All sites of a group and the coordinator derive it from the configuration and the arrays' shapes.

How fine the numbers are. A site's update is scaled down to an L2 norm of at most C
(``secure_aggregation.clip_norm``) and further, if need be, until no number of an array is larger
than C · min(1, 64 / √d), with d numbers in the group. Without the second bound a sum would lose
accuracy as networks grow; with it, the rounding error of a group's sum over K of S sites has an L2
norm of at most 64 · C · K · S / 2^32 for d ≥ 4096 (see fixed_point.py; √d times the error of one
number), and for random rounding about 1 / √(3K) of that, however large the network is. Trained
updates keep their length: the largest of their numbers is far below 64 times the root mean square
of an update of norm C.

What a measure tells. It is a sum of values and a count of the sites that have one. Where a single
site of a group can measure something, as when it alone has validation pictures, that sum is its own
value, and whoever opens the sum knows it. Reports leave such measures out; the coordinator itself
cannot be kept from reading them.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.config.run import RunConfig
from common.errors import ConfigError, WireError
from common.messages.kinds import Arrays
from common.model.layers import TRUNK, group_of, shared
from common.secure_sum.fixed_point import LARGEST_SUM, FixedPoint
from common.secure_sum.groups import groups_of, groups_of_task
from common.secure_sum.measures import LOSS_BOUND, LOSS_PARTS, metric_bound, metric_names

WEIGHT = "weight"  # pictures, at most max_examples; 1 where all sites weigh alike
PICTURES = "pictures"  # all of them
CLIPPED = "clipped"  # sites whose update was scaled down
FLOOR_JUDGED = "floor_judged"  # sites that measured everything that federation.site_floor names
FLOOR_MET = "floor_met"  # ... and reached it
TRAIN_PREFIX = "train_"  # before a loss part of the training

_SITES = ".sites"  # after a measure: how many sites have a value
_SUM = ".sum"  # after a measure: of their values

PEAK = 64.0  # largest number of a vector, in root mean squares of one whose norm is clip_norm


@dataclass(frozen=True)
class Extra:
    """One number beside the arrays."""

    name: str
    point: FixedPoint

    @property
    def is_count(self) -> bool:
        """Say whether it is a whole number, which a sum keeps exactly."""
        return self.point.scale == 1


@dataclass(frozen=True)
class Measure:
    """What sites measured, on average."""

    mean: float  # over the sites that have a value
    sites: int


@dataclass(frozen=True, eq=False)
class GroupSum:
    """The sum over the sites of a group."""

    arrays: dict[str, NDArray[np.float64]]  # Σ weight · update
    extras: dict[str, float]  # Σ, by name

    def mean(self) -> dict[str, NDArray[np.float64]]:
        """Return Σ weight · update / Σ weight of every array."""
        weight = self.extras[WEIGHT]
        return {name: array / weight for name, array in self.arrays.items()}

    def measures(self) -> dict[str, Measure]:
        """Return what at least one site has measured, by name of the metric."""
        found = {}
        for name, sites in self.extras.items():
            if name.endswith(_SITES) and sites > 0:
                metric = name.removesuffix(_SITES)
                found[metric] = Measure(self.extras[metric + _SUM] / sites, int(sites))
        return found


@dataclass(frozen=True, eq=False)
class Layout:
    """The vector of one group."""

    group: str
    shapes: Mapping[str, tuple[int, ...]]  # of the arrays, by name
    numbers: tuple[Extra, ...]
    sites: int  # at most so many are summed
    clip_norm: float  # L2, of a site's whole update
    max_weight: int

    @property
    def names(self) -> tuple[str, ...]:
        """The arrays, in their order."""
        return tuple(sorted(self.shapes))

    @property
    def extras(self) -> tuple[str, ...]:
        """The names of what follows the arrays, in their order."""
        return tuple(extra.name for extra in self.numbers)

    @property
    def size(self) -> int:
        """Numbers in the vector."""
        return self._array_size + len(self.numbers)

    @property
    def largest_number(self) -> float:
        """What no number of an array may exceed in size."""
        return self.clip_norm * min(1.0, PEAK / math.sqrt(max(self._array_size, 1)))

    @property
    def _array_size(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes.values())

    @property
    def _point(self) -> FixedPoint:
        return FixedPoint(self.sites, self.largest_number)

    def encode(
        self, arrays: Arrays, extras: Mapping[str, float], *, factor: float = 1.0
    ) -> NDArray[np.uint32]:
        """Return a site's vector, (size,): each array times factor and weight, then the extras.

        Extras beyond their bounds are clipped to them. Raises WireError when an array or extra is
        missing or of another shape, DataError for numbers that are too large even so.
        """
        if set(arrays) != set(self.shapes) or set(extras) != set(self.extras):
            differing = sorted(set(arrays) ^ set(self.shapes) | set(extras) ^ set(self.extras))
            raise WireError(f"group {self.group}: {differing[0]!r} is missing or not summed.")
        vector = np.empty(self.size, np.uint32)
        weighted = factor * extras[WEIGHT] / self.max_weight
        for name, place in self._places():
            if arrays[name].shape != self.shapes[name]:
                raise WireError(
                    f"group {self.group}: {name} has shape {arrays[name].shape}, "
                    f"expected {self.shapes[name]}."
                )
            vector[place] = self._point.encode(arrays[name].ravel(), factor=weighted)
        for index, extra in enumerate(self.numbers, start=self._array_size):
            bound = extra.point.bound
            clipped = min(max(extras[extra.name], -bound), bound)
            vector[index] = extra.point.encode(np.array([clipped]))[0]
        return vector

    def decode(self, sums: NDArray[np.uint32]) -> GroupSum:
        """Return what the vectors of some sites add up to, from their sum modulo 2^32, (size,).

        Raises WireError for another size.
        """
        if sums.shape != (self.size,):
            raise WireError(f"group {self.group}: expected ({self.size},), got {sums.shape}.")
        arrays = {}
        for name, place in self._places():
            summed = self._point.decode(sums[place])
            summed *= self.max_weight
            arrays[name] = summed.reshape(self.shapes[name])
        last = sums[self._array_size :]
        extras = {
            extra.name: float(extra.point.decode(last[index : index + 1])[0])
            for index, extra in enumerate(self.numbers)
        }
        return GroupSum(arrays, extras)

    def _places(self) -> Iterator[tuple[str, slice]]:
        start = 0
        for name in self.names:
            stop = start + math.prod(self.shapes[name])
            yield name, slice(start, stop)
            start = stop


def layouts(
    config: RunConfig, shapes: Mapping[str, tuple[int, ...]], *, task: str
) -> dict[str, Layout]:
    """Return the vectors of the groups that a site of a task is in.

    ``shapes`` are of the network's arrays; those that stay at the sites and those of other tasks
    may be among them. Raises ConfigError when the weights of all sites cannot be added exactly.
    """
    sites = {group: len(named) for group, named in groups_of(config).items()}
    summed = shared(shapes, config.federation.local_layers)
    return {
        group: Layout(
            group=group,
            shapes={name: tuple(shapes[name]) for name in summed if group_of(name) == group},
            numbers=tuple(_extras(config, group, sites[group])),
            sites=sites[group],
            clip_norm=config.secure_aggregation.clip_norm,
            max_weight=max_weight(config),
        )
        for group in groups_of_task(config, task)
    }


def max_weight(config: RunConfig) -> int:
    """Return the largest weight of a site."""
    if config.federation.aggregation == "uniform-mean":
        return 1
    return config.secure_aggregation.max_examples


def count_of(measure: str) -> str:
    """Return the name of the extra that counts the sites which have this measure."""
    return measure + _SITES


def sum_of(measure: str) -> str:
    """Return the name of the extra that holds this measure's sum."""
    return measure + _SUM


def _extras(config: RunConfig, group: str, sites: int) -> Iterator[Extra]:
    weight = max_weight(config)
    if weight * sites > LARGEST_SUM:
        raise ConfigError(
            f"secure_aggregation.max_examples: {weight} for each of {sites} sites is more than "
            f"{LARGEST_SUM} together. Lower it."
        )
    yield _count(WEIGHT, sites)
    if group == TRUNK:
        for name in (PICTURES, CLIPPED, FLOOR_JUDGED, FLOOR_MET):
            yield _count(name, sites)
        for part in LOSS_PARTS:
            yield from _measure(TRAIN_PREFIX + part, sites, LOSS_BOUND)
    else:
        for name in metric_names(config, group):
            yield from _measure(name, sites, metric_bound(name))


def _count(name: str, sites: int) -> Extra:
    return Extra(name, FixedPoint(sites, float(LARGEST_SUM // sites)))  # one step is one


def _measure(name: str, sites: int, bound: float) -> Iterator[Extra]:
    yield _count(count_of(name), sites)
    yield Extra(sum_of(name), FixedPoint(sites, bound))
