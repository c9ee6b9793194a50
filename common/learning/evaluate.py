"""One evaluation loop for a site and for the coordinator: predict, then measure."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray

from common.config.loss import LossConfig
from common.config.run import EvaluationConfig
from common.datasets.loader import eval_batches
from common.datasets.sample import Batch
from common.datasets.shard import Shard, lesion_masks
from common.errors import DataError
from common.learning.concept_evaluation import (
    ConceptPredictions,
    ConceptReport,
    ConceptWatch,
    measure_concepts,
)
from common.learning.loss import LossParts, total_loss
from common.machine.seed import derive_seed
from common.metrics.classification import (
    ClassificationReport,
    Predictions,
    classification_metrics,
)
from common.metrics.estimate import finite_or_none
from common.metrics.localisation import (
    LocalisationReport,
    LocalisedCase,
    localisation_metrics,
    localise,
)
from common.model.network import Network, Output, probabilities
from common.tasks import Task

LOSS_PARTS = tuple(field.name for field in fields(LossParts))


@dataclass(frozen=True, eq=False)
class TaskPredictions:
    """What a model says about the N pictures of one part of a shard, and where it looks."""

    task: Task
    part: str
    indices: NDArray[np.int64]  # (N,) pictures in the shard
    logits: NDArray[np.float32]  # (N, T)
    context: NDArray[np.float32]  # (N, T) logits; what the whole picture adds beside the maps
    with_context: frozenset[str]  # names of the logits that have a context part
    predictions: Predictions
    localised: tuple[LocalisedCase, ...]  # one per picture and positive logit
    loss: dict[str, float]  # mean over pictures of each part, before weighting; may be NaN
    kept_maps: Mapping[int, NDArray[np.float32]]  # picture in the shard → signed maps (T, h, w)
    concepts: ConceptPredictions | None  # None: the network or the shard knows no signs


@dataclass(frozen=True, eq=False)
class TaskReport:
    """What the predictions are worth."""

    task: str
    pictures: int
    patients: int
    classification: ClassificationReport
    localisation: LocalisationReport
    loss: dict[str, float | None]
    # Per logit, mean over pictures of |context| / (|Σ map| + |context|), in [0, 1]; None for a
    # logit without a context part, and for a diverged model.
    context_share: dict[str, float | None]
    concepts: ConceptReport | None

    @property
    def score(self) -> float | None:
        """What early stopping compares, higher is better; None for a diverged model.

        The mean AUROC over classes; minus the loss where no class has both answers.
        """
        auroc = self.classification.average["auroc"].value
        loss = self.loss["total"]
        if loss is None:
            return None
        return auroc if auroc is not None else -loss

    @property
    def score_is(self) -> str:
        """What ``score`` is, in words."""
        has_auroc = self.classification.average["auroc"].value is not None
        return "mean AUROC over classes" if has_auroc else "minus the loss: no AUROC is defined"


def evaluate(
    network: Network,
    shard: Shard,
    part: str,
    *,
    task: Task,
    loss: LossConfig,
    batch_size: int,
    keep_maps: Collection[int] = (),
) -> TaskPredictions:
    """Look at every picture of a part once, without augmentation, in float32.

    The network is left in the mode it came in. The same network and shard give the same bits on
    the same machine.

    Args:
        network: With a head for the task, on the device to be used.
        shard: Of that task and its labels.
        part: One of the shard's parts.
        task: As the run restricts it.
        loss: The run's, whose parts are reported beside the metrics.
        batch_size: Pictures at once.
        keep_maps: Pictures of the shard whose maps are wanted.

    Raises:
        DataError: The shard belongs to another task or labels, or the part is empty.
    """
    indices = _indices(shard, part, task)
    size_px = int(shard.images.shape[1])
    device = next(network.parameters()).device
    logits: list[NDArray[np.float32]] = []
    context: list[NDArray[np.float32]] = []
    answers: list[NDArray[np.float32]] = []
    localised: list[LocalisedCase] = []
    kept: dict[int, NDArray[np.float32]] = {}
    signs = ConceptWatch(shard, task)
    sums = np.zeros(len(LOSS_PARTS))
    was_training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            for batch, pictures in eval_batches(
                shard, part, task=task, batch_size=batch_size, grid=network.grid(size_px)
            ):
                output = network(batch.image.to(device), task=task.name)
                chance = probabilities(output.logits, task=task, thresholds=output.thresholds)
                logits.append(output.logits.cpu().numpy())
                context.append(output.context.cpu().numpy())
                answers.append(chance.cpu().numpy())
                sums += _loss_sums(output, batch, task=task, config=loss, device=device)
                signs.see(output, pictures)
                maps = output.maps.cpu().numpy()  # (B, T, h, w)
                for index, picture_maps in zip(pictures.tolist(), maps, strict=True):
                    localised += _localised(shard, index, picture_maps, task)
                    if index in keep_maps:
                        kept[index] = picture_maps
    finally:
        network.train(was_training)
    return TaskPredictions(
        task=task,
        part=part,
        indices=indices,
        logits=np.concatenate(logits),
        context=np.concatenate(context),
        with_context=frozenset(network.config.context_labels.get(task.name, ())),
        predictions=_predictions(np.concatenate(answers), shard, indices, task),
        localised=tuple(localised),
        loss=dict(zip(LOSS_PARTS, (sums / len(indices)).tolist(), strict=True)),
        kept_maps=kept,
        concepts=signs.predictions(indices),
    )


def measure(predicted: TaskPredictions, *, config: EvaluationConfig, seed: int) -> TaskReport:
    """Turn predictions into metrics with intervals.

    The bootstrap's draws depend on seed, task and part alone, so that rounds are compared on the
    same replicates.
    """
    name = predicted.task.name

    def draws(use: str) -> np.random.Generator:
        return np.random.default_rng(derive_seed(seed, "bootstrap", use, name, predicted.part))

    return TaskReport(
        task=name,
        pictures=len(predicted.indices),
        patients=len(np.unique(predicted.predictions.patients)),
        classification=classification_metrics(
            predicted.predictions,
            replicates=config.bootstrap_replicates,
            min_positive_patients=config.min_positive_patients,
            rng=draws("classification"),
        ),
        localisation=localisation_metrics(
            predicted.localised,
            replicates=config.bootstrap_replicates,
            min_patients=config.min_positive_patients,
            rng=draws("localisation"),
        ),
        loss={part: finite_or_none(value) for part, value in predicted.loss.items()},
        context_share=_context_shares(predicted),
        concepts=None
        if predicted.concepts is None
        else measure_concepts(predicted.concepts, config=config, draws=draws),
    )


def released_metrics(report: TaskReport) -> dict[str, float]:
    """Return what a site sends of its evaluation: averages over its pictures, finite only.

    What is not defined there is left out; per-class numbers stay, as they rest on few patients.
    """
    classification, localisation = report.classification, report.localisation
    estimates = classification.average | classification.grades | localisation.average
    numbers: dict[str, float | None] = {name: e.value for name, e in estimates.items()}
    numbers |= {f"loss_{part}": value for part, value in report.loss.items()}
    return {name: value for name, value in numbers.items() if value is not None}


def context_share(*, map_logits: float, context_logits: float) -> float:
    """Return |context| / (|Σ map| + |context|) of one logit, in [0, 1]; 0 where both are 0.

    NaN for a diverged model.
    """
    size = abs(map_logits) + abs(context_logits)
    return abs(context_logits) / size if size else 0.0


def positive_logits(shard: Shard, index: int) -> list[int]:
    """Return the logits of a picture whose target is positive: finding, grade ≥ 1, malignant."""
    # NaN >= 1 is False: what is unknown is not positive.
    return [int(logit) for logit in np.flatnonzero(shard.targets[index] >= 1)]


def _context_shares(predicted: TaskPredictions) -> dict[str, float | None]:
    shares: dict[str, float | None] = {}
    for logit, name in enumerate(predicted.task.logit_names):
        context = predicted.context[:, logit].astype(np.float64)
        seen = predicted.logits[:, logit] - context  # Σ map: the two add up to the logit
        pairs = zip(seen.tolist(), context.tolist(), strict=True)
        each = [context_share(map_logits=m, context_logits=c) for m, c in pairs]
        known = name in predicted.with_context
        shares[name] = finite_or_none(float(np.mean(each))) if known else None
    return shares


def _indices(shard: Shard, part: str, task: Task) -> NDArray[np.int64]:
    if (shard.task, shard.labels) != (task.name, task.labels):
        raise DataError(
            f"a shard of task {shard.task} with labels {', '.join(shard.labels)} cannot be "
            f"evaluated as {task.name} with {', '.join(task.labels)}. Prepare it again."
        )
    indices = shard.indices(part)
    if not len(indices):
        raise DataError(f"part {part} of the {task.name} shard is empty: nothing to evaluate.")
    return indices


def _loss_sums(
    output: Output, batch: Batch, *, task: Task, config: LossConfig, device: torch.device
) -> NDArray[np.float64]:
    """Return the loss parts summed over the pictures of a batch."""
    here = Batch(
        image=batch.image,  # the loss looks at no picture
        target=batch.target.to(device),
        roi_coverage=batch.roi_coverage.to(device),
        has_roi=batch.has_roi.to(device),
        concept_target=batch.concept_target.to(device),
        concept_coverage=batch.concept_coverage.to(device),
    )
    parts = total_loss(output, here, task=task, config=config)
    return np.array([float(getattr(parts, name)) for name in LOSS_PARTS]) * len(batch)


def _localised(
    shard: Shard, index: int, maps: NDArray[np.float32], task: Task
) -> list[LocalisedCase]:
    """Compare a picture's maps (T, h, w) with its lesion regions, for what is positive in it."""
    masks = lesion_masks(shard, index, task)  # lesions only: anatomy never counts
    return [
        LocalisedCase(
            class_name=task.logit_names[logit],
            patient=int(shard.patients[index]),
            localisation=localise(maps[logit], masks[logit]) if logit in masks else None,
        )
        for logit in positive_logits(shard, index)
    ]


def _predictions(
    chance: NDArray[np.float32], shard: Shard, indices: NDArray[np.int64], task: Task
) -> Predictions:
    """Put probabilities (N, K) beside the truth of the same questions."""
    targets = shard.targets[indices]
    if task.kind != "ordinal":
        return Predictions(
            task=task.name,
            class_names=task.class_names,
            probabilities=chance,
            truths=targets,
            patients=shard.patients[indices],
        )
    steps = np.arange(1, len(task.labels))
    return Predictions(
        task=task.name,
        class_names=task.class_names,
        probabilities=chance,
        truths=np.where(np.isnan(targets), np.nan, targets >= steps),  # (N, 1) -> (N, K)
        patients=shard.patients[indices],
        grades=targets[:, 0],
        # NaN >= 0.5 is False: a diverged model would seem to grade every picture as healthy.
        predicted_grades=np.where(
            np.isfinite(chance).all(axis=1), (chance >= 0.5).sum(axis=1), np.nan
        ),
    )
