"""Post-hoc methods for one finding, and how far each can be trusted; only when asked for."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from common.errors import ExplanationError
from common.explain import EXPLAINERS
from common.explain.baseline import blurred
from common.explain.score import Score, score_of
from common.explaining.own_map import OWN, grid_map
from common.explanation.derived import energy_in_region
from common.explanation.schema import Faithfulness, Finding, GridMap, Method, Region, Stability
from common.explanation.written import written, written_all
from common.metrics.agreement import agreement
from common.metrics.faithfulness import faithfulness
from common.metrics.geometry import area_means
from common.metrics.region_drop import region_drop, strongest_region
from common.metrics.stability import stability
from common.model.network import Network
from common.tasks import Task

CELLS = 64  # per side of a post-hoc map as it is written
STRONGEST = 0.05  # share of the picture that counts as a map's strongest region
Trust = Literal["none", "own", "all"]  # of which methods faithfulness and stability are measured


@dataclass(frozen=True, eq=False)
class Question:
    """One logit of one picture, as every method and measure asks for it."""

    network: Network  # in eval mode
    image: Tensor  # (1, 3, S, S)
    task: Task
    logit: int
    threshold: float  # of the finding; subtracted before a logit becomes a probability
    seed: int  # of noise and random orders

    @property
    def score(self) -> Score:
        """Return the logit as a function of pictures."""
        return score_of(self.network, task=self.task.name, logit=self.logit)

    def saliency(self, method: str) -> Tensor:
        """Return a method's map, (1, S, S). Raises ExplanationError where it has none."""
        return EXPLAINERS.get(method)(
            self.network, self.image, task=self.task.name, logit=self.logit
        )


def with_methods(
    finding: Finding, asked: Question, *, methods: tuple[str, ...], trust: Trust, roi: Region | None
) -> Finding:
    """Return a finding with further methods and with what was measured of them.

    A method that cannot explain this network says why in its place; the others go on.

    Args:
        finding: With the model's own map.
        asked: What it is read from.
        methods: Names of ``EXPLAINERS``; the model's own is there already.
        trust: Of which methods faithfulness and stability are measured.
        roi: An expert's region.
    """
    own_saliency = asked.saliency(OWN)
    own = finding.methods[0]
    if trust != "none":
        own = _trusted(own, own_saliency, asked)
    further = [
        _method(name, own_saliency, asked, is_measured=trust == "all", roi=roi)
        for name in methods
        if name != OWN
    ]
    inside, elsewhere = (None, None) if trust == "none" else _drops(own_saliency, asked)
    return finding.model_copy(
        update={
            "methods": (own, *further),
            "region_drop": inside,
            "elsewhere_drop": elsewhere,
        }
    )


def reduced(saliency: Tensor) -> GridMap:
    """Return a map (S, S) on at most 64 x 64 cells by area mean, shares summing to 1 again."""
    values = saliency.detach().double().cpu().numpy()
    rows, columns = (min(CELLS, side) for side in values.shape)
    cells = np.maximum(area_means(values, rows, columns), 0)
    total = float(cells.sum())
    return grid_map(cells / total if total > 0 else np.zeros_like(cells), "shares")


def _method(
    name: str, own_saliency: Tensor, asked: Question, *, is_measured: bool, roi: Region | None
) -> Method:
    begun = time.perf_counter()
    try:
        saliency = asked.saliency(name)
    except ExplanationError as error:
        return Method(
            name=name,
            map=None,
            failure=str(error),
            seconds=written(time.perf_counter() - begun),
            energy_in_roi=None,
            agreement=None,
            faithfulness=None,
            stability=None,
        )
    seconds = time.perf_counter() - begun
    cells = reduced(saliency[0])
    made = Method(
        name=name,
        map=cells,
        failure="",
        seconds=written(seconds),
        energy_in_roi=None if roi is None else energy_in_region(cells, roi),
        agreement=_known(agreement(own_saliency, saliency).spearman[0]),
        faithfulness=None,
        stability=None,
    )
    return _trusted(made, saliency, asked) if is_measured else made


def _trusted(method: Method, saliency: Tensor, asked: Question) -> Method:
    """Return a method with its faithfulness and stability measured."""
    score = asked.score

    def probability(pictures: Tensor) -> Tensor:
        return (score(pictures) - asked.threshold).sigmoid()

    curves = faithfulness(
        probability, asked.image, saliency, paint=blurred(asked.image), seed=asked.seed
    )

    def explain(pictures: Tensor) -> Tensor:
        return EXPLAINERS.get(method.name)(
            asked.network, pictures, task=asked.task.name, logit=asked.logit
        )

    return method.model_copy(
        update={
            "faithfulness": Faithfulness(
                shares=written_all(curves.by_map.shares),
                deletion=written_all(curves.by_map.deletion[0]),
                insertion=written_all(curves.by_map.insertion[0]),
                random_deletion=written_all(curves.by_chance.deletion[0]),
                random_insertion=written_all(curves.by_chance.insertion[0]),
            ),
            "stability": _stability(explain, saliency, asked),
        }
    )


def _stability(
    explain: Callable[[Tensor], Tensor], saliency: Tensor, asked: Question
) -> Stability | None:
    try:
        found = stability(
            explain,
            asked.image,
            may_flip=asked.task.horizontal_flip,
            seed=asked.seed,
            saliency=saliency,
        )
    except ExplanationError:
        # It explains this picture but not one next to it: no stability can be measured, which the
        # page says; the map itself stands.
        return None
    return Stability(
        noise=written(found.noise[0]),
        brightness=written(found.brightness[0]),
        shift=written(found.shift[0]),
        flip=None if found.flip is None else written(found.flip[0]),
    )


def _drops(saliency: Tensor, asked: Question) -> tuple[float | None, float | None]:
    with torch.inference_mode():
        region = strongest_region(saliency, share=STRONGEST)
        found = region_drop(asked.score, asked.image, region, seed=asked.seed)
    return _known(found.inside[0]), _known(found.elsewhere[0])


def _known(value: float) -> float | None:
    return written(value) if np.isfinite(value) else None
