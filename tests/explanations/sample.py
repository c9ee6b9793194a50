"""Whole explanations without a network: one of each kind of task, the same at every call."""

import hashlib
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from common.explanation.anatomy import WHOLE, Eye
from common.explanation.derived import answer_words, beaten_orders, class_answers, grade_answers
from common.explanation.rationale import rationale
from common.explanation.schema import (
    CalibratedOn,
    Completeness,
    Concept,
    Explanation,
    Faithfulness,
    Finding,
    GridMap,
    Lineage,
    Method,
    Novelty,
    Picture,
    PredictionSet,
    Region,
    Stability,
)
from common.explanation.where import regions_of, where_each
from common.explanation.written import written, written_all
from common.tasks import TASKS

SIZE_PX = 256
GRID = 16  # cells per side of the model's own map
FINE = 32  # and of the other methods'
CHEST = ("Effusion", "Mass", "Pneumothorax")
CONCEPTS = {
    "chestx": ("opacity", "effusion"),
    "retina": ("microaneurysm", "hard exudate"),
    "pathoscan": ("gland architecture", "nuclear atypia"),
}
LOGITS = {"chestx": (1.8, 0.1, -2.6), "retina": (0.6,) * 4, "pathoscan": (1.2,)}
THRESHOLDS = {"chestx": (0.0,) * 3, "retina": (-1.8, -0.5, 1.0, 2.8), "pathoscan": (0.0,)}
EYE = Eye(disc_row=0.5, disc_column=0.2, disc_diameter=0.13, source="estimated from the picture")
TEMPERATURE = 1.25
NOT_CALIBRATED = "The calibration part has 12 patients, a temperature needs 20."
# Of training's weights: 2 for Effusion; 1.7 and 2.7 for the higher grades.
SHIFTS = {
    "chestx": (0.693147, 0.0, 0.0),
    "retina": (0.0, 0.0, 0.530628, 0.993252),
    "pathoscan": (0.0,),
}
# Row and column of the bump that every map of a finding has, as shares of the picture.
PEAKS = {
    "chestx": ((0.74, 0.26), (0.40, 0.70), (0.15, 0.30)),
    "retina": ((0.30, 0.62),) * 4,
    "pathoscan": ((0.55, 0.45),),
}


def sample(
    task: str = "chestx",
    *,
    name: str = "ward 3 & <4>.png",
    is_novel: bool = False,
    is_calibrated: bool = True,
    has_methods: bool = True,
    has_concepts: bool = True,
    has_roi: bool = True,
) -> Explanation:
    """Return a whole explanation of ``chestx``, ``retina`` or ``pathoscan``.

    With methods, the first finding also has "grad-cam" with everything measured and no clear
    faithfulness, "occlusion" with nothing measured, "lrp", which failed, and "deep-lift", whose
    parts do not add up and whose stability could not be measured. A retina is explained alone. The
    name holds letters that HTML must escape.
    """
    what = TASKS[task]
    names = CHEST if task == "chestx" else what.class_names
    findings = tuple(
        _finding(
            task,
            number,
            finding,
            is_calibrated=is_calibrated,
            has_methods=has_methods,
            has_concepts=has_concepts,
            has_roi=has_roi,
        )
        for number, finding in enumerate(names)
    )
    answers = _answers(task, findings)
    prediction_set = _prediction_set(task) if is_calibrated else None
    novelty = Novelty(score=9.25 if is_novel else 3.125, limit=6.5, is_novel=is_novel)
    without_words = Explanation(
        format=1,
        made_at="2026-03-02T09:30:00+00:00",
        picture=Picture(
            name=name,
            sha256=hashlib.sha256(name.encode()).hexdigest(),
            width_px=1024,
            height_px=1024,
            size_px=SIZE_PX,
            skipped=("stain normalisation: too little tissue",) if task == "pathoscan" else (),
        ),
        model=Lineage(
            run="demo",
            round=7,
            weights_sha256=hashlib.sha256(b"weights").hexdigest(),
            config_digest=hashlib.sha256(b"config").hexdigest(),
            sites=3,
            training_pictures=1840,
            reference="reference set of the coordinator: 160 pictures of 80 patients, 2 scanners",
            versions={"fovea": "0.1.0", "torch": "2.13.0"},
        ),
        task=task,
        title=what.title,
        kind=what.kind,
        answer=answer_words(
            what.kind,
            findings=findings,
            answers=answers,
            prediction_set=prediction_set,
            novelty=novelty,
        ),
        answers=answers,
        findings=findings,
        expanded=(names[0],) if has_methods else (),
        prediction_set=prediction_set,
        why_no_set="" if is_calibrated else NOT_CALIBRATED,
        novelty=novelty,
        is_calibrated=is_calibrated,
        why_not_calibrated="" if is_calibrated else NOT_CALIBRATED,
        calibrated_on=_calibrated_on(task) if is_calibrated else None,
        temperature=TEMPERATURE if is_calibrated else None,
        roi=_region(PEAKS[task][0]) if has_roi else None,
        rationale=(),
    )
    return without_words.model_copy(update={"rationale": rationale(without_words)})


def picture(task: str = "chestx") -> NDArray[np.uint8]:
    """Return the pixels that belong to a sample, (256, 256, 1 or 3)."""
    channels = TASKS[task].channels
    noise = np.random.default_rng(4).integers(0, 40, (SIZE_PX, SIZE_PX, channels))
    light = _bump(SIZE_PX, (0.5, 0.5), 0.35)[..., None] * 150
    spot = _bump(SIZE_PX, PEAKS[task][0], 0.06)[..., None] * 60
    return np.asarray(np.clip(noise + light + spot, 0, 255), dtype=np.uint8)


def _finding(
    task: str,
    number: int,
    name: str,
    *,
    is_calibrated: bool,
    has_methods: bool,
    has_concepts: bool,
    has_roi: bool,
) -> Finding:
    logit = LOGITS[task][number]
    context = 0.2 if task == "chestx" and number == 0 else 0.0
    peak = PEAKS[task][number]
    shape = _bump(GRID, peak, 0.12) - 0.05
    own = _grid(shape * (logit - context) / shape.sum() if logit > 0 else -abs(shape), "logits")
    if logit <= 0:
        against = _bump(GRID, peak, 0.2)
        own = _grid(against * (logit - context) / against.sum(), "logits")
    total = written(math.fsum(own.values))
    context_share = abs(context) / (abs(total) + abs(context))
    threshold = THRESHOLDS[task][number]
    uncalibrated = _sigmoid(logit - threshold)
    shift = SHIFTS[task][number] if is_calibrated else 0.0
    answer = logit - threshold - shift
    probability = _sigmoid(answer / TEMPERATURE) if is_calibrated else uncalibrated
    evidence = Method(
        name="evidence",
        map=own,
        failure="",
        seconds=0.0214,
        energy_in_roi=0.61 if has_roi else None,
        agreement=1.0,
        completeness=None,
        faithfulness=_faithfulness(uncalibrated, power=3),
        stability=_stability(task, 0.93),
        unmeasured="",
    )
    more = _methods(peak, uncalibrated, task, has_roi) if has_methods and number == 0 else ()
    return Finding(
        name=name,
        logit=logit,
        threshold=threshold,
        shift=shift,
        probability=probability,
        uncalibrated=uncalibrated,
        is_called=probability >= 0.5,
        map_logits=total,
        context_logits=context,
        context_share=written(context_share),
        where=where_each(
            np.array(own.values).reshape(1, GRID, GRID),
            regions_of(task, rows=GRID, columns=GRID, extent=WHOLE, eye=EYE),
        )[0],
        methods=(evidence, *more),
        concepts=_concepts(task, peak) if has_concepts else (),
        region_drop=written(0.8 * logit) if number == 0 and has_methods else None,
        elsewhere_drop=0.0625 if number == 0 and has_methods else None,
    )


def _methods(
    peak: tuple[float, float], probability: float, task: str, has_roi: bool
) -> tuple[Method, ...]:
    near = _bump(FINE, peak, 0.15)
    blocks = np.kron(_bump(8, peak, 0.2), np.ones((FINE // 8, FINE // 8)))
    return (
        Method(
            name="grad-cam",
            map=_grid(near / near.sum(), "shares"),
            failure="",
            seconds=0.084,
            energy_in_roi=0.44 if has_roi else None,
            agreement=0.71,
            completeness=None,
            faithfulness=_faithfulness(probability, power=1.1),
            stability=_stability(task, 0.41),
            unmeasured="",
        ),
        Method(
            name="occlusion",
            map=_grid(blocks / blocks.sum(), "shares"),
            failure="",
            seconds=1.62,
            energy_in_roi=0.52 if has_roi else None,
            agreement=0.66,
            completeness=None,
            faithfulness=None,
            stability=None,
            unmeasured="",
        ),
        Method(
            name="lrp",
            map=None,
            failure="layer <Mixer> has no rule; leave lrp out for this network.",
            seconds=0.003,
            energy_in_roi=None,
            agreement=None,
            completeness=None,
            faithfulness=None,
            stability=None,
            unmeasured="",
        ),
        Method(
            name="deep-lift",
            map=_grid(near / near.sum(), "shares"),
            failure="",
            seconds=0.21,
            energy_in_roi=0.39 if has_roi else None,
            agreement=0.48,
            completeness=Completeness(
                parts=0.62,
                constants=0.0,
                whole=1.55,
                of="the logit's difference from the blurred picture's",
                gap=0.6,
            ),
            faithfulness=_faithfulness(probability, power=0.8),
            stability=None,
            unmeasured="No stability: measuring it broke down (RuntimeError).",
        ),
    )


def _concepts(task: str, peak: tuple[float, float]) -> tuple[Concept, ...]:
    first, second = CONCEPTS[task]
    elsewhere = (1 - peak[0], 1 - peak[1])
    return (
        Concept(
            name=first,
            probability=0.83,
            map=_grid(_bump(GRID, peak, 0.1) - 0.02, "logits"),
            overlap=0.74,
            association=0.58,
            stance="supports",
        ),
        Concept(
            name=second,
            probability=0.07,
            map=_grid(_bump(GRID, elsewhere, 0.1) - 0.2, "logits"),
            overlap=0.04,
            association=0.31,
            stance="against",
        ),
    )


def _faithfulness(start: float, *, power: float) -> Faithfulness:
    """Curves that fall the faster, the higher the power; one falls like a random order."""
    shares = tuple(step / 10 for step in range(11))
    floor = 0.1 * start
    curve = [floor + (start - floor) * (1 - share) ** power for share in shares]
    line = [floor + (start - floor) * (1 - share) for share in shares]
    insertion = written_all([start + floor - value for value in curve])
    deletion = written_all(curve)
    areas = written_all([(start + floor) / 2 * (0.92 + 0.02 * n) for n in (5, 0, 7, 2, 8, 3, 1, 6)])
    return Faithfulness(
        shares=shares,
        deletion=deletion,
        insertion=insertion,
        random_deletion=written_all(line),
        random_insertion=written_all(line[::-1]),
        random_areas=areas,
        beaten_orders=beaten_orders(shares, deletion, insertion, areas),
    )


def _stability(task: str, level: float) -> Stability:
    flip = level if TASKS[task].horizontal_flip else None
    is_alone = task == "retina"
    return Stability(
        noise=level,
        brightness=0.96,
        shift=written(level - 0.1),
        flip=flip,
        other_pictures=() if is_alone else (0.44, 0.31, 0.52),
        others="no other picture was explained with it" if is_alone else "other pictures",
    )


def _calibrated_on(task: str) -> CalibratedOn:
    return CalibratedOn(
        pictures=160,
        patients=80,
        error=None if task == "pathoscan" else 0.0342,
        error_pictures=0 if task == "pathoscan" else 64,
        note="The temperature lies at the end of its range." if task == "chestx" else "",
    )


def _prediction_set(task: str) -> PredictionSet:
    members = {
        "chestx": ("Effusion: present", "Mass: absent", "Mass: present", "Pneumothorax: absent"),
        "retina": ("2 moderate", "3 severe"),
        "pathoscan": ("malignant",),
    }[task]
    return PredictionSet(
        members=members,
        questions={
            "chestx": CHEST,
            "retina": ("severity",),
            "pathoscan": ("malignant",),
        }[task],
        coverage=0.9,
        calibration_pictures=120,
        is_sure=task == "pathoscan",
        promise="On pictures like those of the reference set, 90 % of such sets hold the truth; "
        "nothing is promised for pictures from elsewhere.",
        left_out={},
    )


def _answers(task: str, findings: Sequence[Finding]) -> dict[str, float]:
    what = TASKS[task]
    if what.kind == "ordinal":
        return grade_answers(what.labels, [finding.probability for finding in findings])
    return class_answers(what.labels, findings[0].probability) if what.kind == "binary" else {}


def _region(peak: tuple[float, float]) -> Region:
    inside = _bump(GRID, peak, 0.1) > 0.5
    return Region(rows=GRID, columns=GRID, coverage=written_all(inside.ravel().astype(float)))


def _bump(side: int, peak: tuple[float, float], width: float) -> NDArray[np.float64]:
    """A smooth hill of height 1, (side, side)."""
    centres = (np.arange(side) + 0.5) / side
    rows = np.exp(-((centres - peak[0]) ** 2) / (2 * width**2))
    columns = np.exp(-((centres - peak[1]) ** 2) / (2 * width**2))
    return np.asarray(rows[:, None] * columns[None, :])


def _grid(values: NDArray[np.float64], unit: str) -> GridMap:
    rows, columns = values.shape
    return GridMap.model_validate(
        {"rows": rows, "columns": columns, "unit": unit, "values": written_all(values.ravel())}
    )


def _sigmoid(logit: float) -> float:
    return written(float(1 / (1 + np.exp(-logit))))
