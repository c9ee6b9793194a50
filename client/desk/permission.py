"""May this be done here and now? Gathers how things stand at the site, and asks its policy."""

from collections.abc import Callable, Mapping
from datetime import datetime

from client.consent.approvals import Approvals
from client.consent.policy import Ask, Policy, Standing, permit
from client.consent.policy_privacy import objections_to_noise
from client.desk.case import Case
from client.desk.voice import Voice
from client.home.folders import SiteHome
from client.home.own_shard import ShardCounts
from client.records.ledger import ledger_of
from client.records.spending import round_spending
from client.trust.peers import read_pins
from client.trust.signed_request import Denial
from common.messages.kinds import RefusalCode
from common.messages.manifest import Manifest

_MEGABYTE = 2**20


class Permission:
    """Knows what a person at the site has decided."""

    def __init__(self, home: SiteHome, *, voice: Voice, now: Callable[[], datetime]) -> None:
        """Take the site's home; everything is read anew for each request."""
        self._home, self._voice, self._now = home, voice, now
        self._approvals = Approvals(home.approvals)
        self._ledger = ledger_of(home)

    def waiting(self) -> tuple[str, ...]:
        """Return the digests of the manifests that wait for a person."""
        return tuple(kept.digest for kept in self._approvals.waiting())

    def standing(
        self,
        case: Case,
        manifest: Manifest,
        policy: Policy,
        counts: ShardCounts,
        *,
        rounds_trained: int,
        spends: bool = True,
    ) -> Standing:
        """Return how things stand, after approving the run where the standing rule says so.

        Args:
            case: What is asked.
            manifest: Of its run, verified.
            policy: The site's.
            counts: Of what it holds.
            rounds_trained: Of this run.
            spends: False where the ask is for an update that was spent for and stored already.

        Raises LedgerError where the ledger is damaged, ConfigError where the pinned peers are.
        """
        self._ledger.verify()  # before hours of training that could not be written down
        signed = case.signed.manifest
        former = self._approvals.standing_of(signed.digest)
        decision = self._approvals.decide(signed, manifest, policy, now=self._now())
        if decision != former:
            self._voice.note("run-approved", case, by="standing rule")
        return Standing(
            decision=decision,
            is_paused=self._home.pause_marker.exists(),
            rounds_trained=rounds_trained,
            training_patients=counts.training_patients,
            validation_patients=counts.validation_patients,
            training_pictures=counts.training_pictures,
            epsilon_after=self._epsilon_after(case, manifest, policy) if spends else None,
            pinned=self._pinned(manifest),
        )

    def objection(
        self, case: Case, manifest: Manifest, policy: Policy, standing: Standing
    ) -> Denial | None:
        """Return why it may not be done; a run that waits for a person is kept for them to see."""
        now = self._now()
        ask = Ask(
            kind=case.kind,
            server_round=case.server_round,
            site=case.signed.site,
            manifest=manifest,
            manifest_digest=case.signed.manifest.digest,
            size_mb=case.size_bytes / _MEGABYTE,
        )
        refusal = permit(ask, policy, standing, now=now)
        if refusal is None:
            return None
        if refusal.code is RefusalCode.NOT_APPROVED:
            self._approvals.keep_waiting(case.signed.manifest, now)
        return Denial(refusal.code, refusal.reason)

    def _epsilon_after(self, case: Case, manifest: Manifest, policy: Policy) -> float | None:
        """Return epsilon with the round that is asked for; None where no budget is touched."""
        spending, rules = round_spending(manifest.config), policy.privacy
        if case.kind != "train" or spending is None or rules.epsilon is None:
            return None
        if any(objections_to_noise(manifest.config.privacy, rules)):
            return None  # refused for that; and a wish without bounds could take long to add up
        return self._ledger.epsilon(unit=rules.unit, delta=rules.delta, also=[spending])

    def _pinned(self, manifest: Manifest) -> Mapping[str, str]:
        if not manifest.config.secure_aggregation.enabled:
            return {}
        return read_pins(self._home.peers)
