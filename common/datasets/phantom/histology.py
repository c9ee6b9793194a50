"""Phantom H&E tiles: orderly benign crypts, in malignant tiles partly replaced by tumour."""

from collections.abc import Mapping

import numpy as np

from common.datasets.phantom.case import Lesion, PhantomCase, Scanner, Shortcut
from common.datasets.phantom.draw import check_request, draw_class, draw_marker
from common.datasets.phantom.histology_tissue import (
    benign_tissue,
    malignant_tissue,
    tumour_region,
)
from common.datasets.phantom.marker import pen_dot
from common.datasets.phantom.scan import scan
from common.tasks import Task

PREVALENCE: Mapping[str, float] = {"benign": 0.5, "malignant": 0.5}
TUMOUR = "tumour"  # name of the lesion
INK = (0.05, 0.22, 0.30)


def generate(
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
    """Draw one histology tile stained with haematoxylin and eosin.

    Args:
        task: ``pathoscan``.
        index: Number of the picture; with patient and seed it fixes everything that is drawn.
        patient: Number of the patient; pictures of one patient share the benign tissue.
        seed: Seed of the data set.
        size_px: Side of the picture, 64 to 1024.
        scanner: The site's scanner; its ``stain`` scales the two stains.
        shortcut: An ink dot in the corner that follows malignancy, or None.
        lesion_contrast: How far tumour replaces what was there, in (0, 2]: 1 entirely, 0.5 half
            way between benign and malignant densities, above 1 darker than life.
        prevalence: P(class) by label; a class it does not name has the rest.

    Raises:
        ConfigError: An argument out of range, or probabilities that cannot sum to 1.
    """
    dice = check_request(
        task=task,
        drawn_task="pathoscan",
        index=index,
        patient=patient,
        seed=seed,
        size_px=size_px,
        lesion_contrast=lesion_contrast,
    )
    is_malignant = bool(draw_class(task, default=PREVALENCE, prevalence=prevalence, dice=dice))
    has_marker = draw_marker(is_positive=is_malignant, shortcut=shortcut, dice=dice)

    benign = benign_tissue(dice.of_patient("anatomy"), size_px)
    shown = benign
    lesions: tuple[Lesion, ...] = ()
    if is_malignant:
        share, mask = tumour_region(dice.of_picture("region"), size_px)
        tumour = malignant_tissue(dice.of_picture("tumour"), size_px, share)
        shown = benign.blend(tumour, np.float32(lesion_contrast) * share)
        lesions = (Lesion(task.labels[1], TUMOUR, mask),)

    ink = pen_dot(size_px, dice.of_picture("marker"))[..., None] * np.float32(0.9)
    grain = dice.of_picture("grain").standard_normal((size_px, size_px, 3), dtype=np.float32)

    def expose(scene: np.ndarray, *, marked: bool) -> np.ndarray:
        inked = scene + ink * (np.array(INK, np.float32) - scene) if marked else scene
        return scan(inked, scanner=scanner, grain=grain)

    light = shown.light(stain=scanner.stain)
    image = expose(light, marked=has_marker)
    healed = image
    if is_malignant:
        healed = expose(benign.light(stain=scanner.stain), marked=has_marker)
    return PhantomCase(
        image=image,
        targets=(float(is_malignant),),
        lesions=lesions,
        without_lesion=healed,
        without_marker=expose(light, marked=False) if has_marker else image,
        has_marker=has_marker,
        marker=(ink[..., 0] > 0.15) & has_marker,
        anatomy=np.ones((size_px, size_px), dtype=bool),
    )
