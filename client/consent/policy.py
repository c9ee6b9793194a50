"""What a hospital allows the federation: its rules, and the one place that applies them.

Pure: a request, the policy, what the site holds and the time come in; a refusal or nothing comes
out. The reasons are read at the coordinator: they name the rule, and of this site no more.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from client.consent.hours import Window, is_open, next_opening, zone_named
from client.consent.policy_privacy import (
    PrivacyPolicy,
    SecureAggregationPolicy,
    objections_to_noise,
    objections_to_spending,
    objections_to_sum,
    objections_to_weights,
)
from common.config.expectation import has_key, known_keys
from common.config.run import Count, Positive, RunConfig, Section
from common.messages.kinds import RefusalCode
from common.messages.manifest import Manifest
from common.registry import unknown_name
from common.tasks import TASKS

# Differences between manifests that are no keys of the configuration.
MANIFEST_KEYS = ("sites", "architecture_digest", "code_digest")

Decision = Literal["approved", "revoked", "waiting"]

_FOR_AN_UPDATE = ("train", "keys", "unmask")  # the latter two only serve a sum of updates


def _task(name: str) -> str:
    if name not in TASKS:
        raise ValueError(unknown_name("task", name, TASKS))
    return name


def _zone(name: str) -> str:
    try:
        zone_named(name)
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"unknown time zone {name!r}; expected UTC or a name such as Europe/Berlin"
        ) from error
    return name


def _run_key(key: str) -> str:
    """Return a dotted key of a manifest, as a standing approval may name it."""
    parts = key.split(".")
    if key in MANIFEST_KEYS or has_key(parts):
        return key
    depth = next(end for end in range(len(parts)) if not has_key(parts[: end + 1]))
    known = [*known_keys(parts[:depth]), *(MANIFEST_KEYS if depth == 0 else ())]
    raise ValueError(unknown_name("key of a run", parts[depth], dict.fromkeys(known)))


class ApprovalPolicy(Section):
    """Who says yes to a run."""

    mode: Literal["by-hand", "standing"]
    may_differ: tuple[Annotated[str, AfterValidator(_run_key)], ...]  # standing: dotted keys
    max_standing_runs: Annotated[int, Field(ge=1, le=100)]  # standing: so many on one approval
    standing_days: Count  # standing: the last approval by a person is at most so old


class BoundsPolicy(Section):
    """The most, and the least, of what a run may ask."""

    max_rounds: Count
    max_local_epochs: Count
    max_examples: Count | None  # pictures x epochs x rounds of one run here; None: no bound
    max_image_size_px: Count
    max_model_mb: Positive  # size of one request
    max_answer_mb: Positive  # size of one answer
    max_update_norm: Positive | None  # L2, of a whole update; None: no bound
    max_run_days: Count  # from a manifest's signing to its expiry
    min_sites: Count  # named in the manifest
    min_training_patients: Count
    min_validation_patients: Count


class ReleasePolicy(Section):
    """What may leave."""

    update: bool
    metrics: bool
    data_card: bool
    pictures: Literal[False]  # no message has a place for them
    saliency_maps: Literal[False]


class Policy(Section):
    """A site's rules, as policy.yaml holds them."""

    tasks: Annotated[tuple[Annotated[str, AfterValidator(_task)], ...], Field(min_length=1)]
    approval: ApprovalPolicy
    bounds: BoundsPolicy
    release: ReleasePolicy
    privacy: PrivacyPolicy
    secure_aggregation: SecureAggregationPolicy
    time_zone: Annotated[str, AfterValidator(_zone)]
    hours: Annotated[tuple[Window, ...], Field(min_length=1)] | None  # None: always
    consent_expires: date | None  # its last day; None: no end


@dataclass(frozen=True)
class Ask:
    """What the coordinator wants, with a manifest that was verified."""

    kind: Literal["query", "train", "evaluate", "keys", "unmask"]
    server_round: int  # 0 for a query, and for the keys of a whole run
    site: str  # name of this site in the manifest
    manifest: Manifest
    manifest_digest: str
    size_mb: float


@dataclass(frozen=True)
class Standing:
    """How things stand at the site."""

    decision: Decision  # on this manifest
    is_paused: bool
    rounds_trained: int  # of this run
    training_patients: int
    validation_patients: int
    training_pictures: int
    epsilon_after: float | None  # at the policy's unit and delta; None: no budget, or no noise
    pinned: Mapping[str, str]  # site → fingerprint of the key that a person here has compared


@dataclass(frozen=True)
class PolicyRefusal:
    """The first rule that says no."""

    code: RefusalCode
    reason: str


def permit(ask: Ask, policy: Policy, standing: Standing, *, now: datetime) -> PolicyRefusal | None:
    """Return why a site says no to a request, or None when it may be carried out.

    What the policy forbids comes first: nobody at the site is asked to approve such a run.
    """
    forbidden = next(_objections(ask, policy, standing, now), None)
    if forbidden is not None:
        return PolicyRefusal(RefusalCode.FORBIDDEN, forbidden)
    if standing.decision == "waiting":
        return PolicyRefusal(
            RefusalCode.NOT_APPROVED,
            f"a person at the site has yet to approve manifest {ask.manifest_digest[:12]}",
        )
    if ask.kind == "unmask":
        # A pause, or hours that end, let a round end that was begun: its update has left already.
        return None
    if standing.is_paused:
        return PolicyRefusal(RefusalCode.PAUSED, "a person at the site has paused it")
    local = now.astimezone(zone_named(policy.time_zone))
    if policy.hours is not None and not is_open(policy.hours, local):
        opening = next_opening(policy.hours, local)
        return PolicyRefusal(
            RefusalCode.PAUSED,
            "its policy keeps hours for the federation; they begin next at "
            f"{opening:%Y-%m-%d %H:%M} {policy.time_zone}",
        )
    return None


def may_stand_too(policy: Policy, runs_so_far: int) -> bool:
    """Say whether one more run may go without an approval of its own.

    Args:
        policy: Has the rule.
        runs_so_far: How many went so since a person approved one.
    """
    return runs_so_far < policy.approval.max_standing_runs


def _objections(ask: Ask, policy: Policy, standing: Standing, now: datetime) -> Iterator[str]:
    """Yield every reason why the policy forbids a request, the weightiest first."""
    today = now.astimezone(zone_named(policy.time_zone)).date()
    if policy.consent_expires is not None and today > policy.consent_expires:
        yield f"its consent to take part ended on {policy.consent_expires}"
    if standing.decision == "revoked":
        yield "a person at the site has revoked the run"
    yield from _objections_to_run(ask.manifest, policy, now)
    yield from objections_to_noise(ask.manifest.config.privacy, policy.privacy)
    yield from objections_to_weights(ask.manifest.config)
    yield from objections_to_sum(
        ask.manifest, site=ask.site, pinned=standing.pinned, rules=policy.secure_aggregation
    )
    yield from _objections_to_request(ask, policy, standing)
    yield from _objections_to_release(ask, policy, standing)
    if ask.kind == "train":
        yield from objections_to_spending(standing.epsilon_after, policy.privacy)


def _objections_to_run(manifest: Manifest, policy: Policy, now: datetime) -> Iterator[str]:
    config, bounds = manifest.config, policy.bounds
    tasks = {site.task for site in manifest.sites} | set(config.tasks)
    if others := sorted(tasks - set(policy.tasks)):
        yield f"its policy takes part for {', '.join(policy.tasks)} only, not for {others[0]}"
    for value, most, what in _sizes(config, bounds):
        if value > most:
            yield f"its policy allows at most {most} {what}, the run has {value:g}"
    # From today where it was dated ahead, so that a date in the future lengthens nothing.
    days = (manifest.expires_at - min(manifest.issued_at, now)) / timedelta(days=1)
    if days > bounds.max_run_days:
        yield f"its policy allows a run at most {bounds.max_run_days} days until it expires"
    sites = len({site.name for site in manifest.sites})
    if sites < bounds.min_sites:
        yield f"its policy asks for at least {bounds.min_sites} sites in a run, this has {sites}"


def _sizes(config: RunConfig, bounds: BoundsPolicy) -> Iterator[tuple[float, int, str]]:
    yield config.federation.rounds, bounds.max_rounds, "rounds"
    yield _epochs(config), bounds.max_local_epochs, "local epochs a round"
    yield config.data.image_size_px, bounds.max_image_size_px, "pixels as a picture's side"


def _epochs(config: RunConfig) -> float:
    """Return how often a round goes over the training part; under noise, on average."""
    privacy = config.privacy
    return privacy.steps_per_round * privacy.sample_rate if privacy.enabled else config.train.epochs


def _objections_to_request(ask: Ask, policy: Policy, standing: Standing) -> Iterator[str]:
    config, bounds = ask.manifest.config, policy.bounds
    rounds = config.federation.rounds
    if ask.server_round > rounds:
        yield f"the manifest is for {rounds} rounds, this is round {ask.server_round}"
    if ask.kind == "train" and standing.rounds_trained >= rounds:
        yield f"the manifest is for {rounds} rounds, and the site has trained as many"
    examples = standing.training_pictures * _epochs(config) * rounds
    if bounds.max_examples is not None and examples > bounds.max_examples:
        yield (
            f"its policy allows at most {bounds.max_examples} examples in a run "
            "(pictures x local epochs x rounds): fewer rounds or epochs would do"
        )
    if ask.size_mb > bounds.max_model_mb:
        yield (
            f"its policy allows a request at most {bounds.max_model_mb:g} MB, "
            f"this has {ask.size_mb:.1f}"
        )


def _objections_to_release(ask: Ask, policy: Policy, standing: Standing) -> Iterator[str]:
    bounds, release = policy.bounds, policy.release
    if ask.kind in _FOR_AN_UPDATE and not release.update:
        yield "its policy lets no update leave"
    if ask.kind == "evaluate" and not release.metrics:
        yield "its policy lets no metrics leave"
    # A card tells counts of the cohort that training would use.
    if ask.kind != "evaluate" and standing.training_patients < bounds.min_training_patients:
        yield (
            f"its policy asks for at least {bounds.min_training_patients} patients to train on, "
            "and it has fewer"
        )
    if ask.kind == "evaluate" and standing.validation_patients < bounds.min_validation_patients:
        yield (
            f"its policy asks for at least {bounds.min_validation_patients} patients to measure "
            "on, and it has fewer"
        )
