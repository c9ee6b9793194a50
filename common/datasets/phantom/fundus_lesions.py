"""Lesions of diabetic retinopathy, drawn with exact coverage and in the colours they have."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from common.datasets.phantom.canvas import Canvas
from common.datasets.phantom.draw import Dice
from common.datasets.phantom.fields import Ellipse, Field, ramp, wobble
from common.datasets.phantom.fundus_anatomy import CENTRE, Retina

QUADRANTS = 4


@dataclass(frozen=True)
class Plan:
    """How many lesions of each kind a picture of one grade shows."""

    microaneurysms: int = 0
    haemorrhages_per_quadrant: tuple[int, ...] = (0,) * QUADRANTS
    exudate_clusters: int = 0
    soft_exudates: int = 0
    tufts: int = 0
    preretinal: bool = False


def plan_for(grade: int, rng: np.random.Generator) -> Plan:
    """Return what a grade shows, after the international clinical severity scale.

    0 nothing; 1 microaneurysms only; 2 more than that; 3 many haemorrhages in all four
    quadrants and soft exudates; 4 new vessels at the disc, sometimes with a preretinal
    haemorrhage. Cf. Wilkinson et al. 2003, doi:10.1016/S0161-6420(03)00475-5.
    """
    if grade == 0:
        return Plan()
    if grade == 1:
        return Plan(microaneurysms=int(rng.integers(5, 11)))
    few = rng.multinomial(int(rng.integers(4, 9)), [1 / QUADRANTS] * QUADRANTS)
    moderate = tuple(int(count) for count in few)
    if grade == 2:
        return Plan(
            microaneurysms=int(rng.integers(6, 13)),
            haemorrhages_per_quadrant=moderate,
            exudate_clusters=int(rng.integers(0, 3)),
        )
    if grade == 3:
        return Plan(
            microaneurysms=int(rng.integers(10, 19)),
            haemorrhages_per_quadrant=tuple(int(n) for n in rng.integers(6, 10, QUADRANTS)),
            exudate_clusters=int(rng.integers(0, 3)),
            soft_exudates=int(rng.integers(2, 6)),
        )
    return Plan(
        microaneurysms=int(rng.integers(6, 13)),
        haemorrhages_per_quadrant=moderate,
        exudate_clusters=int(rng.integers(0, 3)),
        tufts=int(rng.integers(1, 3)),
        preretinal=bool(rng.random() < 0.5),
    )


@dataclass(frozen=True)
class Painted:
    """One kind of lesion in one picture."""

    name: str
    cover: Field  # (S, S) in [0, 1], opacity at contrast 1
    place: Field  # (S, S) in [0, 1], what belongs to the lesion; differs for a net of vessels
    colour: tuple[float, float, float]


def paint(plan: Plan, eye: Retina, dice: Dice, size_px: int) -> list[Painted]:
    """Draw a plan's lesions, those that lie deepest first."""
    painted = []
    for name, present, colour, painter in KINDS:
        if present(plan):
            rng = dice.of_picture(name)
            cover, place = painter(plan, eye, rng, size_px)
            painted.append(Painted(name, cover * eye.field, place * eye.field, colour))
    return painted


def _spot(
    eye: Retina,
    rng: np.random.Generator,
    *,
    reach: tuple[float, float] = (0.10, 0.40),
    quadrant: int | None = None,
    clear: float = 0.0,
) -> tuple[float, float]:
    """Return a place on the retina off the disc and the fovea, ``reach`` from the centre."""
    x, y = CENTRE
    for _ in range(40):
        first, last = (
            (0.0, 2.0 * np.pi)
            if quadrant is None
            else (
                quadrant * np.pi / 2,
                (quadrant + 1) * np.pi / 2,
            )
        )
        angle, distance = rng.uniform(first, last), rng.uniform(*reach)
        x = CENTRE[0] + float(distance * np.cos(angle))
        y = CENTRE[1] + float(distance * np.sin(angle))
        off_disc = np.hypot(x - eye.disc[0], y - eye.disc[1]) > 0.10 + clear
        if off_disc and np.hypot(x - eye.fovea[0], y - eye.fovea[1]) > 0.045 + clear:
            break
    return x, y


def _microaneurysms(
    plan: Plan, eye: Retina, rng: np.random.Generator, size_px: int
) -> tuple[Field, Field]:
    board = Canvas(size_px)
    for _ in range(plan.microaneurysms):
        x, y = _spot(eye, rng, reach=(0.06, 0.38))
        # Never below 0.9 px radius, or a small picture would lose its only sign of grade 1.
        radius = max(float(rng.uniform(0.0085, 0.012)), 0.95 / size_px)
        board.fill(Ellipse(x, y, radius, radius).points(12))
    return 0.85 * board.field(), board.field()


def _haemorrhages(
    plan: Plan, eye: Retina, rng: np.random.Generator, size_px: int
) -> tuple[Field, Field]:
    board = Canvas(size_px)
    for quadrant, count in enumerate(plan.haemorrhages_per_quadrant):
        for _ in range(count):
            x, y = _spot(eye, rng, reach=(0.12, 0.42), quadrant=quadrant)
            radius = float(rng.uniform(0.013, 0.026))
            from_disc = np.arctan2(y - eye.disc[1], x - eye.disc[0])
            # Flames follow the nerve fibres from the disc; blots lie deeper and are round.
            is_flame = rng.random() < 0.4
            shape = Ellipse(
                x,
                y,
                radius * (1.5 if is_flame else 1.0),
                radius * (0.5 if is_flame else 0.85),
                float(from_disc),
                wobble(rng, strength=0.2),
            )
            board.fill(shape.points(18))
    cover = board.field()
    place = cover
    if plan.preretinal:
        boat = _preretinal(eye, rng)
        cover, place = np.maximum(cover, 1.08 * boat), np.maximum(cover, boat)
    return 0.82 * cover, place


def _preretinal(eye: Retina, rng: np.random.Generator) -> Field:
    """A boat: blood before the retina sinks, with a level surface and a round keel."""
    x, y = _spot(eye, rng, reach=(0.20, 0.30), clear=0.06)
    width = float(rng.uniform(0.075, 0.11))
    keel = Ellipse(x, y, width, 0.75 * width, 0.0, wobble(rng, strength=0.06))
    return ramp(keel.rho(eye.x, eye.y), 1.08, 0.95) * ramp(eye.y, y - 0.008, y + 0.008)


def _hard_exudates(
    plan: Plan, eye: Retina, rng: np.random.Generator, size_px: int
) -> tuple[Field, Field]:
    board = Canvas(size_px)
    for _ in range(plan.exudate_clusters):
        x, y = _spot(eye, rng, reach=(0.08, 0.28), clear=0.03)
        count = int(rng.integers(10, 22))
        ring = float(rng.uniform(0.02, 0.05))
        for angle, spread, size in zip(
            rng.uniform(0.0, 2.0 * np.pi, count),
            rng.normal(ring, 0.012, count),
            rng.uniform(0.004, 0.0115, count),
            strict=True,
        ):
            flake = Ellipse(
                x + spread * np.cos(angle),
                y + spread * np.sin(angle),
                max(size, 0.8 / size_px),
                max(0.75 * size, 0.8 / size_px),
                angle,
            )
            board.fill(flake.points(9))
    return 0.88 * board.field(), board.field()


def _soft_exudates(
    plan: Plan, eye: Retina, rng: np.random.Generator, size_px: int
) -> tuple[Field, Field]:
    cover = np.zeros((size_px, size_px), np.float32)
    for _ in range(plan.soft_exudates):
        x, y = _spot(eye, rng, reach=(0.16, 0.36), clear=0.03)
        radius = float(rng.uniform(0.022, 0.036))
        wool = Ellipse(x, y, radius, 0.75 * radius, rng.uniform(0, 3), wobble(rng, strength=0.22))
        cover = np.maximum(cover, ramp(wool.rho(eye.x, eye.y), 1.25, 0.45))
    return 0.62 * cover, cover


def _neovascularisation(
    plan: Plan, eye: Retina, rng: np.random.Generator, size_px: int
) -> tuple[Field, Field]:
    """Fans of fine, looping vessels that grow from the rim of the disc."""
    board, area = Canvas(size_px), Canvas(size_px)
    for _ in range(plan.tufts):
        towards = rng.uniform(0.0, 2.0 * np.pi)
        origin = np.array(eye.disc) + 0.045 * np.array([np.cos(towards), np.sin(towards)])
        twigs, steps = 13, 16
        heading = towards + rng.uniform(-1.1, 1.1, twigs)
        bends = rng.normal(0.0, 0.35, (twigs, steps)) + rng.choice([-0.16, 0.16], (twigs, 1))
        angles = heading[:, None] + np.cumsum(bends, axis=1)
        moves = np.stack((np.cos(angles), np.sin(angles)), axis=-1)
        step = float(rng.uniform(0.0085, 0.011))
        paths = (
            np.concatenate((np.zeros((twigs, 1, 2)), step * np.cumsum(moves, axis=1)), axis=1)
            + origin
        )
        board.lines(paths, width=0.006)
        area.lines(paths, width=0.014)
    return 0.85 * board.field(), area.field()


Painter = Callable[[Plan, Retina, np.random.Generator, int], tuple[Field, Field]]
KINDS: tuple[tuple[str, Callable[[Plan], bool], tuple[float, float, float], Painter], ...] = (
    ("soft_exudate", lambda p: p.soft_exudates > 0, (0.93, 0.84, 0.62), _soft_exudates),
    ("hard_exudate", lambda p: p.exudate_clusters > 0, (0.98, 0.88, 0.34), _hard_exudates),
    ("microaneurysm", lambda p: p.microaneurysms > 0, (0.42, 0.06, 0.05), _microaneurysms),
    (
        "haemorrhage",
        lambda p: sum(p.haemorrhages_per_quadrant) > 0 or p.preretinal,
        (0.44, 0.06, 0.05),
        _haemorrhages,
    ),
    ("neovascularisation", lambda p: p.tufts > 0, (0.52, 0.04, 0.05), _neovascularisation),
)
