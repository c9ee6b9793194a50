"""What the desk does with a request that it believes: permit, work, look again, guard, store.

What people at the site decide counts until the answer leaves: policy, approval and the shard are
looked at anew after the training, which may have taken hours.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from client.answers import Answers, Late, New, Repeat, RunRecord, place_of
from client.case import Case, evaluates
from client.guard import reason_to_keep
from client.home import SiteHome
from client.own_shard import DoorTrainer, OpenShard, OwnShard
from client.permission import Permission
from client.policy import Policy, Standing
from client.policy_file import read_policy
from client.readiness import lack_of_disk
from client.release import Release, as_released, is_released_whole, may_release_evaluation
from client.site import SiteSettings
from client.trust import Denial
from client.voice import Reply, Voice
from common.manifest import Manifest
from common.wire import (
    EvaluateRequest,
    Evaluation,
    Refusal,
    RefusalCode,
    Request,
    TrainRequest,
    Update,
)

Work = TrainRequest | EvaluateRequest


@dataclass(frozen=True)
class _View:
    """How the site stands to a request at one moment."""

    policy: Policy
    standing: Standing
    shard: OpenShard
    objection: Denial | None


class Workbench:
    """Carries out what is believed, where it is permitted."""

    def __init__(
        self,
        home: SiteHome,
        site: SiteSettings,
        *,
        trainer: DoorTrainer,
        shard: OwnShard,
        answers: Answers,
        permission: Permission,
        voice: Voice,
        believe: Callable[[Case], Manifest | Denial],
        now: Callable[[], datetime],
    ) -> None:
        """Take what it works with; ``believe`` verifies a request anew."""
        self._home, self._site, self._trainer, self._shard = home, site, trainer, shard
        self._answers, self._permission, self._voice = answers, permission, voice
        self._believe, self._now = believe, now

    def describe(self, case: Case, manifest: Manifest) -> Reply:
        """Say what the site holds, as far as its policy lets that leave."""
        view = self._view(case, manifest, rounds_trained=0)
        if view.objection is not None:
            return self._voice.refuse(case, view.objection)
        card = as_released(view.shard.card, view.policy, view.standing)
        if no := self._kept(case.signed.request, card, manifest):
            return self._voice.refuse(case, no)
        return self._voice.release(case, card, self._voice.sign(case, card))

    def carry_out(self, case: Case, request: Work, manifest: Manifest) -> Reply:
        """Train or measure when it is the request's turn; a repeat gets the stored answer.

        One at a time: the caller sees to that.
        """
        record = self._answers.record_of(manifest.run)
        place = place_of(case.asked(evaluates=evaluates(request)), record)
        if isinstance(place, Late):
            return self._voice.refuse(case, Denial(RefusalCode.OUT_OF_ORDER, place.reason))
        before = _rounds_before(case, place, record)
        view = self._view(case, manifest, rounds_trained=before)
        if view.objection is not None:
            return self._voice.refuse(case, view.objection)
        if isinstance(place, Repeat):
            return self._repeat(case, request, manifest, view)
        return self._work(case, request, manifest, view, place)

    def _repeat(self, case: Case, request: Work, manifest: Manifest, view: _View) -> Reply:
        asked = case.asked(evaluates=evaluates(request))
        content = self._answers.stored(asked, run=manifest.run)
        answer = self._voice.opened(case, content)
        if isinstance(answer, Refusal) or not is_released_whole(answer, view.policy, view.standing):
            # It was signed as it is, and cannot be sent with less in it.
            reason = "its policy no longer lets all of this answer leave"
            return self._voice.refuse(case, Denial(RefusalCode.FORBIDDEN, reason))
        return self._voice.repeat(case, answer, content)

    def _work(
        self, case: Case, request: Work, manifest: Manifest, view: _View, place: New
    ) -> Reply:
        if no := self._unable(request, manifest):
            return self._voice.refuse(case, no)
        self._voice.note("request-permitted", case)
        if isinstance(request, TrainRequest):
            may_evaluate = place.may_evaluate and may_release_evaluation(view.policy, view.standing)
            request = replace(request, evaluates=request.evaluates and may_evaluate)
        answer = self._worked(request)
        if isinstance(answer, Refusal):
            return self._voice.refuse(case, Denial(answer.code, answer.reason))
        after = self._view(case, manifest, rounds_trained=view.standing.rounds_trained)
        if no := self._withdrawn(case, view, after):
            return self._voice.refuse(case, no)
        released = as_released(answer, after.policy, after.standing)
        return self._release(case, request, manifest, released)

    def _worked(self, request: Work) -> Update | Evaluation | Refusal:
        if isinstance(request, TrainRequest):
            return self._trainer.train(request)
        return self._trainer.evaluate(request)

    def _release(self, case: Case, request: Work, manifest: Manifest, answer: Release) -> Reply:
        if no := self._kept(request, answer, manifest):
            return self._voice.refuse(case, no)
        content = self._voice.sign(case, answer)
        self._answers.store(
            case.asked(evaluates=evaluates(request)),
            content,
            run=manifest.run,
            expires_at=manifest.expires_at,
            now=self._now(),
        )
        return self._voice.release(case, answer, content)

    # --- what the steps need ---------------------------------------------------------------

    def _view(self, case: Case, manifest: Manifest, *, rounds_trained: int) -> _View:
        """Look anew at what the site's people have decided, and at what it holds."""
        policy, shard = read_policy(self._home.policy_file), self._shard.current()
        standing = self._permission.standing(
            case, manifest, policy, shard.counts, rounds_trained=rounds_trained
        )
        no = self._permission.objection(case, manifest, policy, standing)
        return _View(policy, standing, shard, no)

    def _unable(self, request: Work, manifest: Manifest) -> Denial | None:
        """Return why what is permitted cannot be done."""
        least_mb = self._site.limits.min_free_disk_mb
        if lack := lack_of_disk(self._home.trainer, min_free_disk_mb=least_mb):
            return Denial(RefusalCode.UNAVAILABLE, lack)
        built = self._trainer.architecture_digest(request.config_json)
        if built == manifest.architecture_digest:
            return None
        return Denial(
            RefusalCode.UNTRUSTED,
            f"the manifest is for another network ({manifest.architecture_digest[:12]}) than its "
            f"configuration gives here ({built[:12]}): both ends must run the same Fovea version.",
        )

    def _withdrawn(self, case: Case, before: _View, after: _View) -> Denial | None:
        """Return why an answer must not leave although the request was permitted.

        A pause, or hours that end, let a round that was begun end.
        """
        manifest = self._believe(case)
        if isinstance(manifest, Denial):
            return manifest
        if after.objection is not None and after.objection.code is not RefusalCode.PAUSED:
            return after.objection
        if after.shard is not before.shard:
            reason = "its pictures were prepared anew while it worked: they must be asked again"
            return Denial(RefusalCode.UNAVAILABLE, reason)
        return None

    def _kept(self, request: Request, answer: Release, manifest: Manifest) -> Denial | None:
        reason = reason_to_keep(
            request,
            answer,
            site=self._site.name,
            task=self._site.task,
            local_layers=manifest.config.federation.local_layers,
        )
        return None if reason is None else Denial(RefusalCode.UNABLE, reason)


def _rounds_before(case: Case, place: New | Repeat, record: RunRecord | None) -> int:
    """Return how many rounds were trained without the one that is asked for."""
    trained = record.rounds_trained if record is not None else 0
    return trained - 1 if isinstance(place, Repeat) and case.kind == "train" else trained
