"""Phantom chest X-rays: a frontal film with up to six findings drawn into one patient's chest."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from common.datasets.phantom.case import Lesion, PhantomCase, Scanner, Shortcut
from common.datasets.phantom.chest_anatomy import Chest, chest
from common.datasets.phantom.draw import check_request, draw_findings, draw_marker
from common.datasets.phantom.fields import Ellipse, Field, fractal, ramp, wobble
from common.datasets.phantom.marker import lead_letter
from common.datasets.phantom.scan import scan
from common.tasks import Task

# Findings that can be drawn, and how often; about every third picture is normal.
PREVALENCE: Mapping[str, float] = {
    "Cardiomegaly": 0.18,
    "Consolidation": 0.18,
    "Effusion": 0.18,
    "Mass": 0.15,
    "Nodule": 0.15,
    "Pneumothorax": 0.15,
}
SEEN = 0.1  # share of the lung's air that a lesion must displace to be drawn and masked


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
    """Draw one frontal chest X-ray.

    Args:
        task: ``chestx``, possibly restricted to some findings.
        index: Number of the picture; with patient and seed it fixes everything that is drawn.
        patient: Number of the patient; pictures of one patient share the chest.
        seed: Seed of the data set.
        size_px: Side of the picture, 64 to 1024.
        scanner: The site's scanner.
        shortcut: A side letter that follows "any finding", or None for no letter.
        lesion_contrast: Strength of lesions, in (0, 2]: 1 is visible at a glance to a trained
            eye, 0.5 subtle, 1.5 easy.
        prevalence: P(finding) by label, replacing the defaults in ``PREVALENCE``.

    Raises:
        ConfigError: An argument out of range, or a finding without a phantom.
    """
    dice = check_request(
        task=task,
        drawn_task="chestx",
        index=index,
        patient=patient,
        seed=seed,
        size_px=size_px,
        lesion_contrast=lesion_contrast,
    )
    findings = draw_findings(task, default=PREVALENCE, prevalence=prevalence, dice=dice)
    has_marker = draw_marker(is_positive=bool(findings), shortcut=shortcut, dice=dice)

    body = chest(dice.of_patient("anatomy"), size_px)
    normal_heart = body.heart_cover(body.heart)
    heart = normal_heart
    heart_outline = body.heart
    lesions = []
    if "Cardiomegaly" in findings:
        heart_outline = _large_heart(body.heart, dice.of_picture("Cardiomegaly"))
        enlarged = body.heart_cover(heart_outline)
        heart = normal_heart + min(1.0, lesion_contrast) * (enlarged - normal_heart)
        lesions.append(
            Lesion(
                "Cardiomegaly",
                "enlarged heart",
                _heart_mask(body, heart_outline, grown=enlarged - normal_heart),
            )
        )

    beside_heart = 1.0 - heart  # behind it nothing shows, and nothing is drawn
    open_lung = (body.cavity[0] + body.cavity[1]) * beside_heart
    clear = np.ones_like(heart)  # share of lung that no fluid or tissue has replaced
    free_air = None
    for label, painter in PAINTERS.items():
        if label in findings:
            cover = painter(body, heart_outline, dice.of_picture(label), size_px) * beside_heart
            visible = cover * open_lung
            # Nothing fainter is drawn, so that the mask is the lesion and not its core.
            cover = cover * ramp(visible, SEEN, 2.5 * SEEN)
            lesions.append(Lesion(label, NAMES[label], visible > SEEN))
            clear = clear * (1.0 - np.clip(lesion_contrast * cover, 0.0, 1.0))
    if "Pneumothorax" in findings:
        gas, edge = _pneumothorax(body, dice.of_picture("Pneumothorax"))
        clear = clear * (1.0 - np.clip(0.35 * lesion_contrast * edge, 0.0, 1.0))
        free_air = np.float32(min(1.5, lesion_contrast)) * gas
        mask = np.maximum(gas, edge) * open_lung > SEEN
        lesions.append(Lesion("Pneumothorax", "free air", mask))

    healthy = _film(body.density(heart=normal_heart))
    ill = _film(body.density(heart=heart, fluid=1.0 - clear, free_air=free_air))
    letter = lead_letter(size_px, dice.of_picture("marker"))
    grain = dice.of_picture("grain").standard_normal((size_px, size_px, 1), dtype=np.float32)

    def expose(scene: Field, *, marked: bool) -> np.ndarray:
        shown = scene * (1.0 - letter) + letter if marked else scene
        return scan(shown[..., None], scanner=scanner, grain=grain)

    image = expose(ill, marked=has_marker)
    return PhantomCase(
        image=image,
        targets=tuple(float(label in findings) for label in task.labels),
        lesions=tuple(sorted(lesions, key=lambda lesion: task.labels.index(lesion.label))),
        without_lesion=expose(healthy, marked=has_marker) if findings else image,
        without_marker=expose(ill, marked=False) if has_marker else image,
        has_marker=has_marker,
        marker=(letter > SEEN) & has_marker,
        anatomy=body.cavity[0] + body.cavity[1] > 0.5,
    )


def _film(density: Field) -> Field:
    """Return the brightness of a density: a film curve with a toe and a shoulder."""
    thickness = np.maximum(density - np.float32(0.04), 0.0)
    light = 1.0 - np.exp(-np.float32(1.75) * thickness * np.sqrt(thickness))
    film: Field = np.float32(0.03) + np.float32(0.95) * light
    return film


def _large_heart(heart: Ellipse, rng: np.random.Generator) -> Ellipse:
    growth = float(rng.uniform(1.38, 1.6))
    # Grows to the patient's left and down: the diaphragm carries it.
    return replace(
        heart, x=heart.x + 0.02, rx=heart.rx * growth, ry=heart.ry * (0.5 + 0.5 * growth)
    )


def _heart_mask(body: Chest, heart: Ellipse, *, grown: Field) -> np.ndarray:
    """The whole heart, not only where it grew: its width is the finding."""
    above = body.y < np.float32(body.lungs[0].dome + 0.10)
    mask: np.ndarray = ((heart.rho(body.x, body.y) < 1.05) & above) | (grown > SEEN)
    return mask


def _place(
    body: Chest, heart: Ellipse, rng: np.random.Generator, radius: float
) -> tuple[float, float]:
    """Return a spot in open lung where a lesion of this radius is not hidden by the heart."""
    x, y = 0.0, 0.0
    for _ in range(30):
        lung = body.lungs[int(rng.integers(2))]
        y = float(rng.uniform(0.24, lung.dome - 0.06 - radius))
        reach = 1.0 - 4.0 * radius
        x = lung.x_at(float(rng.uniform(-0.6 * reach, reach)), y)
        away = float(heart.rho(np.asarray(x), np.asarray(y)))
        if away > 1.0 + radius / heart.ry:
            break
    return x, y


def _nodule(body: Chest, heart: Ellipse, rng: np.random.Generator, size_px: int) -> Field:
    radius = float(rng.uniform(0.030, 0.042))
    x, y = _place(body, heart, rng, radius)
    spot = Ellipse(x, y, radius, radius * float(rng.uniform(0.8, 1.0)), float(rng.uniform(0, 3)))
    return 0.75 * ramp(spot.rho(body.x, body.y), 1.15, 0.6)


def _mass(body: Chest, heart: Ellipse, rng: np.random.Generator, size_px: int) -> Field:
    radius = float(rng.uniform(0.062, 0.09))
    x, y = _place(body, heart, rng, radius)
    outline = wobble(rng, strength=0.16, harmonics=8)
    ratio = float(rng.uniform(0.75, 1.0))
    lump = Ellipse(x, y, radius, radius * ratio, float(rng.uniform(0, 3)), outline)
    return 0.78 * ramp(lump.rho(body.x, body.y), 1.12, 0.72)


def _consolidation(body: Chest, heart: Ellipse, rng: np.random.Generator, size_px: int) -> Field:
    radius = float(rng.uniform(0.09, 0.13))
    x, y = _place(body, heart, rng, 0.6 * radius)
    outline = wobble(rng, strength=0.25)
    patch = Ellipse(x, y, radius, radius * float(rng.uniform(0.8, 1.2)), 0.0, outline)
    fluffy = patch.rho(body.x, body.y) + 0.16 * fractal(rng, size_px, cells=14, octaves=2)
    return 0.62 * ramp(fluffy, 1.2, 0.45) * ramp(patch.rho(body.x, body.y), 1.35, 1.2)


def _effusion(body: Chest, heart: Ellipse, rng: np.random.Generator, size_px: int) -> Field:
    side = int(rng.integers(2))
    lung = body.lungs[side]
    level = lung.dome - float(rng.uniform(0.03, 0.15))
    # The meniscus climbs at the chest wall.
    across = np.clip(lung.across(body.x, body.y), -1.0, 1.0)
    surface = np.float32(level) - 0.075 * ramp(across, 0.0, 1.15) - 0.02 * ramp(across, -0.4, -1.0)
    return 0.92 * ramp(body.y - surface, -0.022, 0.03) * ramp(body.cavity[side], 0.0, 0.3)


def _pneumothorax(body: Chest, rng: np.random.Generator) -> tuple[Field, Field]:
    """Return the air between chest wall and lung, and the thin edge of the fallen lung."""
    side = int(rng.integers(2))
    lung = body.lungs[side]
    retreat = np.float32(rng.uniform(0.26, 0.5)) * ramp(body.y, 0.74, 0.45)
    across, up = lung.across(body.x, body.y), lung.above_shoulder(body.y)
    # The root holds the lung: medially it falls away from the apex only.
    across = np.maximum(across, -0.8 * across * up)
    outward = np.sqrt(across * across + up * up) - (1.0 - retreat)
    inside = body.cavity[side] * ramp(retreat, 0.02, 0.08)
    return ramp(outward, -0.01, 0.03) * inside, ramp(np.abs(outward + 0.02), 0.075, 0.02) * inside


PAINTERS = {
    "Consolidation": _consolidation,
    "Effusion": _effusion,
    "Mass": _mass,
    "Nodule": _nodule,
}
NAMES = {
    "Consolidation": "consolidation",
    "Effusion": "fluid",
    "Mass": "mass",
    "Nodule": "nodule",
}
