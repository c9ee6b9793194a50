"""One picture with an outlined lesion, and what any explanation method's map of it is worth."""

import time
from dataclasses import dataclass

import numpy as np
import torch

from common.datasets.loader import make_batch
from common.datasets.shard import Shard
from common.explain import EXPLAINERS
from common.explain.asking import answer_of, bound
from common.explain.baseline import blurred
from common.metrics.agreement import agreement
from common.metrics.faithfulness import cell_ranks, curves_by_chance, curves_in_order
from common.metrics.localisation import Localisation, localise
from common.model.network import Network
from common.tasks import Task
from server.measuring.explanation_cases import OutlinedCase

OWN = "evidence"  # the map that is built into the model
RANDOM_ORDERS = 3  # per picture, whose mean is what chance gives


@dataclass(frozen=True)
class Measured:
    """One method's map of one picture."""

    seconds: float
    localisation: Localisation | None
    deletion: float  # area under the curve of the probability, 0..1; lower is better
    insertion: float  # likewise; higher is better
    spearman: float  # rank correlation with the model's own map, -1..1; NaN of an empty map
    top_iou: float  # overlap of the strongest tenth with that of the own map, 0..1; likewise


class AskedPicture:
    """One picture, and the logit that is asked about."""

    def __init__(
        self, network: Network, shard: Shard, case: OutlinedCase, *, task: Task, seed: int
    ) -> None:
        """Read the picture and look at the model's own map of it.

        Args:
            network: In evaluation mode, on the device to be used.
            shard: Where the picture is.
            case: Which one, and which logit of it.
            task: As the run restricts it.
            seed: Of random orders, and of which of two tied cells comes first.
        """
        grid = network.grid(int(shard.images.shape[1]))
        batch = make_batch(shard, np.array([case.index]), task=task, grid=grid)
        self._network, self._task, self._case, self._seed = network, task, case, seed
        self._image = batch.image.to(next(network.parameters()).device)  # (1, 3, S, S)
        self._paint = blurred(self._image)
        self._answer = answer_of(network, task, case.logit)
        self._own = bound(EXPLAINERS.get(OWN), network, task, case.logit)(self._image)

    def area_by_chance(self) -> float:
        """Return the mean area under the curves in random order, 0..1.

        Deletion's and insertion's alike: the one is the other read backwards.
        """
        drawn = curves_by_chance(
            self._answer,
            self._image,
            paint=self._paint,
            seed=self._seed,
            random_orders=RANDOM_ORDERS,
        )
        return float(np.mean([curves.deletion_area[0] for curves in drawn]))

    def measure(self, method: str) -> Measured:
        """Return what a method's map is worth.

        Raises ConfigError for an unknown method, ExplanationError where it has no map of this
        picture, and whatever else it raises.
        """
        explain = bound(EXPLAINERS.get(method), self._network, self._task, self._case.logit)
        started = time.perf_counter()
        saliency = explain(self._image)  # (1, S, S)
        if saliency.is_cuda:
            torch.cuda.synchronize(saliency.device)  # the device may still be at it
        seconds = time.perf_counter() - started
        curves = curves_in_order(
            self._answer,
            self._image,
            cell_ranks(saliency, seed=self._seed),
            paint=self._paint,
        )
        agreed = agreement(self._own, saliency)
        return Measured(
            seconds=seconds,
            localisation=localise(saliency[0].cpu().numpy(), self._case.region),
            deletion=float(curves.deletion_area[0]),
            insertion=float(curves.insertion_area[0]),
            spearman=float(agreed.spearman[0]),
            top_iou=float(agreed.top_iou[0]),
        )
