"""Where a model looks on average, class by class."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.datasets.shard import Shard
from server.measuring.explanation_sample import Maps

BLENDED = 32  # pictures, at most, whose mean lies below an average map


@dataclass(frozen=True, eq=False)
class AverageLook:
    """Where a model looks on average in the pictures that show a class."""

    class_name: str
    pictures: int
    evidence: NDArray[np.float32]  # (h, w) >= 0, mean of what each place adds to the logit
    image: NDArray[np.uint8]  # (S, S, C), mean of some of these pictures


def averages_of(
    shard: Shard, rows: NDArray[np.int64], maps: Maps, names: tuple[str, ...]
) -> Iterator[AverageLook]:
    """Yield the average look of each class that some of the pictures show.

    Args:
        shard: Where the pictures are.
        rows: Of it, (N,).
        maps: A model's signed maps of them, (N, T, h, w).
        names: Of the classes, (T,).
    """
    for logit, name in enumerate(names):
        shown = np.flatnonzero(shard.targets[rows, logit] >= 1)  # NaN, unknown, is not shown
        if len(shown):
            evidence = np.clip(maps[shown, logit], 0, None)
            mean = np.where(np.isfinite(evidence), evidence, 0).mean(axis=0)
            some = np.asarray(shard.images[np.sort(rows[shown[:BLENDED]])])
            image = some.mean(axis=0).round().astype(np.uint8)
            yield AverageLook(name, len(shown), mean.astype(np.float32), image)
