"""Membership inference: the scores of both attacks, their figures, and the private training."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

from common.studies.audit_config import AuditConfig, load_audit_config
from common.studies.audit_membership import (
    TrainedOnHalf,
    attack_figures,
    calibrated_scores,
    separation,
    threshold_scores,
)


@pytest.fixture
def config() -> AuditConfig:
    return load_audit_config(Path("configs/studies/audit.yaml"))


@pytest.fixture
def networks() -> list[TrainedOnHalf]:
    """Networks whose members' confidence is two deviations higher; patients differ far more."""
    draw = np.random.default_rng(0)
    hardness = 4 * draw.standard_normal(60)
    made = []
    for _ in range(12):
        members = draw.permutation(60) < 30
        confidence = hardness + 2 * members + draw.standard_normal(60)
        made.append(TrainedOnHalf(members, np.log1p(np.exp(-confidence)), auroc_unseen=0.8))
    return made


def test_likelihood_ratio_finds_members_that_the_threshold_misses(
    networks: list[TrainedOnHalf], config: AuditConfig
) -> None:
    members = np.stack([network.members for network in networks])
    settings = config.membership.model_copy(update={"replicates": 20})

    threshold = attack_figures(threshold_scores(networks), members, settings, seed=0)
    calibrated = attack_figures(calibrated_scores(networks), members, settings, seed=0)

    # Two Gaussians two deviations apart: Φ(2 / √2) = 0.92 with means known exactly.
    assert threshold.auc < 0.7
    assert 0.85 < calibrated.auc < norm.cdf(2 / 2**0.5) + 0.02
    assert calibrated.auc_interval[0] < calibrated.auc < calibrated.auc_interval[1]


def test_attack_on_networks_that_do_not_remember_is_a_coin(config: AuditConfig) -> None:
    draw = np.random.default_rng(1)
    networks = [
        TrainedOnHalf(draw.permutation(200) < 100, draw.exponential(size=200), auroc_unseen=0.5)
        for _ in range(8)
    ]
    members = np.stack([network.members for network in networks])
    settings = config.membership.model_copy(update={"replicates": 20})

    for scores in (threshold_scores(networks), calibrated_scores(networks)):
        figures = attack_figures(scores, members, settings, seed=0)
        assert figures.auc == pytest.approx(0.5, abs=0.05)
        assert figures.true_positives < 0.05


def test_attacked_network_is_not_among_its_own_shadows(networks: list[TrainedOnHalf]) -> None:
    first = calibrated_scores(networks)[0]
    flipped = TrainedOnHalf(~networks[0].members, networks[0].losses, auroc_unseen=0.8)

    assert np.allclose(calibrated_scores([flipped, *networks[1:]])[0], first)


def test_true_positives_are_those_above_the_threshold_that_few_others_pass() -> None:
    scores = np.concatenate([np.arange(100.0), np.arange(100.0) + 95.5])
    truth = np.arange(200) >= 100

    area, rate = separation(scores, truth, false_positive_rate=0.01)

    # One of the hundred others may pass: the threshold lies above 98.
    assert rate == pytest.approx(0.97)
    brute = (scores[truth][:, None] > scores[~truth][None]).mean()
    assert area == pytest.approx(brute)
