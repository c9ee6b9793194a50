"""Do two models look at the same places of the same pictures? From round to round, site to site.

A model may answer as before and yet have changed its reasons. Maps of one fixed set of pictures
tell: their similarity is 1 where nothing moved, about chance where nothing is left.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from common.errors import DataError
from common.metrics.agreement import agreement, agreement_estimates
from common.metrics.bootstrap import IntArray
from common.metrics.estimate import Estimate


def map_similarity(
    first: NDArray[np.floating],
    second: NDArray[np.floating],
    patients: IntArray,
    *,
    replicates: int,
    min_patients: int,
    rng: np.random.Generator,
) -> dict[str, Estimate]:
    """Compare two models' maps of one class, picture by picture.

    Maps are compared as they are, evidence against the class included: a place that begins to
    speak against it has changed as well. Where one model says the same of every place, or says
    nothing finite, the picture is not counted and the note tells.

    Args:
        first: Maps of one model, (N, h, w).
        second: Of the other, (N, h, w), of the same pictures.
        patients: Patient code of each picture, (N,).
        replicates: Of the bootstrap over patients; 0 for no interval.
        min_patients: Fewest patients for an interval.
        rng: Source of the bootstrap's draws.

    Returns the mean over pictures of ``spearman``, the rank correlation over cells (-1 to 1,
    chance 0), and of ``top_iou``, the overlap of the strongest tenth (0 to 1).

    Raises:
        DataError: Maps and patients are not of the same pictures.
    """
    if first.shape != second.shape or len(first) != len(patients):
        raise DataError(
            f"maps (N, h, w) of the same N pictures are needed, got {first.shape} and "
            f"{second.shape} for {len(patients)} patients. Compare models on one set of pictures."
        )
    measured = agreement(_tensor(first), _tensor(second))
    return agreement_estimates(
        measured, patients, replicates=replicates, min_patients=min_patients, rng=rng
    )


def _tensor(maps: NDArray[np.floating]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(maps))
