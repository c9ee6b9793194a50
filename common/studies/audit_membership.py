"""Membership inference: was this patient in the training part, from the released model alone?

Networks are trained on random halves of the same patients, so that every patient is a member of
some and none of others: each network is attacked with all the others as the attacker's own
(shadow) networks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn.metrics import roc_auc_score, roc_curve

from common.config.run import RunConfig
from common.learning.loss import sample_losses, total_loss
from common.machine.seed import derive_seed
from common.model.network import Network, build_network, probabilities
from common.model.parameters import parameters_of
from common.private.check import require_exact_gradients
from common.private.gradients import clipped_sum
from common.private.sampling import Pictures, draw_units
from common.private.secure_random import SecureRandom
from common.private.step import release_mean
from common.studies.audit_config import MembershipConfig, NoiseConfig
from common.studies.audit_pictures import Patients, batch_of
from common.tasks import Task

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_LEAST_DEVIATION = 1e-3  # of a confidence's Gaussian


@dataclass(frozen=True)
class TrainedOnHalf:
    """What one released network says of every patient."""

    members: Bools  # (N,)
    losses: Floats  # (N,) classification loss
    auroc_unseen: float  # mean over the task's answers, of patients it was not trained on


@dataclass(frozen=True)
class AttackFigures:
    """How well an attack tells members from others; intervals are 95 % over patients."""

    auc: float
    auc_interval: tuple[float, float]
    true_positives: float  # rate, at the study's false positive rate
    true_positives_interval: tuple[float, float]


def train_on_half(
    run: RunConfig,
    patients: Patients,
    config: MembershipConfig,
    *,
    noise: NoiseConfig | None,
    number: int,
) -> TrainedOnHalf:
    """Train a network on the half of the patients that its number draws, with or without noise."""
    draw = np.random.default_rng(derive_seed(run.seed, "members", number))
    order = draw.permutation(len(patients))
    members = np.zeros(len(patients), dtype=np.bool_)
    members[order[: len(patients) // 2]] = True
    task = run.task(run.sites[0].task)
    network = build_network(run.model, run.task_table(), seed=derive_seed(run.seed, "net", number))
    network.train()
    inside = np.flatnonzero(members)
    if noise is None:
        _train_plainly(
            network, run, patients, members=inside, task=task, config=config, number=number
        )
    else:
        _train_with_noise(
            network, run, patients, members=inside, task=task, config=config, noise=noise
        )
    return _told(network, run, patients, members, task)


def threshold_scores(networks: Sequence[TrainedOnHalf]) -> Floats:
    """Return scores (K, N), high for members: minus the loss.

    Yeom et al. 2018, https://arxiv.org/abs/1709.01604, section 3.
    """
    return -np.stack([network.losses for network in networks])


def calibrated_scores(networks: Sequence[TrainedOnHalf]) -> Floats:
    """Return log likelihood ratios (K, N), each network against the others as shadows.

    Carlini et al. 2022, https://arxiv.org/abs/2112.03570, algorithm 1 with one variance for all
    patients: Gaussians of the confidence log(p / (1 - p)), p = exp(-loss), where the patient was
    in, and where it was not. NaN where the others lack either.
    """
    losses = np.stack([network.losses for network in networks])
    confidence = -losses - np.log(-np.expm1(-np.maximum(losses, 1e-12)))
    members = np.stack([network.members for network in networks])
    scores = np.full_like(confidence, np.nan)
    for attacked in range(len(networks)):
        shadows = np.arange(len(networks)) != attacked
        means, deviations = [], []
        for is_in in (True, False):
            chosen = members[shadows] == is_in
            count = chosen.sum(axis=0)
            known = np.where(chosen, confidence[shadows], 0.0)
            mean = np.where(count > 0, known.sum(axis=0) / np.maximum(count, 1), np.nan)
            rest = np.where(chosen, confidence[shadows] - mean, 0.0)
            spare = max(int((np.maximum(count, 1) - 1).sum()), 1)
            means.append(mean)
            deviations.append(max(math.sqrt(float(np.nansum(rest**2)) / spare), _LEAST_DEVIATION))
        scores[attacked] = norm.logpdf(confidence[attacked], means[0], deviations[0]) - norm.logpdf(
            confidence[attacked], means[1], deviations[1]
        )
    return scores


def attack_figures(
    scores: Floats, members: Bools, config: MembershipConfig, *, seed: int
) -> AttackFigures:
    """Measure an attack over all networks, (K, N) each, with a bootstrap over patients."""

    def measured(patients: NDArray[np.int64]) -> tuple[float, float]:
        drawn, truth = scores[:, patients].ravel(), members[:, patients].ravel()
        known = np.isfinite(drawn)
        return separation(
            drawn[known], truth[known], false_positive_rate=config.false_positive_rate
        )

    count = scores.shape[1]
    auc, rate = measured(np.arange(count))
    draw = np.random.default_rng(seed)
    repeated = np.array(
        [measured(draw.integers(0, count, size=(count,))) for _ in range(config.replicates)]
    )
    low, high = np.percentile(repeated, [2.5, 97.5], axis=0)
    return AttackFigures(
        auc, (float(low[0]), float(high[0])), rate, (float(low[1]), float(high[1]))
    )


def separation(scores: Floats, truth: Bools, *, false_positive_rate: float) -> tuple[float, float]:
    """Return the area under the curve, and the true positive rate at a false positive rate."""
    false, true, _ = roc_curve(truth, scores, drop_intermediate=False)
    # The largest rate that a threshold reaches, not one interpolated between two thresholds.
    return float(roc_auc_score(truth, scores)), float(true[false <= false_positive_rate].max())


def _train_plainly(
    network: Network,
    run: RunConfig,
    patients: Patients,
    *,
    members: NDArray[np.int64],
    task: Task,
    config: MembershipConfig,
    number: int,
) -> None:
    parameters = parameters_of(network, task)
    optimiser = torch.optim.Adam(parameters.values(), lr=config.learning_rate)
    draw = np.random.default_rng(derive_seed(run.seed, "order", number))
    for _ in range(config.plain_steps):
        chosen = draw.choice(members, size=min(config.plain_batch, len(members)), replace=False)
        batch = batch_of(patients.of(torch.from_numpy(chosen)), network)
        output = network(batch.image, task=task.name)
        loss = total_loss(output, batch, task=task, config=run.loss).total
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()


def _train_with_noise(
    network: Network,
    run: RunConfig,
    patients: Patients,
    *,
    members: NDArray[np.int64],
    task: Task,
    config: MembershipConfig,
    noise: NoiseConfig,
) -> None:
    expected = max(1, round(noise.sample_rate * len(patients) / 2))
    private = run.model_copy(update={"privacy": noise.privacy(expected_units=expected)})
    method = require_exact_gradients(network, task=task, config=private)
    parameters = parameters_of(network, task)
    optimiser = torch.optim.Adam(parameters.values(), lr=config.learning_rate)
    random = SecureRandom()
    units: tuple[Pictures, ...] = tuple(members.astype(np.int64)[:, None])
    for _ in range(noise.steps):
        total = clipped_sum(
            network,
            draw_units(units, privacy=private.privacy, random=random),
            load=lambda drawn: batch_of(patients.of(torch.from_numpy(drawn)), network),
            task=task,
            loss=run.loss,
            method=method,
            clip_norm=noise.clip_norm,
            batch_size=run.train.batch_size,
        )
        release_mean(total, privacy=private.privacy, random=random)
        for name, parameter in parameters.items():
            parameter.grad = total[name]
        optimiser.step()


def _told(
    network: Network, run: RunConfig, patients: Patients, members: Bools, task: Task
) -> TrainedOnHalf:
    network.eval()
    batch = batch_of(patients, network)
    with torch.no_grad():
        output = network(batch.image, task=task.name)
        losses = sample_losses(output, batch, task=task, config=run.loss).classification
        told = probabilities(output.logits, task=task, thresholds=output.thresholds)
    areas = []
    if task.kind != "ordinal":
        for answer in range(batch.target.shape[1]):
            truth = batch.target[~members, answer].numpy()
            if len(np.unique(truth)) == 2:
                areas.append(roc_auc_score(truth, told[~members, answer].numpy()))
    return TrainedOnHalf(
        members=members,
        losses=losses.double().numpy(),
        auroc_unseen=float(np.mean(areas)) if areas else math.nan,
    )
