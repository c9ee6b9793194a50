"""What a site measures of a model on its own pictures; everything is computed and kept here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.audit_pack.pictures import neutral_name
from client.audit_pack.schema import (
    AnswerCoverage,
    ClassFigures,
    Disagreement,
    Localised,
    Measured,
    measured,
)
from common.config.loss import LossConfig
from common.datasets.shard import Shard
from common.errors import ModelError
from common.explanation.written import written
from common.learning.evaluate import evaluate
from common.machine.seed import derive_seed
from common.metrics.bootstrap import CONFIDENCE
from common.metrics.classification import (
    ClassificationReport,
    Predictions,
    classification_metrics,
)
from common.metrics.conformal import answer_sets
from common.metrics.estimate import Estimate
from common.metrics.localisation import LocalisedCase, localisation_metrics
from common.metrics.mean_estimate import mean_estimate
from common.package.answers import limits, nonconformities, questions, right_answers
from common.package.loading import LoadedModel
from common.package.responses import Responses, respond
from common.package.schema import Calibration
from common.package.shift import unshifted
from common.tasks import Task

BATCH_SIZE = 16  # pictures at once; a hospital's workstation may have little memory
REPLICATES = 1000  # of the bootstrap over patients, for 95 % intervals
MIN_PATIENTS = 20  # below this no interval by bootstrap is given
ALL = "all"


@dataclass(frozen=True, eq=False)
class Measurements:
    """All that a pack holds beside its pages."""

    pictures: int
    patients: int
    coverage: Measured | None
    coverage_of: tuple[AnswerCoverage, ...]
    novel: Measured | None
    average_auroc: Measured
    classes: tuple[ClassFigures, ...]
    localisation: tuple[Localised, ...]
    concepts: tuple[ClassFigures, ...]
    concept_localisation: tuple[Localised, ...]
    disagreements: tuple[Disagreement, ...]


def measure_here(model: LoadedModel, shard: Shard, part: str, *, task: Task) -> Measurements:
    """Look at every picture of a part and say what the model is worth on it.

    Args:
        model: Opened package, of this task, its labels and its size of pictures.
        shard: The site's.
        part: One of its parts.
        task: As the package has it.

    Raises:
        DataError: The part is empty, or there is none.
        ModelError: The model has diverged.
    """
    predicted = evaluate(
        model.network, shard, part, task=task, loss=_no_loss(task), batch_size=BATCH_SIZE
    )
    responses = respond(model.network, shard, part, task=task, batch_size=BATCH_SIZE)
    if not responses.is_finite():
        raise ModelError(
            f"the model of run {model.package.run} gives numbers that are not finite: it has "
            "diverged, or its files are damaged. Ask the coordinator for another."
        )
    rng = np.random.default_rng(derive_seed(model.package.seed, "audit pack", task.name, part))
    classification, signs = _classification(predicted.predictions, rng), predicted.concepts
    coverage, coverage_of = _coverage(model, responses, task, rng)
    return Measurements(
        pictures=len(responses),
        patients=responses.num_patients,
        coverage=coverage,
        coverage_of=coverage_of,
        novel=_novel(model, responses, task, rng),
        average_auroc=measured(classification.average["auroc"]),
        classes=_classes(classification),
        localisation=_localised(predicted.localised, rng),
        concepts=() if signs is None else _classes(_classification(signs.predictions, rng)),
        concept_localisation=() if signs is None else _localised(signs.localised, rng),
        disagreements=disagreements(
            responses, calibration=model.about(task.name).calibration, task=task
        ),
    )


def share_estimate(
    is_so: NDArray[np.floating], patients: NDArray[np.int32], *, rng: np.random.Generator
) -> Measured:
    """Return a share with its interval over patients.

    Where it is so of all pictures or of none, a bootstrap would claim certainty. Then the bounds
    are those of Clopper and Pearson 1934, doi:10.1093/biomet/26.4.404, each patient counting once:
    none of n gives 1 - (α/2)^(1/n) at most.

    Args:
        is_so: One per picture, (N,): 0, 1, or NaN where it is not known.
        patients: Patient code of each picture, (N,).
        rng: Source of the bootstrap's draws.
    """
    known = np.isfinite(is_so)
    found = mean_estimate(
        is_so[known],
        patients[known],
        replicates=REPLICATES,
        min_patients=MIN_PATIENTS,
        rng=rng,
    )
    if found.value not in (0.0, 1.0):
        return measured(found)
    people = len(np.unique(patients[known]))
    bound = ((1 - CONFIDENCE) / 2) ** (1 / people)
    low, high = (bound, 1.0) if found.value == 1 else (0.0, 1 - bound)
    return measured(
        Estimate(
            value=found.value,
            low=low,
            high=high,
            support=found.support,
            positives=None,
            positive_patients=None,
            chance=None,
            note=f"exact bounds from {people} patients",
        )
    )


def disagreements(
    responses: Responses, *, calibration: Calibration | None, task: Task
) -> tuple[Disagreement, ...]:
    """Return every question where model and label differ, the surest of the model first.

    The model says what it would say on a page: present from one half on, and the highest grade
    whose probability to be reached is one half.

    Args:
        responses: To the part's pictures, in order.
        calibration: Of the task; None: its probabilities are those of the logits as they are.
        task: Whose they are.
    """
    scaled = responses.class_logits.astype(np.float64)
    if calibration is not None:
        scaled = unshifted(scaled, calibration.shift, task=task) / calibration.temperature
    found = []
    for number, question in enumerate(questions(task)):
        chances = 1 - nonconformities(scaled, task=task)[number]  # (N, A)
        right = right_answers(responses.targets, number)
        # A logit of exactly 0 is a probability of one half.
        is_over = scaled >= 0 if question.is_ordered else scaled[:, [number]] >= 0
        said = is_over.sum(axis=1)
        for place in np.flatnonzero((right >= 0) & (said != right)).tolist():
            label = int(right[place])
            found.append(
                Disagreement(
                    picture=neutral_name(place),
                    question=question.name,
                    label=question.answers[label],
                    said=question.answers[int(said[place])],
                    label_probability=written(min(1.0, max(0.0, float(chances[place, label])))),
                )
            )
    return tuple(sorted(found, key=lambda one: (one.label_probability, one.picture)))


def _coverage(
    model: LoadedModel, responses: Responses, task: Task, rng: np.random.Generator
) -> tuple[Measured | None, tuple[AnswerCoverage, ...]]:
    calibration = model.about(task.name).calibration
    if calibration is None or calibration.conformal is None:
        return None, ()
    thresholds: Mapping[str, float] = calibration.conformal.thresholds
    scores = nonconformities(responses.class_logits, task=task)
    whole = np.full((len(responses), len(scores)), np.nan)  # pictures x questions
    of_answers = []
    for number, question in enumerate(questions(task)):
        if not set(question.keys) <= set(thresholds):
            continue
        right = right_answers(responses.targets, number)
        members = answer_sets(
            scores[number], limits(question, thresholds), is_ordered=question.is_ordered
        )
        holds = np.where(right < 0, np.nan, members[np.arange(len(right)), np.maximum(right, 0)])
        whole[:, number] = holds
        for answer, key in enumerate(question.keys):
            own = np.where(right == answer, holds, np.nan)
            of_answers.append(
                AnswerCoverage(
                    answer=key, coverage=share_estimate(own, responses.patients, rng=rng)
                )
            )
    patients = np.repeat(responses.patients, whole.shape[1])
    return share_estimate(whole.ravel(), patients, rng=rng), tuple(of_answers)


def _novel(
    model: LoadedModel, responses: Responses, task: Task, rng: np.random.Generator
) -> Measured | None:
    limit, familiar = model.about(task.name).novelty_limit, model.novelty.get(task.name)
    if limit is None or familiar is None:
        return None
    is_novel = familiar.distance(responses.features) > limit
    return share_estimate(is_novel.astype(np.float64), responses.patients, rng=rng)


def _classification(predictions: Predictions, rng: np.random.Generator) -> ClassificationReport:
    return classification_metrics(
        predictions, replicates=REPLICATES, min_positive_patients=MIN_PATIENTS, rng=rng
    )


def _classes(report: ClassificationReport) -> tuple[ClassFigures, ...]:
    return tuple(
        ClassFigures(
            name=name,
            positives=metrics["auroc"].positives or 0,
            positive_patients=metrics["auroc"].positive_patients or 0,
            auroc=measured(metrics["auroc"]),
        )
        for name, metrics in report.per_class.items()
    )


def _localised(cases: Sequence[LocalisedCase], rng: np.random.Generator) -> tuple[Localised, ...]:
    report = localisation_metrics(cases, replicates=REPLICATES, min_patients=MIN_PATIENTS, rng=rng)
    rows = report.per_class
    if len(rows) != 1:
        rows = {ALL: report.average} | rows
    return tuple(
        Localised(
            name=name,
            pointing_hit=measured(metrics["pointing_hit"]),
            energy_in_roi=measured(metrics["energy_in_roi"]),
            iou_matched_area=measured(metrics["iou_matched_area"]),
        )
        for name, metrics in rows.items()
        if metrics["pointing_hit"].support
    )


def _no_loss(task: Task) -> LossConfig:
    """Return settings of a loss that nobody asks for here: nothing is trained."""
    return LossConfig(
        lambda_att=0,
        lambda_sal=0,
        lambda_con=0,
        overlap_weight=0,
        entropy_weight=0,
        coverage_threshold=1,
        expected_roi_fraction={},
        class_weights={task.name: dict.fromkeys(task.class_names, 1.0)},
    )
