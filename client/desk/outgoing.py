"""The last steps of an update at its site: round, account for it, look at it, mask it.

In this order, so that nothing leaves that the ledger does not know of: a crash between the ledger
and the door has spent without telling anything, and the round that is trained again spends again.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime

from client.consent.policy import Policy
from client.consent.policy_file import read_policy
from client.desk.case import Case
from client.desk.view import View
from client.desk.voice import Voice
from client.desk.without_noise import (
    EPSILON,
    EPSILON_OF_RUN,
    TELLS_NOTHING,
    coarse,
    epsilons_of,
    note_without_noise,
    with_epsilon,
)
from client.guard.what_leaves import (
    Limits,
    reason_against_size,
    reason_against_update,
    reason_to_keep,
)
from client.home.folders import SiteHome
from client.home.own_shard import ShardCounts
from client.records.ledger import ledger_of
from client.records.spending import round_spending
from client.secure.checks import Terms
from client.secure.member import SecureMember
from client.training.state import count_layers
from client.trust.peers import pinned_keys, read_pins
from client.trust.signed_request import Denial
from common.config.run import RunConfig
from common.messages.digests import text_digest
from common.messages.kinds import (
    NOT_SECURE,
    MaskedUpdate,
    Refusal,
    RefusalCode,
    Release,
    Request,
    TrainRequest,
    Update,
)
from common.messages.manifest import Manifest
from common.messages.precision import rounded
from common.messages.signing import PublicKey, canonical
from common.secure_sum.groups import groups_among, groups_of
from common.secure_sum.layout import layouts
from common.secure_sum.measures import LOSS_PARTS, metric_names
from common.secure_sum.statements import RoundOpening, parsed

Now = Callable[[], datetime]


class Outgoing:
    """Speaks to the ledger, the guard and the secure sums of one site."""

    def __init__(
        self, home: SiteHome, *, site: str, member: SecureMember, voice: Voice, now: Now
    ) -> None:
        """Take the site's home and name, its part in secure sums, and its audit log's voice."""
        self._home, self._site, self._member = home, site, member
        self._voice, self._now = voice, now
        self._ledger = ledger_of(home)

    def objection(self, case: Case, request: TrainRequest, manifest: Manifest) -> Denial | None:
        """Return why this site does not add to the sum that a request names."""
        asked = _as_it_came(case, request)
        no = self._member.objection(asked, terms=self.terms(manifest))
        return None if no is None else Denial(no.code, no.reason)

    def prepared(
        self, case: Case, request: TrainRequest, update: Update, *, manifest: Manifest, view: View
    ) -> Update | MaskedUpdate | Denial:
        """Return what may be signed and leave, accounted for when this returns.

        Args:
            case: The request as it came.
            request: What is answered: of its evaluation, what the site has permitted.
            update: What the policy lets leave of the training's result.
            manifest: Of the run.
            view: How the site stands to it after the training.
        """
        limits = self._limits(request, manifest, view)
        update = coarse(at_precision(update, manifest.config), manifest.config)
        update = self._accounted(case, update, manifest)
        if reason := reason_against_update(request, update, limits):
            return Denial(RefusalCode.UNABLE, reason)
        if request.secure_json == NOT_SECURE:
            return update
        masked = self._member.masked(_as_it_came(case, request), update, terms=self.terms(manifest))
        if isinstance(masked, Refusal):
            return Denial(masked.code, masked.reason)
        masked = with_epsilon(masked, update)
        reason = reason_to_keep(request, masked, limits)
        return masked if reason is None else Denial(RefusalCode.UNABLE, reason)

    def kept(
        self, request: Request, answer: Release, *, manifest: Manifest, view: View
    ) -> Denial | None:
        """Return why an answer must not leave."""
        reason = reason_to_keep(request, answer, self._limits(request, manifest, view))
        return None if reason is None else Denial(RefusalCode.UNABLE, reason)

    def note_release(
        self, what: str, case: Case, manifest: Manifest, *, content_digest: str | None = None
    ) -> None:
        """Write down that something leaves without noise, once for what leaves again; durable."""
        self._ledger.note_release(
            what,
            run=manifest.run,
            server_round=case.server_round,
            request_digest=case.digest,
            content_digest=content_digest,
            now=self._now(),
        )

    def terms(self, manifest: Manifest) -> Terms:
        """Return on what terms this site takes part in a run's sums, as its policy is now.

        Raises TrustError where another site is not pinned, or as another.
        """
        rules = read_policy(self._home.policy_file).secure_aggregation
        return Terms(
            peers=self.peers(manifest),
            least=max(manifest.config.secure_aggregation.min_group, rules.min_pinned_peers + 1),
            run_digest=text_digest(canonical(manifest.model_dump(mode="json"))),
        )

    def peers(self, manifest: Manifest) -> Mapping[str, PublicKey]:
        """Return the pinned keys of the other sites, where the run is summed with theirs.

        Raises TrustError where one is not pinned, or as another.
        """
        if not manifest.config.secure_aggregation.enabled:
            return {}
        return pinned_keys(read_pins(self._home.peers), manifest, site=self._site)

    def _accounted(self, case: Case, update: Update, manifest: Manifest) -> Update:
        """Write down what an update tells, and return it with what the run has cost so far."""
        config = manifest.config
        spending = round_spending(config)
        note_without_noise(
            self._ledger,
            update,
            config=config,
            run=manifest.run,
            server_round=case.server_round,
            request_digest=case.digest,
            now=self._now(),
        )
        if spending is None:
            return update
        self._ledger.spend(
            spending,
            run=manifest.run,
            server_round=case.server_round,
            request_digest=case.digest,
            now=self._now(),
        )
        count_layers(
            self._home.layers, site=self._site, run=manifest.run, server_round=case.server_round
        )
        epsilons = epsilons_of(self._ledger, config.privacy, run=manifest.run)
        spent = [entry.seq for entry in self._ledger.entries() if entry.spending is not None]
        self._voice.note(
            "budget-spent",
            case,
            ledger_seq=spent[-1],
            delta=config.privacy.delta,
            epsilon=epsilons.get(EPSILON),
            epsilon_run=epsilons.get(EPSILON_OF_RUN),
            **spending.model_dump(mode="json"),
        )
        # Where the policy lets no metrics leave, neither do these.
        return replace(update, metrics={**update.metrics, **epsilons}) if update.metrics else update

    def _limits(self, request: Request, manifest: Manifest, view: View) -> Limits:
        counts, policy = view.shard.counts, view.policy
        return limits_of(manifest, request, site=self._site, counts=counts, policy=policy)


def _as_it_came(case: Case, request: TrainRequest) -> TrainRequest:
    """Return the request of a case, with the evaluation that this site may not permit."""
    came = case.signed.request
    return came if isinstance(came, TrainRequest) else request


def at_precision(update: Update, config: RunConfig) -> Update:
    """Return an update rounded to as many bits as the run's updates have."""
    precision = config.federation.update_precision
    return replace(update, arrays=rounded(update.arrays, precision), precision=precision)


def too_large(content: bytes, view: View) -> Denial | None:
    """Return why a signed answer must not leave: there is more of it than the policy allows."""
    reason = reason_against_size(content, max_mb=view.policy.bounds.max_answer_mb)
    return None if reason is None else Denial(RefusalCode.FORBIDDEN, reason)


def limits_of(
    manifest: Manifest, request: Request, *, site: str, counts: ShardCounts, policy: Policy
) -> Limits:
    """Return what a site's answer to a request may hold.

    Args:
        manifest: Of the run.
        request: What is asked.
        site: This site, which the manifest names.
        counts: Of its shard.
        policy: Of its hospital.
    """
    config, bounds = manifest.config, policy.bounds
    tasks = {each.name: each.task for each in manifest.sites}
    is_secure = config.secure_aggregation.enabled
    return Limits(
        site=site,
        task=tasks[site],
        sites=frozenset(tasks),
        local_layers=config.federation.local_layers,
        precision=config.federation.update_precision,
        max_norm=bounds.max_update_norm,
        scaled_to=config.secure_aggregation.clip_norm if is_secure else None,
        counts=counts,
        min_training_patients=bounds.min_training_patients,
        min_validation_patients=bounds.min_validation_patients,
        metric_names=frozenset({*LOSS_PARTS, *TELLS_NOTHING}),
        evaluation_names=frozenset(metric_names(config, tasks[site])),
        groups=frozenset(groups_of(config) if is_secure else ()),
        sum_sizes=_sum_sizes(config, request, tasks[site]),
    )


def _sum_sizes(config: RunConfig, request: Request, task: str) -> dict[str, int]:
    """Return how many numbers each masked sum has that a request asks a site of a task for."""
    if not isinstance(request, TrainRequest) or request.secure_json == NOT_SECURE:
        return {}
    shapes = {name: array.shape for name, array in request.arrays.items()}
    round_sites = [key.site for key in parsed(request.secure_json, RoundOpening).keys]
    summed = groups_among(config, round_sites)
    return {
        group: layout.size
        for group, layout in layouts(config, shapes, task=task).items()
        if group in summed
    }
