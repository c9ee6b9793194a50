"""The dice of a phantom: random streams per purpose, and the labels and marker drawn from them."""

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from common.datasets.phantom.case import Shortcut
from common.errors import ConfigError
from common.registry import unknown_name
from common.tasks import Task

SMALLEST_PX = 64  # below it a microaneurysm is no longer a spot
LARGEST_PX = 1024
REFERABLE_GRADE = 2  # ordinal pictures count as positive from here on


@dataclass(frozen=True)
class Dice:
    """Independent generators, one per purpose, so that drawing one thing never shifts another."""

    seed: int
    task: str
    patient: int
    index: int

    def of_patient(self, purpose: str) -> np.random.Generator:
        """Return the stream that all pictures of the patient share."""
        return self._stream(0, purpose)

    def of_picture(self, purpose: str) -> np.random.Generator:
        """Return the stream of this picture alone."""
        return self._stream(self.index + 1, purpose)

    def _stream(self, picture: int, purpose: str) -> np.random.Generator:
        words = (zlib.crc32(self.task.encode()), zlib.crc32(purpose.encode()))
        return np.random.default_rng([self.seed, self.patient, picture, *words])


def check_request(
    *,
    task: Task,
    drawn_task: str,
    index: int,
    patient: int,
    seed: int,
    size_px: int,
    lesion_contrast: float,
) -> Dice:
    """Return the dice of a picture, or raise ConfigError naming the argument that is wrong."""
    if task.name != drawn_task:
        raise ConfigError(f"this generator draws {drawn_task}, got task {task.name!r}.")
    if not SMALLEST_PX <= size_px <= LARGEST_PX:
        raise ConfigError(
            f"phantom size_px must be between {SMALLEST_PX} and {LARGEST_PX}, got {size_px}."
        )
    if not 0.0 < lesion_contrast <= 2.0:
        raise ConfigError(
            f"phantom lesion_contrast must be in (0, 2], got {lesion_contrast}. "
            "Set a finding's prevalence to 0 for pictures without lesions."
        )
    for name, value in (("index", index), ("patient", patient), ("seed", seed)):
        if value < 0:
            raise ConfigError(f"phantom {name} must be at least 0, got {value}.")
    return Dice(seed=seed, task=task.name, patient=patient, index=index)


def draw_findings(
    task: Task, *, default: Mapping[str, float], prevalence: Mapping[str, float] | None, dice: Dice
) -> frozenset[str]:
    """Draw each finding of a multi-label task on its own.

    Args:
        task: The task; findings outside ``task.labels`` are never drawn.
        default: Probability per finding that can be drawn at all.
        prevalence: Probabilities that replace the defaults.
        dice: The picture's dice.

    Raises:
        ConfigError: A finding that the task lacks, that has no phantom, or is no probability.
    """
    chances = {label: default.get(label, 0.0) for label in task.labels}
    for label, chance in (prevalence or {}).items():
        _check_chance(task, label, chance)
        if chance > 0.0 and label not in default:
            raise ConfigError(
                f"no phantom shows {label!r}. Set its prevalence to 0, or choose from: "
                f"{', '.join(default)}."
            )
        chances[label] = chance
    return frozenset(
        label
        for label, chance in chances.items()
        if dice.of_picture(f"label {label}").random() < chance
    )


def draw_class(
    task: Task, *, default: Mapping[str, float], prevalence: Mapping[str, float] | None, dice: Dice
) -> int:
    """Draw one class (a grade, or 0/1) as its position in ``task.labels``.

    Classes that ``prevalence`` does not name share what is left in equal parts.

    Raises:
        ConfigError: An unknown class, no probability, or probabilities that cannot sum to 1.
    """
    chances = dict(prevalence or default)
    for label, chance in chances.items():
        _check_chance(task, label, chance)
    unnamed = [label for label in task.labels if label not in chances]
    left = 1.0 - math.fsum(chances.values())
    if left < -1e-6 or (not unnamed and left > 1e-6):
        raise ConfigError(
            f"prevalence of task {task.name} must sum to 1 over {', '.join(task.labels)}, "
            f"got {1.0 - left:.4g}."
        )
    weights = [chances.get(label, max(left, 0.0) / max(len(unnamed), 1)) for label in task.labels]
    edges = np.cumsum(weights)
    drawn = np.searchsorted(edges, dice.of_picture("label").random() * edges[-1], side="right")
    return int(drawn)


def draw_marker(*, is_positive: bool, shortcut: Shortcut | None, dice: Dice) -> bool:
    """Say whether the picture carries the marker: never without a shortcut."""
    if shortcut is None:
        return False
    agrees = bool(dice.of_picture("marker present").random() < shortcut.agreement)
    return is_positive if agrees else not is_positive


def _check_chance(task: Task, label: str, chance: float) -> None:
    if label not in task.labels:
        known = dict.fromkeys(task.labels)
        raise ConfigError(unknown_name(f"label in prevalence of task {task.name}", label, known))
    if not 0.0 <= chance <= 1.0:
        raise ConfigError(f"prevalence of {label!r} must be in [0, 1], got {chance}.")
