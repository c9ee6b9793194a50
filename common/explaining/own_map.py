"""What one forward pass tells of every finding: logit, probability, own map, and where it lies.

Python's own loops run over findings alone; cells are left to numpy.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.explanation.anatomy import Regions
from common.explanation.derived import energy_in_region
from common.explanation.schema import Concept, Finding, GridMap, Method, Region
from common.explanation.where import where_each
from common.explanation.written import written, written_all
from common.model.network import Output
from common.tasks import Task

OWN = "evidence"  # the model's own map, as common.explain.EXPLAINERS names it


@dataclass(frozen=True, eq=False)
class Seen:
    """The first picture of a network's output, on the CPU in double precision; T logits."""

    maps: NDArray[np.float64]  # (T, h, w)
    logits: NDArray[np.float64]  # (T,)
    context: NDArray[np.float64]  # (T,)
    thresholds: NDArray[np.float64]  # (C,) 0 but for grades
    concept_maps: NDArray[np.float64]  # (K, h, w)
    concept_logits: NDArray[np.float64]  # (K,)


def seen(output: Output, *, task: Task) -> Seen:
    """Return the first picture of an output as numbers."""
    thresholds = (
        np.zeros(len(task.class_names))
        if output.thresholds is None
        else output.thresholds.double().cpu().numpy()
    )
    return Seen(
        maps=output.maps[0].double().cpu().numpy(),
        logits=output.logits[0].double().cpu().numpy(),
        context=output.context[0].double().cpu().numpy(),
        thresholds=thresholds,
        concept_maps=output.concept_maps[0].double().cpu().numpy(),
        concept_logits=output.concept_logits[0].double().cpu().numpy(),
    )


def logit_of(task: Task, finding: int) -> int:
    """Return which logit a finding (of ``task.class_names``) is read from."""
    return 0 if task.kind == "ordinal" else finding


def findings(
    numbers: Seen,
    *,
    task: Task,
    temperature: float | None,
    shift: Mapping[str, float],
    regions: Regions,
    roi: Region | None,
    concepts: tuple[tuple[Concept, ...], ...],
    seconds: float,
) -> tuple[Finding, ...]:
    """Return one finding per class name, with the model's own map as its only method.

    A finding is called when its probability is at least one half, so that what training's weights
    moved is taken off before it is called.

    Args:
        numbers: Of the picture.
        task: Of the model.
        temperature: None: the task is not calibrated, and the shift does not count.
        shift: Per class name, in logits, of the package's calibration; a name that is missing has
            none.
        regions: On the maps' grid.
        roi: An expert's region.
        concepts: One tuple for each logit.
        seconds: That the forward pass took.
    """
    own = [_own_method(one, roi=roi, seconds=seconds) for one in grid_maps(numbers.maps, "logits")]
    places = where_each(numbers.maps, regions)
    logits, contexts = written_all(numbers.logits), written_all(numbers.context)
    found = []
    for name, threshold, logit in zip(
        task.class_names,
        written_all(numbers.thresholds),
        (logit_of(task, place) for place in range(len(task.class_names))),
        strict=True,
    ):
        values = own[logit].map
        total = written(math.fsum(values.values)) if values is not None else 0.0
        whole, context = logits[logit], contexts[logit]
        size = abs(total) + abs(context)
        moved = 0.0 if temperature is None else written(shift.get(name, 0.0))
        probability = chance(whole - threshold - moved, temperature)
        found.append(
            Finding(
                name=name,
                logit=whole,
                threshold=threshold,
                shift=moved,
                probability=probability,
                uncalibrated=chance(whole - threshold, None),
                is_called=probability >= 0.5,
                map_logits=total,
                context_logits=context,
                context_share=written(abs(context) / size) if size else 0.0,
                where=places[logit],
                methods=(own[logit],),
                concepts=concepts[logit],
                region_drop=None,
                elsewhere_drop=None,
            )
        )
    return tuple(found)


def chance(logit: float, temperature: float | None) -> float:
    """Return the written probability of a written logit; None: not calibrated."""
    scaled = logit if temperature is None else logit / temperature
    return written(0.5 * (1 + math.tanh(scaled / 2)))  # never overflows


def grid_map(values: NDArray[np.float64], unit: str) -> GridMap:
    """Return a map (h, w) as it is written; ``unit`` is ``logits`` or ``shares``."""
    return grid_maps(values[None], unit)[0]


def grid_maps(values: NDArray[np.float64], unit: str) -> tuple[GridMap, ...]:
    """Return maps (N, h, w) as they are written, in one pass over all their cells."""
    rows, columns = values.shape[1:]
    cells, size = written_all(values), rows * columns
    return tuple(
        GridMap.model_validate(
            {
                "rows": rows,
                "columns": columns,
                "unit": unit,
                "values": cells[place * size : (place + 1) * size],
            }
        )
        for place in range(len(values))
    )


def _own_method(own: GridMap, *, roi: Region | None, seconds: float) -> Method:
    return Method(
        name=OWN,
        map=own,
        failure="",
        seconds=seconds,
        energy_in_roi=None if roi is None else energy_in_region(own, roi),
        agreement=None,
        completeness=None,
        faithfulness=None,
        stability=None,
        unmeasured="",
    )
