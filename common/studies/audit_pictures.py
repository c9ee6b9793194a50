"""Generated patients for the attacks: one picture each, and the batch a site would train on."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from common.config.run import PhantomSource, RunConfig
from common.datasets.phantom_source import open_phantom
from common.datasets.sample import Batch
from common.datasets.transforms import normalise
from common.errors import ConfigError
from common.model.network import Network


@dataclass(frozen=True)
class Patients:
    """N patients' pictures and answers."""

    pictures: Tensor  # (N, C, S, S) in [0, 1], as the hospital has them
    targets: Tensor  # (N, T)

    def __len__(self) -> int:
        """Return the number of patients."""
        return int(self.pictures.shape[0])

    def of(self, chosen: Tensor | slice) -> "Patients":
        """Return some of them."""
        return Patients(self.pictures[chosen], self.targets[chosen])


def draw_patients(run: RunConfig, *, site: str, count: int) -> Patients:
    """Draw a site's first patients; the run's seed and the site's name decide them.

    Raises ConfigError when the run's sites do not hold generated pictures.
    """
    source = run.sites[0].source
    if not isinstance(source, PhantomSource):
        raise ConfigError(
            "audit.run: its sites must hold generated pictures (source kind phantom): the study "
            "shows what it reconstructs."
        )
    one_each = source.model_copy(update={"patients": count, "pictures_per_patient": 1})
    table = open_phantom(
        one_each, task=run.task(run.sites[0].task), site=site, seed=run.seed
    ).drawn_at(run.data.image_size_px)
    drawn = [table.draw(index) for index in range(count)]
    images = np.stack([case.image for case in drawn])
    return Patients(
        pictures=torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255,
        targets=torch.tensor([case.targets for case in drawn]),
    )


def batch_of(patients: Patients, network: Network) -> Batch:
    """Return what the network is trained on: no augmentation, no lesion outlined."""
    grid = network.grid(int(patients.pictures.shape[-1]))
    count, logits = patients.targets.shape
    return Batch(
        image=normalise(patients.pictures),
        target=patients.targets,
        roi_coverage=torch.zeros(count, logits, *grid),
        has_roi=torch.zeros(count, logits, dtype=torch.bool),
        concept_target=torch.zeros(count, 0),  # no sign is labelled
        concept_coverage=torch.zeros(count, 0, *grid),
    )
