"""What canaries prove: against closed forms, brute force and mechanisms with known epsilon."""

import math
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from common.errors import ConfigError
from common.studies.audit_bound import chance_of_guesses, claimed_epsilon, lower_bound
from common.studies.audit_canary import audit_canaries, released_sum
from common.studies.audit_config import AuditConfig, load_audit_config


@pytest.fixture
def config() -> AuditConfig:
    return load_audit_config(Path("configs/studies/audit.yaml"))


def test_without_delta_the_chance_is_that_of_coins_as_biased_as_epsilon_allows() -> None:
    probability = math.e / (1 + math.e)
    brute = sum(
        math.prod(probability if right else 1 - probability for right in flips)
        for flips in product((True, False), repeat=8)
        if sum(flips) >= 6
    )

    chance = chance_of_guesses(canaries=20, guesses=8, right=6, epsilon=1.0, delta=0.0)

    assert chance == pytest.approx(brute, rel=1e-12)


def test_bound_of_all_guesses_right_has_the_closed_form() -> None:
    # P[all of r right] = (e^ε / (1 + e^ε))^r = 0.05
    probability = 0.05 ** (1 / 100)

    bound = lower_bound(canaries=100, guesses=100, right=100, delta=0.0, significance=0.05)

    assert bound == pytest.approx(math.log(probability / (1 - probability)), abs=2e-6)


def test_delta_weakens_the_bound_as_far_as_brute_force_says() -> None:
    guesses, right, epsilon, delta, canaries = 12, 10, 0.7, 1e-3, 30
    probability = 1 / (1 + math.exp(-epsilon))
    mass = [
        math.comb(guesses, k) * probability**k * (1 - probability) ** (guesses - k)
        for k in range(guesses + 1)
    ]
    slope = max(sum(mass[right - back : right]) / back for back in range(1, right + 1))

    chance = chance_of_guesses(
        canaries=canaries, guesses=guesses, right=right, epsilon=epsilon, delta=delta
    )

    assert chance == pytest.approx(sum(mass[right:]) + 2 * canaries * delta * slope, rel=1e-12)


def test_bound_exceeds_the_true_epsilon_of_randomised_response_rarely() -> None:
    draw = np.random.default_rng(0)
    right = draw.binomial(200, math.e / (1 + math.e), size=2000)  # ε = 1 exactly
    bounds = {
        int(v): lower_bound(canaries=200, guesses=200, right=int(v), delta=0.0, significance=0.05)
        for v in np.unique(right)
    }

    wrong = np.mean([bounds[int(v)] > 1.0 for v in right])

    # At most 0.05, and not much less: binomial tails are coarse, and 2000 draws vary by 0.005.
    assert 0.02 < wrong < 0.065


def test_guesses_no_better_than_coins_prove_nothing() -> None:
    assert lower_bound(canaries=100, guesses=100, right=55, delta=0.0, significance=0.05) == 0.0


def test_more_right_guesses_than_guesses_are_refused() -> None:
    with pytest.raises(ConfigError, match="right guesses <= guesses"):
        lower_bound(canaries=10, guesses=5, right=6, delta=0.0, significance=0.05)


def test_claim_of_a_step_without_sampling_is_that_of_the_gaussian_mechanism(
    config: AuditConfig,
) -> None:
    noise = config.noise.model_copy(
        update={"sample_rate": 1.0, "steps": 1, "noise_multiplier": 1.5, "delta": 1e-5}
    )

    epsilon = claimed_epsilon(noise)

    # Balle & Wang 2018, https://arxiv.org/abs/1805.06530, theorem 8.
    def tail(x: float) -> float:
        return 0.5 * math.erfc(x / math.sqrt(2))

    shift = 1 / 1.5
    delta = tail(epsilon / shift - shift / 2) - math.exp(epsilon) * tail(
        epsilon / shift + shift / 2
    )
    assert delta == pytest.approx(1e-5, rel=1e-2)


def test_canaries_refute_forgotten_and_too_small_noise_but_not_the_true_one(
    config: AuditConfig,
) -> None:
    noise = config.noise.model_copy(update={"steps": 40})
    canaries = config.canaries.model_copy(update={"count": 1000, "guesses": 200})

    honest = audit_canaries("as claimed", noise, canaries, seed=1)
    weak = audit_canaries("noise too small", noise, canaries, seed=1)
    none = audit_canaries("noise forgotten", noise, canaries, seed=1)

    assert not honest.is_alarm
    assert weak.is_alarm
    assert none.is_alarm


def test_canaries_are_clipped_and_drawn_at_the_rate(config: AuditConfig) -> None:
    noise = config.noise.model_copy(update={"steps": 100, "sample_rate": 0.3, "clip_norm": 0.5})
    is_in = np.arange(400) < 200

    scores = released_sum(is_in, noise, factor=0.0)

    assert not scores[200:].any()
    # 100 draws at 0.3 of length 0.5; the mean of 200 of them deviates by 0.16.
    assert scores[:200].mean() == pytest.approx(15.0, abs=0.8)
