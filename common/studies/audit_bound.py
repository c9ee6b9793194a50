"""What canaries prove about epsilon, and what the accountant claims for the same training."""

import math

import numpy as np
from scipy.stats import binom

from common.errors import ConfigError
from common.studies.audit_config import NoiseConfig

_TOLERANCE = 1e-6  # of the bound


def chance_of_guesses(
    *, canaries: int, guesses: int, right: int, epsilon: float, delta: float
) -> float:
    """Return how likely so many right guesses are, at most, if training is (ε, δ)-private.

    Steinke, Nasr & Jagielski 2023, https://arxiv.org/abs/2305.08846, section 5: of m canaries,
    each in or out by a fair coin, r are guessed and v of the guesses right. Without δ the number of
    right guesses is no larger than a binomial one of r trials at e^ε / (1 + e^ε); δ adds at most
    2 m δ · max over i in 1..v of P[v > Binomial >= v - i] / i.
    """
    _check(canaries, guesses, right)
    probability = 1 / (1 + math.exp(-epsilon))
    tail = float(binom.sf(right - 1, guesses, probability))
    if right == 0 or delta == 0:
        return min(1.0, tail)
    back = np.arange(1, right + 1)
    just_below = np.cumsum(binom.pmf(right - back, guesses, probability))
    slope = float((just_below / back).max())
    return min(1.0, tail + 2 * canaries * delta * slope)


def lower_bound(
    *, canaries: int, guesses: int, right: int, delta: float, significance: float
) -> float:
    """Return the ε below which training was not, but for a chance of ``significance``.

    0 where the guesses prove nothing. By bisection, to 1e-6; the answer is on the safe side.
    """

    def is_refuted(epsilon: float) -> bool:
        chance = chance_of_guesses(
            canaries=canaries, guesses=guesses, right=right, epsilon=epsilon, delta=delta
        )
        return chance < significance

    if not is_refuted(0.0):
        return 0.0
    refuted, open_ = 0.0, 1.0
    while is_refuted(open_):
        refuted, open_ = open_, 2 * open_
    while open_ - refuted > _TOLERANCE:
        middle = (refuted + open_) / 2
        if is_refuted(middle):
            refuted = middle
        else:
            open_ = middle
    return refuted


def claimed_epsilon(noise: NoiseConfig) -> float:
    """Return the ε of dp_accounting's privacy loss distributions for such a training.

    Adding or removing one unit, Poisson sampling. Dong et al. and Koskela et al.; see
    https://github.com/google/differential-privacy/tree/main/python/dp_accounting.
    """
    import dp_accounting  # noqa: PLC0415 - takes two seconds
    from dp_accounting import pld  # noqa: PLC0415

    accountant = pld.PLDAccountant(dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
    step = dp_accounting.PoissonSampledDpEvent(
        noise.sample_rate, dp_accounting.GaussianDpEvent(noise.noise_multiplier)
    )
    accountant.compose(step, noise.steps)
    return float(accountant.get_epsilon(noise.delta))


def _check(canaries: int, guesses: int, right: int) -> None:
    if not 0 <= right <= guesses <= canaries:
        raise ConfigError(
            f"expected right guesses <= guesses <= canaries, got {right}, {guesses}, {canaries}."
        )
