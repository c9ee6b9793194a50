"""One picture and one model: everything an explanation holds, from a single forward pass on."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np

from common.errors import ModelError
from common.explain import EXPLAINERS
from common.explaining.asked import RANDOM_ORDERS, Trust
from common.explaining.certainty import (
    answers_of,
    calibrated_on,
    novelty_of,
    set_of,
    why_no_set,
)
from common.explaining.methods import CELLS, with_methods
from common.explaining.other_pictures import OtherPictures
from common.explaining.own_map import Seen, findings, logit_of, seen
from common.explaining.picture_file import PreparedPicture
from common.explaining.question import Question
from common.explaining.signs import signs
from common.explaining.trusting import Measuring
from common.explanation.derived import (
    answer_words,
    described,
)
from common.explanation.rationale import rationale
from common.explanation.schema import (
    Explanation,
    Finding,
    Lineage,
    Picture,
    PredictionSet,
    Region,
)
from common.explanation.where import regions_of
from common.explanation.written import written, written_all
from common.machine.seed import derive_seed
from common.metrics.geometry import cell_coverage
from common.package.loading import LoadedModel, network_input
from common.package.schema import TaskPackage
from common.registry import unknown_name
from common.tasks import Task


def explain_picture(
    model: LoadedModel,
    picture: PreparedPicture,
    *,
    task: str,
    now: datetime,
    methods: Sequence[str] = (),
    trust: Trust = "none",
    expand: Sequence[str] | None = None,
    random_orders: int = RANDOM_ORDERS,
    others: OtherPictures | None = None,
) -> Explanation:
    """Predict and explain one picture.

    Prediction, the model's own map and the rationale come from one forward pass. Everything else
    is only done when asked for, for the findings that are called or left open, else the most
    probable one; grades share one map and count as one.

    Args:
        model: Opened package.
        picture: Prepared for this task.
        task: Whose head is asked.
        now: Written into the explanation, in UTC.
        methods: Names of ``EXPLAINERS`` beside the model's own map.
        trust: Whether faithfulness and stability are measured of no map, the own, or all.
        expand: Findings that methods and trust are for, instead of those above.
        random_orders: Of removal, that faithfulness is held against; each costs 17 forward passes
            for each finding.
        others: Pictures whose maps stability is held against; None: there are none.

    Raises:
        ModelError: The model does not have the task, a finding or a method of that name, or its
            numbers for this picture are not finite.
        DataError: Fewer than ``FEWEST_ORDERS`` random orders.
    """
    wanted, about = model.task(task), model.about(task)
    for name in methods:
        if name not in EXPLAINERS:
            raise ModelError(unknown_name("explanation method", name, dict.fromkeys(EXPLAINERS)))
    measuring = Measuring(trust=trust, random_orders=random_orders, others=others)
    images = network_input(picture.image[None])
    begun = time.perf_counter()
    prediction = model.predict(task, images)
    seconds = written(time.perf_counter() - begun)
    numbers = seen(prediction.output, task=wanted)
    _refuse_infinite(numbers, picture)
    rows, columns = numbers.maps.shape[1:]
    temperature = written(about.calibration.temperature) if about.calibration else None
    roi = _region(picture)
    found = findings(
        numbers,
        task=wanted,
        temperature=temperature,
        shift=about.calibration.shift if about.calibration else {},
        regions=regions_of(
            task, rows=rows, columns=columns, extent=picture.extent, eye=picture.eye
        ),
        roi=roi,
        concepts=signs(numbers, task=wanted, association=about.concept_association),
        seconds=seconds,
    )
    answers = answers_of(wanted, found)
    prediction_set = set_of(prediction, about, wanted, found=found, answers=answers)
    chosen: tuple[str, ...] = ()
    if methods or trust != "none":
        chosen = _chosen(found, expand, wanted, prediction_set)
        found = tuple(
            with_methods(
                finding,
                Question(
                    network=model.network,
                    image=images,
                    sha256=picture.sha256,
                    task=wanted,
                    logit=logit_of(wanted, place),
                    threshold=finding.threshold,
                    seed=derive_seed(model.package.seed, "explain", task),
                ),
                methods=tuple(methods),
                measuring=measuring,
                roi=roi,
            )
            if finding.name in chosen
            else finding
            for place, finding in enumerate(found)
        )
    novelty = novelty_of(prediction, about)
    without_words = Explanation(
        format=1,
        made_at=now.astimezone(UTC).isoformat(timespec="seconds"),
        picture=Picture(
            name=picture.name,
            sha256=picture.sha256,
            width_px=picture.width_px,
            height_px=picture.height_px,
            size_px=picture.image.shape[0],
            skipped=picture.skipped,
        ),
        model=lineage(model, about),
        task=task,
        title=wanted.title,
        kind=wanted.kind,
        answer=answer_words(
            wanted.kind,
            findings=found,
            answers=answers,
            prediction_set=prediction_set,
            novelty=novelty,
        ),
        answers=answers,
        findings=found,
        expanded=chosen,
        prediction_set=prediction_set,
        why_no_set=why_no_set(about) if prediction_set is None else "",
        novelty=novelty,
        is_calibrated=about.calibration is not None,
        why_not_calibrated=about.why_not_calibrated,
        calibrated_on=calibrated_on(about.calibration),
        temperature=temperature,
        roi=roi,
        rationale=(),
    )
    return without_words.model_copy(update={"rationale": rationale(without_words)})


def _refuse_infinite(numbers: Seen, picture: PreparedPicture) -> None:
    parts = (numbers.maps, numbers.logits, numbers.context, numbers.thresholds)
    signs_too = (numbers.concept_maps, numbers.concept_logits)
    if not all(np.isfinite(part).all() for part in (*parts, *signs_too)):
        raise ModelError(
            f"{picture.name}: the model's numbers for it are not finite. Its training has diverged "
            "or its weights are damaged: take another round's model."
        )


def _chosen(
    found: Sequence[Finding],
    expand: Sequence[str] | None,
    task: Task,
    prediction_set: PredictionSet | None,
) -> tuple[str, ...]:
    names = [finding.name for finding in found]
    if expand is None:
        return tuple(names[place] for place in described(task.kind, found, prediction_set))
    for name in expand:
        if name not in names:
            raise ModelError(
                unknown_name(f"finding of task {task.name}", name, dict.fromkeys(names))
            )
    return tuple(name for name in names if name in expand)


def _region(picture: PreparedPicture) -> Region | None:
    """Return the expert's region as the coverage of at most 64 x 64 cells."""
    if picture.region is None:
        return None
    cells = min(CELLS, picture.region.shape[0])
    coverage = np.clip(cell_coverage(picture.region, cells, cells), 0, 1)
    return Region(rows=cells, columns=cells, coverage=written_all(coverage))


def lineage(model: LoadedModel, about: TaskPackage) -> Lineage:
    """Return where a model comes from, as explanations of one of its tasks say it."""
    package = model.package
    return Lineage(
        run=package.run,
        round=package.round,
        weights_sha256=package.weights_sha256,
        config_digest=package.config_digest,
        sites=about.sites,
        training_pictures=about.training_pictures,
        reference=about.reference,
        versions=package.versions,
        package_digest=package.digest,
    )
