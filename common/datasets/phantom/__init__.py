"""Phantom pictures by task: pictures with known lesions, drawn instead of photographed."""

from collections.abc import Mapping
from typing import Protocol

from common.datasets.phantom.case import PhantomCase, Scanner, Shortcut
from common.registry import Registry
from common.tasks import Task


class Generator(Protocol):
    """Draws picture number ``index`` of a patient; the arguments alone decide what is drawn."""

    def __call__(
        self,
        *,
        task: Task,
        index: int,
        patient: int,
        seed: int,
        size_px: int,
        scanner: Scanner,
        shortcut: Shortcut | None = None,
        lesion_contrast: float = 1.0,
        prevalence: Mapping[str, float] | None = None,
    ) -> PhantomCase:
        """Return the case. Raises ConfigError for an argument out of range."""
        ...


PHANTOMS: Registry[Generator] = Registry(
    "phantom",
    {
        "chestx": "common.datasets.phantom.chest:generate",
        "retina": "common.datasets.phantom.fundus:generate",
        "pathoscan": "common.datasets.phantom.histology:generate",
    },
)
