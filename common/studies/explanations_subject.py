"""A network with the cases it is asked about, and what holds of them for every method."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.datasets.loader import make_batch
from common.explain import Explainer
from common.explain.asking import answer_of, bound, in_batches
from common.explain.baseline import blurred
from common.explain.score import score_of
from common.machine.seed import derive_seed
from common.metrics.bootstrap import Float64Array
from common.metrics.estimate import Estimate
from common.metrics.faithfulness import curves_in_order, random_ranks
from common.metrics.mean_estimate import mean_estimate
from common.metrics.region_drop import RegionDrop, region_drop
from common.model.network import Network
from common.studies.explanations_config import ExplanationsConfig
from common.studies.explanations_sets import MeasuredCase, PreparedSet, by_logit


@dataclass(frozen=True, eq=False)
class Subject:
    """A network with the cases it is asked about, and what holds for every method."""

    prepared: PreparedSet
    network: Network
    others: tuple[Network, ...]  # the same training with other seeds
    cases: tuple[MeasuredCase, ...]
    images: Tensor  # (N, 3, S, S), of the cases
    own_maps: Tensor  # (N, S, S) of OWN
    random_deletion: Float64Array  # (N,) area under the curve in random order
    random_insertion: Float64Array  # (N,)
    drops: RegionDrop
    config: ExplanationsConfig

    @property
    def patients(self) -> NDArray[np.int64]:
        """Patient code of each case, (N,)."""
        return np.array([case.patient for case in self.cases], dtype=np.int64)

    def estimate(
        self, values: Float64Array, *, use: str, chance: float | None = None, few: int | None = None
    ) -> Estimate:
        """Return a mean over cases; ``few`` restricts it to the first cases of one logit."""
        patients = self.patients if few is None else self.patients[self.few[:few]]
        return mean_estimate(
            values,
            patients,
            replicates=self.config.replicates,
            min_patients=self.config.min_patients,
            rng=np.random.default_rng(derive_seed(self.config.seeds[0], "bootstrap", use)),
            chance=chance,
        )

    @property
    def few(self) -> list[int]:
        """Places of the few cases, all of the logit that has most."""
        most = max(by_logit(self.cases).values(), key=len)
        return most[: self.config.few_pictures]


def subject_of(
    prepared: PreparedSet,
    networks: Sequence[Network],
    cases: tuple[MeasuredCase, ...],
    own: Explainer,
    config: ExplanationsConfig,
) -> Subject:
    """Measure what is the same for every method: own maps, chance, drops of the regions."""
    network, *others = networks
    batch = make_batch(
        prepared.shard,
        np.array([case.index for case in cases]),
        task=prepared.task,
        grid=network.grid(int(prepared.shard.images.shape[1])),
    )
    seed = config.seeds[0]
    areas = np.zeros((2, len(cases)))
    inside, elsewhere = np.zeros((2, len(cases)))
    placements = [0] * len(cases)
    own_maps = torch.zeros(len(cases), *batch.image.shape[-2:])
    for logit, places in by_logit(cases).items():
        images = batch.image[places]
        own_maps[places] = in_batches(bound(own, network, prepared.task, logit))(images)
        found = curves_in_order(
            answer_of(network, prepared.task, logit),
            images,
            random_ranks(len(images), seed=seed),
            paint=blurred(images),
        )
        areas[:, places] = found.deletion_area, found.insertion_area
        drops = region_drop(
            score_of(network, task=prepared.task.name, logit=logit),
            images,
            np.array([cases[place].region for place in places]),
            seed=seed,
        )
        inside[places], elsewhere[places] = drops.inside, drops.elsewhere
        for place, number in zip(places, drops.placements, strict=True):
            placements[place] = number
    return Subject(
        prepared=prepared,
        network=network,
        others=tuple(others),
        cases=cases,
        images=batch.image,
        own_maps=own_maps,
        random_deletion=areas[0],
        random_insertion=areas[1],
        drops=RegionDrop(inside, elsewhere, tuple(placements)),
        config=config,
    )
