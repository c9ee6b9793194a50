"""Canaries in the private step: does it hide what the ledger says it hides?

Every canary is a unit whose gradient points along a coordinate of its own, as long as the clip
norm: the most that one patient can add, where nothing else covers it. The step is the one that
training uses (common/private): its draw, its clipping, its noise. The attacker sees every step's
release, which is more than any coordinator sees.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from common.private.gradients import add_clipped
from common.private.sampling import draw_units
from common.private.secure_random import SecureRandom
from common.private.step import release_mean
from common.studies.audit_bound import claimed_epsilon, lower_bound
from common.studies.audit_config import CanaryConfig, NoiseConfig

Mechanism = Literal["as claimed", "noise too small", "noise forgotten"]


@dataclass(frozen=True)
class CanaryResult:
    """One mechanism's canaries, and what they prove."""

    mechanism: Mechanism
    canaries: int
    guesses: int
    right: int
    epsilon_at_least: float  # proved by the guesses
    epsilon_claimed: float  # what the ledger would hold
    delta: float
    significance: float

    @property
    def is_alarm(self) -> bool:
        """Say whether the guesses refute the claim."""
        return self.epsilon_at_least > self.epsilon_claimed


def audit_canaries(
    mechanism: Mechanism, noise: NoiseConfig, config: CanaryConfig, *, seed: int
) -> CanaryResult:
    """Release canaries as often as training takes steps, guess, and bound ε from below."""
    is_in = np.random.default_rng(seed).random(config.count) < 0.5
    scores = released_sum(is_in, noise, factor=_noise_factor(mechanism, config))
    order = np.argsort(-scores, kind="stable")
    # Tied scores would be guessed in the order of the canaries, which says nothing: fair coins.
    right = int(is_in[order[: config.guesses]].sum())
    right += int((~is_in[order[-config.guesses :]]).sum())
    bound = lower_bound(
        canaries=config.count,
        guesses=2 * config.guesses,
        right=right,
        delta=noise.delta,
        significance=config.significance,
    )
    return CanaryResult(
        mechanism=mechanism,
        canaries=config.count,
        guesses=2 * config.guesses,
        right=right,
        epsilon_at_least=bound,
        epsilon_claimed=claimed_epsilon(noise),
        delta=noise.delta,
        significance=config.significance,
    )


def released_sum(
    is_in: NDArray[np.bool_], noise: NoiseConfig, *, factor: float
) -> NDArray[np.float64]:
    """Return the sum of all steps' releases along each canary's coordinate, (M,).

    ``factor`` is what the noise is multiplied with behind the ledger's back; 1 is honest.
    """
    privacy = noise.privacy(expected_units=1)
    told = privacy.model_copy(update={"noise_multiplier": noise.noise_multiplier * factor})
    random = SecureRandom()
    units = tuple(np.flatnonzero(is_in).astype(np.int64)[:, None])
    scores = np.zeros(len(is_in))
    for _ in range(noise.steps):
        drawn = [int(unit[0]) for unit in draw_units(units, privacy=privacy, random=random)]
        gradients = torch.zeros(len(drawn), len(is_in))
        # Twice the clip norm: clipping must do its part too.
        gradients[torch.arange(len(drawn)), torch.tensor(drawn, dtype=torch.long)] = (
            2 * noise.clip_norm
        )
        total = {"canaries": torch.zeros(len(is_in))}
        add_clipped(total, {"canaries": gradients}, clip_norm=noise.clip_norm)
        release_mean(total, privacy=told, random=random)
        scores += total["canaries"].double().numpy()
    return scores


def _noise_factor(mechanism: Mechanism, config: CanaryConfig) -> float:
    if mechanism == "as claimed":
        return 1.0
    return 1 / config.broken_by if mechanism == "noise too small" else 0.0
