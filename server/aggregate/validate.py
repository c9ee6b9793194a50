"""What the coordinator demands of an update before it may touch the model."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from common.messages.kinds import Update

Shapes = Mapping[str, tuple[int, ...]]


def objection(update: Update, shapes: Shapes) -> str | None:
    """Return why an update cannot be used, naming the array, or None when it can.

    ``shapes`` are exactly the arrays the site was asked for.
    """
    if update.num_examples <= 0:
        return f"num_examples must be at least 1, got {update.num_examples}"
    if not update.arrays:
        return "the update holds no arrays"
    if missing := sorted(set(shapes) - set(update.arrays)):
        return f"array {missing[0]!r} is missing{_and_more(missing)}"
    if unknown := sorted(set(update.arrays) - set(shapes)):
        return f"array {unknown[0]!r} was not asked for{_and_more(unknown)}"
    objections = (
        _objection_to_array(name, array, shapes[name]) for name, array in update.arrays.items()
    )
    return next((found for found in objections if found is not None), None)


def _objection_to_array(
    name: str, array: NDArray[np.float32], shape: tuple[int, ...]
) -> str | None:
    if array.dtype != np.float32:
        return f"array {name!r} is {array.dtype}, expected float32"
    if array.shape != shape:
        return f"array {name!r} has shape {array.shape}, expected {shape}"
    if not np.isfinite(array).all():
        return f"array {name!r} holds non-finite values"
    return None


def _and_more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
