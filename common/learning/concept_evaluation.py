"""How right concept heads are and where they look, by the measures of a task's classes."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.config.run import EvaluationConfig
from common.datasets.shard import Shard, concept_masks
from common.metrics.classification import (
    ClassificationReport,
    Predictions,
    classification_metrics,
)
from common.metrics.localisation import (
    LocalisationReport,
    LocalisedCase,
    localisation_metrics,
    localise,
)
from common.model.network import Output
from common.tasks import Task


@dataclass(frozen=True, eq=False)
class ConceptPredictions:
    """What a model says of K concepts in N pictures, and where it sees them."""

    predictions: Predictions  # probabilities (N, K), truths NaN where unknown
    localised: tuple[LocalisedCase, ...]  # one per picture and concept that is there


@dataclass(frozen=True, eq=False)
class ConceptReport:
    """What they are worth, per concept, with support, intervals and chance."""

    classification: ClassificationReport
    localisation: LocalisationReport  # each concept's map against its own region


class ConceptWatch:
    """Collects what a network says of concepts while it looks at a shard, batch by batch."""

    def __init__(self, shard: Shard, task: Task) -> None:
        """Watch for the shard's concepts; none are kept where it or the network has none."""
        self._shard, self._task = shard, task
        self._answers: list[NDArray[np.float32]] = []
        self._localised: list[LocalisedCase] = []

    def see(self, output: Output, pictures: NDArray[np.int64]) -> None:
        """Take in the output for these pictures of the shard, (B,)."""
        names = self._shard.concept_names
        if not names or output.concept_logits.shape[1] != len(names):
            return
        self._answers.append(output.concept_logits.sigmoid().cpu().numpy())
        maps = output.concept_maps.cpu().numpy()  # (B, K, h, w)
        for index, seen in zip(pictures.tolist(), maps, strict=True):
            masks = concept_masks(self._shard, index, self._task)
            self._localised += [
                LocalisedCase(
                    class_name=names[concept],
                    patient=int(self._shard.patients[index]),
                    localisation=localise(seen[concept], masks[concept])
                    if concept in masks
                    else None,
                )
                for concept in np.flatnonzero(self._shard.concepts[index] == 1).tolist()
            ]

    def predictions(self, indices: NDArray[np.int64]) -> ConceptPredictions | None:
        """Return what was seen of these pictures of the shard, (N,), in the order seen."""
        if not self._answers:
            return None
        return ConceptPredictions(
            predictions=Predictions(
                task=self._task.name,
                class_names=self._shard.concept_names,
                probabilities=np.concatenate(self._answers),
                truths=self._shard.concepts[indices],
                patients=self._shard.patients[indices],
            ),
            localised=tuple(self._localised),
        )


def measure_concepts(
    predicted: ConceptPredictions,
    *,
    config: EvaluationConfig,
    draws: Callable[[str], np.random.Generator],
) -> ConceptReport:
    """Turn predictions into metrics with intervals; ``draws`` gives a generator per use."""
    return ConceptReport(
        classification=classification_metrics(
            predicted.predictions,
            replicates=config.bootstrap_replicates,
            min_positive_patients=config.min_positive_patients,
            rng=draws("concepts"),
        ),
        localisation=localisation_metrics(
            predicted.localised,
            replicates=config.bootstrap_replicates,
            min_patients=config.min_positive_patients,
            rng=draws("concept localisation"),
        ),
    )
