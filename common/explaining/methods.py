"""Post-hoc methods for one finding, and how far each can be trusted; only when asked for."""

import time

import numpy as np
from torch import Tensor

from common.errors import ExplanationError
from common.explaining.breakdown import breakdown
from common.explaining.own_map import OWN, grid_map
from common.explaining.question import Question
from common.explaining.sums import mapped
from common.explaining.trusting import Measuring, Scales, drops, known, trusted
from common.explanation.derived import energy_in_region
from common.explanation.schema import Finding, GridMap, Method, Region
from common.explanation.written import written
from common.metrics.agreement import agreement
from common.metrics.geometry import area_means

CELLS = 64  # per side of a post-hoc map as it is written


def with_methods(
    finding: Finding,
    asked: Question,
    *,
    methods: tuple[str, ...],
    measuring: Measuring,
    roi: Region | None,
) -> Finding:
    """Return a finding with further methods and with what was measured of them.

    A method that cannot explain this network, or that breaks down on this picture, says why in its
    place; the others go on.

    Args:
        finding: With the model's own map.
        asked: What it is read from.
        methods: Names of ``EXPLAINERS``; the model's own is there already.
        measuring: Of which methods faithfulness and stability are measured, and against what.
        roi: An expert's region.
    """
    own_saliency = asked.saliency(OWN)
    scales = Scales(asked, measuring)
    own = finding.methods[0]
    if measuring.trust != "none":
        own = trusted(own, own_saliency, scales)
    further = [_method(name, own_saliency, scales, roi=roi) for name in methods if name != OWN]
    inside, elsewhere = (None, None)
    if measuring.trust != "none":
        inside, elsewhere = drops(own_saliency, asked)
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


def _method(name: str, own_saliency: Tensor, scales: Scales, *, roi: Region | None) -> Method:
    begun = time.perf_counter()
    try:
        made, saliency = _made(name, own_saliency, scales.asked, roi=roi)
    except MemoryError:
        raise
    except ExplanationError as error:
        return _failed(name, str(error), begun)
    except Exception as error:  # whatever a library raises: this map is lost, the page is not
        words = f"it broke down on this picture ({breakdown(error)}). Leave it out, or report this."
        return _failed(name, words, begun)
    return trusted(made, saliency, scales) if scales.measuring.trust == "all" else made


def _made(
    name: str, own_saliency: Tensor, asked: Question, *, roi: Region | None
) -> tuple[Method, Tensor]:
    """Return a method with its map as it is written, and the map itself, (1, S, S)."""
    begun = time.perf_counter()
    found = mapped(asked, name)
    seconds = time.perf_counter() - begun
    if not bool(found.saliency.isfinite().all()):
        raise ExplanationError("its numbers for this picture are not finite. Use another method.")
    cells = reduced(found.saliency[0])
    made = Method(
        name=name,
        map=cells,
        failure="",
        seconds=written(seconds),
        energy_in_roi=None if roi is None else energy_in_region(cells, roi),
        agreement=known(agreement(own_saliency, found.saliency).spearman[0]),
        completeness=found.completeness,
        faithfulness=None,
        stability=None,
        unmeasured="",
    )
    return made, found.saliency


def _failed(name: str, failure: str, begun: float) -> Method:
    return Method(
        name=name,
        map=None,
        failure=failure,
        seconds=written(time.perf_counter() - begun),
        energy_in_roi=None,
        agreement=None,
        completeness=None,
        faithfulness=None,
        stability=None,
        unmeasured="",
    )
