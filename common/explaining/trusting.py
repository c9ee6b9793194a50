"""How far one map can be trusted: faithfulness and stability, chance beside each."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from common.errors import DataError, FoveaError
from common.explain.baseline import blurred
from common.explaining.asked import FEWEST_ORDERS, RANDOM_ORDERS, Trust
from common.explaining.breakdown import breakdown
from common.explaining.other_pictures import OtherPictures
from common.explaining.question import Question
from common.explanation.derived import area, beaten_orders
from common.explanation.schema import Faithfulness, Method, Stability
from common.explanation.written import written, written_all
from common.metrics.faithfulness import (
    Curves,
    cell_ranks,
    curves_by_chance,
    curves_in_order,
)
from common.metrics.region_drop import region_drop, strongest_region
from common.metrics.stability import similarity, stability

T = TypeVar("T")
STRONGEST = 0.05  # share of the picture that counts as a map's strongest region
ALONE = "no other picture was explained along with it, and a model package keeps no maps"
NO_OTHER_MAP = "none of the other pictures has a map by this method"
EMPTY = "It names no place of the picture, so that there is nothing to measure."


@dataclass(frozen=True, eq=False)
class Measuring:
    """What is measured of maps, and against what."""

    trust: Trust = "none"
    random_orders: int = RANDOM_ORDERS  # of removal, that faithfulness is held against
    others: OtherPictures | None = None  # that stability is held against

    def __post_init__(self) -> None:
        """Refuse fewer random orders than tell anything."""
        if self.random_orders < FEWEST_ORDERS:
            raise DataError(
                f"faithfulness was to be held against {self.random_orders} random orders; give at "
                f"least {FEWEST_ORDERS}, or measure no trust."
            )


@dataclass(frozen=True, eq=False)
class Scales:
    """What every map of one question is held against."""

    asked: Question
    measuring: Measuring

    @cached_property
    def paint(self) -> Tensor:
        """What a painted place shows, (1, 3, S, S)."""
        return blurred(self.asked.image)

    @cached_property
    def by_chance(self) -> tuple[Curves, ...]:
        """Curves of random orders, the same for every map of the picture."""
        return curves_by_chance(
            self.asked.probability,
            self.asked.image,
            paint=self.paint,
            seed=self.asked.seed,
            random_orders=self.measuring.random_orders,
        )


def trusted(method: Method, saliency: Tensor, scales: Scales) -> Method:
    """Return a method with its faithfulness and stability measured.

    What breaks down stays unmeasured, with the reason in its place: the map itself stands. So does
    an empty map: its cells would be painted over in random order, and it would stay the same.

    Args:
        method: With a map.
        saliency: The same map, (1, S, S).
        scales: Of the question it answers.
    """
    if not bool(saliency.any()):
        return method.model_copy(update={"unmeasured": EMPTY})
    faithful, why_not_faithful = _tried(lambda: _faithfulness(saliency, scales), "faithfulness")
    stable, why_not_stable = _tried(lambda: _stability(method.name, saliency, scales), "stability")
    return method.model_copy(
        update={
            "faithfulness": faithful,
            "stability": stable,
            "unmeasured": " ".join(filter(None, (why_not_faithful, why_not_stable))),
        }
    )


def drops(saliency: Tensor, asked: Question) -> tuple[float | None, float | None]:
    """Return the logit lost when a map's strongest region is filled in, and an equal one elsewhere.

    None where the map has no strongest region, or there is no other place for it.
    """
    with torch.inference_mode():
        region = strongest_region(saliency, share=STRONGEST)
        found = region_drop(asked.score, asked.image, region, seed=asked.seed)
    return known(found.inside[0]), known(found.elsewhere[0])


def known(value: float) -> float | None:
    """Return a number as it is written, None where it is not defined."""
    return written(value) if np.isfinite(value) else None


def _tried(measure: Callable[[], T], what: str) -> tuple[T | None, str]:
    """Return what was measured, or None and a sentence why it was not."""
    try:
        return measure(), ""
    except MemoryError:
        raise
    except FoveaError as error:
        return None, f"No {what}: {error}"
    except Exception as error:
        return None, f"No {what}: measuring it broke down ({breakdown(error)})."


def _faithfulness(saliency: Tensor, scales: Scales) -> Faithfulness:
    asked = scales.asked
    by_map = curves_in_order(
        asked.probability,
        asked.image,
        cell_ranks(saliency, seed=asked.seed),
        paint=scales.paint,
    )
    shares, deletion, insertion = map(
        written_all, (by_map.shares, by_map.deletion, by_map.insertion)
    )
    # Under the written points, as a reader takes them.
    areas = written_all([area(shares, written_all(one.deletion[0])) for one in scales.by_chance])
    random_deletion = np.mean([one.deletion[0] for one in scales.by_chance], axis=0)
    return Faithfulness(
        shares=shares,
        deletion=deletion,
        insertion=insertion,
        random_deletion=written_all(random_deletion),
        random_insertion=written_all(random_deletion[::-1]),
        random_areas=areas,
        beaten_orders=beaten_orders(shares, deletion, insertion, areas),
    )


def _stability(name: str, saliency: Tensor, scales: Scales) -> Stability:
    asked = scales.asked
    found = stability(
        lambda pictures: asked.saliency(name, pictures),
        asked.image,
        may_flip=asked.task.horizontal_flip,
        seed=asked.seed,
        saliency=saliency,
    )
    others, whose = _between(name, saliency, scales)
    return Stability(
        noise=written(found.noise[0]),
        brightness=written(found.brightness[0]),
        shift=written(found.shift[0]),
        flip=None if found.flip is None else written(found.flip[0]),
        other_pictures=others,
        others=whose,
    )


def _between(name: str, saliency: Tensor, scales: Scales) -> tuple[tuple[float, ...], str]:
    """Return the likeness to other pictures' maps, and whose those are or why there are none."""
    others = scales.measuring.others
    if others is None or others.is_alone(scales.asked):
        return (), ALONE
    maps = others.maps(scales.asked, name)
    if not len(maps):
        return (), NO_OTHER_MAP
    return written_all(similarity(saliency.expand_as(maps), maps)), others.words
