"""May this be done here and now? Gathers how things stand at the site, and asks its policy."""

from collections.abc import Callable
from datetime import datetime

from client.approvals import Approvals
from client.case import Case
from client.home import SiteHome
from client.own_shard import ShardCounts
from client.policy import Ask, Policy, Standing, permit
from client.trust import Denial
from client.voice import Voice
from common.manifest import Manifest
from common.wire import RefusalCode

_MEGABYTE = 2**20


class Permission:
    """Knows what a person at the site has decided."""

    def __init__(self, home: SiteHome, *, voice: Voice, now: Callable[[], datetime]) -> None:
        """Take the site's home; everything is read anew for each request."""
        self._home, self._voice, self._now = home, voice, now
        self._approvals = Approvals(home.approvals)

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
    ) -> Standing:
        """Return how things stand, after approving the run where the standing rule says so."""
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
        )

    def objection(
        self, case: Case, manifest: Manifest, policy: Policy, standing: Standing
    ) -> Denial | None:
        """Return why it may not be done; a run that waits for a person is kept for them to see."""
        now = self._now()
        ask = Ask(
            kind=case.kind,
            server_round=case.server_round,
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
