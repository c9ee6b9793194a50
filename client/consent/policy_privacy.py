"""What a hospital's policy says of noise, of its privacy budget and of sums with others.

Pure, like policy.py, which asks it. What a run wishes is bounded here: the coordinator chooses
noise and clipping, the hospital what it takes part in.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import Field

from client.records.accountant import shown
from common.config.privacy import Positive, PrivacyConfig, Rate, Unit
from common.config.run import RunConfig, Section
from common.errors import TrustError
from common.messages.manifest import Manifest
from common.messages.signing import public_key


class PrivacyPolicy(Section):
    """How much an update may tell of a single patient."""

    required: bool  # true: no update leaves without noise
    unit: Unit  # the least that noise must protect: what protects patients protects pictures
    epsilon: Positive | None  # of all runs together, at delta; None: no bound
    delta: Annotated[float, Field(gt=0, lt=1)]
    min_noise_multiplier: Positive  # standard deviation, in clip norms
    max_clip_norm: Positive
    max_sample_rate: Rate


class SecureAggregationPolicy(Section):
    """Who may see this site's update by itself."""

    required: bool  # true: no update leaves but under masks
    min_pinned_peers: Annotated[int, Field(ge=2)]  # other sites in the sum, each pinned


_WEIGHS_BY_PICTURES = "weighted-mean"  # as server/aggregate/ names it, which sites do not have


def objections_to_weights(config: RunConfig) -> Iterator[str]:
    """Yield why a private update must not be merged as the run merges it.

    Under noise a count of pictures must not decide anything: it changes with a single patient. The
    coordinator asks this before a launch too, but no site depends on that.
    """
    if config.privacy.enabled and config.federation.aggregation == _WEIGHS_BY_PICTURES:
        yield (
            "the run weighs private updates by exact numbers of pictures, which no noise covers: "
            "set federation.aggregation to uniform-mean"
        )


def objections_to_noise(wish: PrivacyConfig, rules: PrivacyPolicy) -> Iterator[str]:
    """Yield why a run's noise does not do."""
    if not wish.enabled:
        if rules.required:
            yield "its policy lets no update leave without noise (privacy.enabled)"
        return
    if rules.unit == "patient" and wish.unit == "image":
        yield "its policy asks for noise that protects patients, the run's protects single pictures"
    if wish.noise_multiplier < rules.min_noise_multiplier:
        yield (
            f"its policy asks for a noise multiplier of at least {rules.min_noise_multiplier:g}, "
            f"the run has {wish.noise_multiplier:g}"
        )
    if wish.clip_norm > rules.max_clip_norm:
        yield (
            f"its policy allows a clip norm of at most {rules.max_clip_norm:g}, "
            f"the run has {wish.clip_norm:g}"
        )
    if wish.sample_rate > rules.max_sample_rate:
        yield (
            f"its policy allows a sample rate of at most {rules.max_sample_rate:g}, "
            f"the run has {wish.sample_rate:g}"
        )


def objections_to_spending(epsilon_after: float | None, rules: PrivacyPolicy) -> Iterator[str]:
    """Yield why a round would cost too much.

    Args:
        epsilon_after: Of all that was spent here and the round; None: it spends nothing.
        rules: Have the budget.
    """
    if rules.epsilon is not None and epsilon_after is not None and epsilon_after > rules.epsilon:
        yield (
            f"its privacy budget would be exceeded: epsilon {shown(epsilon_after)} "
            f"after this round, its policy allows {rules.epsilon:g} at delta "
            f"{rules.delta:g} over all runs"
        )


def objections_to_sum(
    manifest: Manifest, *, site: str, pinned: Mapping[str, str], rules: SecureAggregationPolicy
) -> Iterator[str]:
    """Yield why this site does not add its update to a run's sums.

    A coordinator could name sites of its own making, and take them off the sum again: every other
    site must be one that a person here has pinned.

    Args:
        manifest: Of the run.
        site: Name of this site.
        pinned: Site → fingerprint of its key, as a person at this site has compared it.
        rules: The policy's.
    """
    if not manifest.config.secure_aggregation.enabled:
        if rules.required:
            yield (
                "its policy lets no update leave but under masks, in a sum with other sites "
                "(secure_aggregation.enabled)"
            )
        return
    others = [other for other in manifest.sites if other.name != site]
    if len({other.name for other in manifest.sites}) < len(manifest.sites):
        yield "the manifest names a site twice, and it is not clear with whom the sum would be"
    for other in others:
        if other.name not in pinned:
            yield f"the sum would be with site {other.name}, which nobody at this site has pinned"
        elif _fingerprint(other.signing_key) != pinned[other.name]:
            yield (
                f"the manifest names another key for site {other.name} than the one that is "
                "pinned here"
            )
    if len(others) < rules.min_pinned_peers:
        yield (
            f"its policy adds its update to those of at least {rules.min_pinned_peers} other "
            f"sites, the run has {len(others)}"
        )
    least = manifest.config.secure_aggregation.min_group
    if least < rules.min_pinned_peers + 1:
        # Of the sites in the manifest some may be missing: what counts is who is in a sum.
        yield (
            f"its policy adds its update to those of at least {rules.min_pinned_peers} other "
            f"sites, the run opens sums over {least} (secure_aggregation.min_group)"
        )


def _fingerprint(signing_key: str) -> str | None:
    """Return a key's fingerprint, None for what is no key: that is equal to none."""
    try:
        return public_key(signing_key).fingerprint
    except TrustError:
        return None
