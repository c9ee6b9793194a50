"""Phantom fundus photographs: a macula-centred field with the lesions of one retinopathy grade."""

from collections.abc import Mapping

import numpy as np

from common.datasets.phantom.case import Lesion, PhantomCase, Scanner, Shortcut
from common.datasets.phantom.draw import REFERABLE_GRADE, check_request, draw_class, draw_marker
from common.datasets.phantom.fundus_anatomy import CENTRE, RADIUS, retina
from common.datasets.phantom.fundus_lesions import paint, plan_for
from common.datasets.phantom.marker import camera_notch
from common.datasets.phantom.scan import scan
from common.tasks import Task

PREVALENCE: Mapping[str, float] = {
    "0 none": 0.30,
    "1 mild": 0.15,
    "2 moderate": 0.25,
    "3 severe": 0.15,
    "4 proliferative": 0.15,
}
SEEN = 0.3  # a mask covers pixels that a lesion fills at least so far
NOTCH = (0.98, 0.86, 0.66)


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
    """Draw one fundus photograph.

    Args:
        task: ``retina``.
        index: Number of the picture; with patient and seed it fixes everything that is drawn.
        patient: Number of the patient; pictures of one patient share the retina.
        seed: Seed of the data set.
        size_px: Side of the picture, 64 to 1024.
        scanner: The site's scanner.
        shortcut: A bright notch on the rim that follows "grade 2 or higher", or None.
        lesion_contrast: Strength of lesions, in (0, 2]: 1 is visible at a glance to a trained
            eye, 0.5 subtle; above 1 only pale lesions gain.
        prevalence: P(grade) by label; grades it does not name share the rest.

    Raises:
        ConfigError: An argument out of range, or probabilities that cannot sum to 1.
    """
    dice = check_request(
        task=task,
        drawn_task="retina",
        index=index,
        patient=patient,
        seed=seed,
        size_px=size_px,
        lesion_contrast=lesion_contrast,
    )
    grade = draw_class(task, default=PREVALENCE, prevalence=prevalence, dice=dice)
    has_marker = draw_marker(is_positive=grade >= REFERABLE_GRADE, shortcut=shortcut, dice=dice)

    eye = retina(dice.of_patient("anatomy"), size_px)
    painted = paint(plan_for(grade, dice.of_picture("plan")), eye, dice, size_px)
    ill = eye.picture
    for kind in painted:
        opacity = np.clip(lesion_contrast * kind.cover, 0.0, 1.0)[..., None]
        # Lit like the retina around it: a lesion in the dim periphery is dim.
        lit = np.array(kind.colour, np.float32) * (0.45 + 0.65 * eye.picture[..., :1])
        ill = ill + opacity * (lit - ill)

    notch = camera_notch(size_px, dice.of_picture("marker"), centre=CENTRE, radius=RADIUS)
    grain = dice.of_picture("grain").standard_normal((size_px, size_px, 3), dtype=np.float32)
    cast = np.array([scanner.stain[0], 1.0, scanner.stain[1]], np.float32) ** 0.5

    def expose(scene: np.ndarray, *, marked: bool) -> np.ndarray:
        shown, aperture = scene * cast, eye.field
        if marked:
            shown = shown + notch[..., None] * (np.array(NOTCH, np.float32) - shown)
            aperture = np.maximum(eye.field, notch)
        return scan(shown, scanner=scanner, grain=grain, aperture=aperture)

    image = expose(ill, marked=has_marker)
    return PhantomCase(
        image=image,
        targets=(float(grade),),
        lesions=tuple(Lesion("severity", kind.name, kind.place > SEEN) for kind in painted),
        without_lesion=expose(eye.picture, marked=has_marker) if painted else image,
        without_marker=expose(ill, marked=False) if has_marker else image,
        has_marker=has_marker,
        marker=(notch > SEEN) & has_marker,
        anatomy=eye.field > 0.5,
    )
