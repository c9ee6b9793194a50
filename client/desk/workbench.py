"""What the desk does with a request that it believes: permit, work, look again, account, store.

What people at the site decide counts until the answer leaves: policy, approval and the shard are
looked at anew after the training, which may have taken hours.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from client.desk.answers import Answers, Late, New, Part, Repeat, RunRecord, place_of
from client.desk.case import Case, evaluates, short
from client.desk.outgoing import Outgoing, too_large
from client.desk.readiness import lack_of_disk
from client.desk.release import (
    card_as_released,
    is_released_whole,
    may_release_evaluation,
    update_as_released,
)
from client.desk.view import View, Viewer
from client.desk.voice import Reply, Voice
from client.desk.without_noise import DATA_CARD, EVALUATION, card_digest
from client.guard.reasons import told_of
from client.home.folders import SiteHome
from client.home.own_shard import DoorTrainer
from client.home.site import SiteSettings
from client.trust.signed_request import Denial
from common.messages.kinds import (
    NOT_SECURE,
    PASSING_REFUSALS,
    EvaluateRequest,
    Evaluation,
    MaskedUpdate,
    Metrics,
    Refusal,
    RefusalCode,
    TrainRequest,
    Update,
)
from common.messages.manifest import Manifest

log = logging.getLogger(__name__)

Work = TrainRequest | EvaluateRequest


class Workbench:
    """Carries out what is believed, where it is permitted."""

    def __init__(
        self,
        home: SiteHome,
        site: SiteSettings,
        *,
        trainer: DoorTrainer,
        outgoing: Outgoing,
        answers: Answers,
        viewer: Viewer,
        voice: Voice,
        now: Callable[[], datetime],
    ) -> None:
        """Take what it works with."""
        self._home, self._site, self._trainer = home, site, trainer
        self._outgoing, self._answers, self._viewer = outgoing, answers, viewer
        self._voice, self._now = voice, now

    def describe(self, case: Case, manifest: Manifest) -> Reply:
        """Say what the site holds, as far as its policy lets that leave."""
        view = self._viewer.look(case, manifest, rounds_trained=0)
        if view.objection is not None:
            return self._voice.refuse(case, view.objection)
        card = card_as_released(view.shard.card, view.policy)
        if no := self._outgoing.kept(case.signed.request, card, manifest=manifest, view=view):
            return self._voice.refuse(case, no)
        self._outgoing.note_release(DATA_CARD, case, manifest, content_digest=card_digest(card))
        content = self._voice.sign(case, card)
        if no := too_large(content, view):
            return self._voice.refuse(case, no)
        return self._voice.release(case, card, content)

    def carry_out(self, case: Case, request: Work, manifest: Manifest) -> Reply:
        """Train or measure when it is the request's turn; a repeat gets the stored answer.

        One at a time: the caller sees to that.
        """
        if isinstance(request, EvaluateRequest) and manifest.config.secure_aggregation.enabled:
            reason = "what it measures is only told in sums with other sites, never by itself"
            return self._voice.refuse(case, Denial(RefusalCode.FORBIDDEN, reason))
        record = self._answers.record_of(manifest.run)
        place = place_of(case.asked(evaluates=evaluates(request)), record)
        if isinstance(place, Late):
            return self._voice.refuse(case, Denial(RefusalCode.OUT_OF_ORDER, place.reason))
        view = self._viewer.look(
            case,
            manifest,
            rounds_trained=_rounds_before(case, place, record),
            spends=isinstance(place, New),
        )
        if view.objection is not None:
            return self._voice.refuse(case, view.objection)
        if isinstance(place, Repeat):
            return self._repeat(case, request, manifest, view)
        return self._work(case, request, manifest, view, place)

    def _repeat(self, case: Case, request: Work, manifest: Manifest, view: View) -> Reply:
        asked = case.asked(evaluates=evaluates(request))
        content, tells = self._answers.stored(asked, run=manifest.run)
        answer = self._voice.opened(case, content)
        if isinstance(answer, Refusal):
            return self._voice.deny(case, answer, content)
        if not is_released_whole(answer, view.policy, view.standing, tells=tells):
            # It was signed as it is, and cannot be sent with less in it.
            reason = "its policy no longer lets all of this answer leave"
            return self._voice.refuse(case, Denial(RefusalCode.FORBIDDEN, reason))
        return self._voice.repeat(case, answer, content)

    def _work(self, case: Case, request: Work, manifest: Manifest, view: View, place: New) -> Reply:
        if no := self._unable(request, manifest):
            return self._voice.refuse(case, no)
        if isinstance(request, EvaluateRequest):
            return self._evaluate(case, request, manifest, view)
        may_evaluate = place.may_evaluate and may_release_evaluation(view.policy, view.standing)
        request = replace(request, evaluates=request.evaluates and may_evaluate)
        return self._train(case, request, manifest, view)

    def _train(self, case: Case, request: TrainRequest, manifest: Manifest, view: View) -> Reply:
        if request.secure_json != NOT_SECURE:
            no = self._outgoing.objection(case, request, manifest)
            if no is not None:
                return self._voice.refuse(case, no)
        self._voice.note("request-permitted", case)
        update = self._trainer.train(request)
        if isinstance(update, Refusal):
            return self._refused_by_trainer(case, request, manifest, update)
        after = self._look_again(case, manifest, view)
        if isinstance(after, Denial):
            return self._voice.refuse(case, after)
        update = update_as_released(update, after.policy, after.standing)
        leaving = self._outgoing.prepared(case, request, update, manifest=manifest, view=after)
        if isinstance(leaving, Denial):
            return self._refused_for_good(case, request, manifest, leaving)
        return self._released(case, request, manifest, leaving, after, tells=_tells(update))

    def _evaluate(
        self, case: Case, request: EvaluateRequest, manifest: Manifest, view: View
    ) -> Reply:
        self._voice.note("request-permitted", case)
        evaluation = self._trainer.evaluate(request)
        if isinstance(evaluation, Refusal):
            return self._refused_by_trainer(case, request, manifest, evaluation)
        after = self._look_again(case, manifest, view)
        if isinstance(after, Denial):
            return self._voice.refuse(case, after)
        self._outgoing.note_release(EVALUATION, case, manifest)
        if no := self._outgoing.kept(request, evaluation, manifest=manifest, view=after):
            return self._refused_for_good(case, request, manifest, no)
        return self._released(case, request, manifest, evaluation, after, tells=())

    def _released(
        self,
        case: Case,
        request: Work,
        manifest: Manifest,
        answer: Update | MaskedUpdate | Evaluation,
        view: View,
        *,
        tells: tuple[Part, ...],
    ) -> Reply:
        """Sign, store, note and let go what was accounted for."""
        content = self._voice.sign(case, answer)
        if no := too_large(content, view):
            return self._refused_for_good(case, request, manifest, no)
        self._store(case, request, manifest, content, tells=tells)
        return self._voice.release(case, answer, content)

    def _refused_by_trainer(
        self, case: Case, request: Work, manifest: Manifest, refusal: Refusal
    ) -> Reply:
        """Refuse in words that may leave; what the trainer wrote stays in the site's own log."""
        told = told_of(refusal.reason, arrays=request.arrays)
        if told.reason != refusal.reason:
            log.warning(
                "the trainer's own words stay here",
                extra={"action": "reason_kept", "reason": short(refusal.reason, most=500)},
            )
        no = Denial(refusal.code, told.reason)
        if not told.depends_on_pictures:
            return self._voice.refuse(case, no)
        return self._refused_for_good(case, request, manifest, no)

    def _refused_for_good(self, case: Case, request: Work, manifest: Manifest, no: Denial) -> Reply:
        """Refuse for what the work on the pictures gave: this is then the round's answer.

        Asked again with another model, the round would tell of the pictures once more.
        """
        if no.code in PASSING_REFUSALS:
            return self._voice.refuse(case, no)
        refusal = self._voice.refusal(no)
        content = self._voice.sign(case, refusal)
        self._store(case, request, manifest, content, tells=())
        return self._voice.deny(case, refusal, content)

    def _store(
        self,
        case: Case,
        request: Work,
        manifest: Manifest,
        content: bytes,
        *,
        tells: tuple[Part, ...],
    ) -> None:
        self._answers.store(
            case.asked(evaluates=evaluates(request)),
            content,
            run=manifest.run,
            expires_at=manifest.expires_at,
            now=self._now(),
            tells=tells,
        )

    # --- what the steps need ---------------------------------------------------------------

    def _look_again(self, case: Case, manifest: Manifest, before: View) -> View | Denial:
        """Look anew after the work; return why nothing may leave where that has changed."""
        rounds = before.standing.rounds_trained
        after = self._viewer.look(case, manifest, rounds_trained=rounds, spends=True)
        return self._viewer.withdrawn(case, before, after) or after

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


def _tells(update: Update) -> tuple[Part, ...]:
    """Return what an update holds beside its arrays."""
    parts: dict[Part, Metrics] = {"metrics": update.metrics, "evaluation": update.evaluation}
    return tuple(part for part, metrics in parts.items() if metrics)


def _rounds_before(case: Case, place: New | Repeat, record: RunRecord | None) -> int:
    """Return how many rounds were trained without the one that is asked for."""
    trained = record.rounds_trained if record is not None else 0
    return trained - 1 if isinstance(place, Repeat) and case.kind == "train" else trained
