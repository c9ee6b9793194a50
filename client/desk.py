"""The trainer's desk: everything that is asked of a site comes across it, and every answer leaves.

Open, verify, order, permit, work, guard, store, audit, sign. Whatever it says no to, and whatever
breaks down behind it, becomes a signed and audited refusal. A broken connection does not stop the
work, and the same request coming again waits for it. A training step cannot be stopped from
outside, so ``limits.request_s`` bounds how long an asker is kept waiting: after that the site is
``unavailable``, works on, and keeps the answer for a repeat.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

from flwr.app import RecordDict

from client.answers import Answers, Late, New, Repeat, RunRecord, place_of
from client.audit import AuditLog
from client.case import Case, evaluates
from client.desk_report import DeskReport, counts_of
from client.guard import reason_to_keep
from client.home import SiteHome
from client.permission import Permission
from client.policy import Policy, Standing, as_released, may_release_evaluation
from client.policy_file import read_policy
from client.readiness import lack_of_disk, reasons_against
from client.site import SiteSettings
from client.trust import Denial, Identity, read_run_keys, verified
from client.turns import Turns
from client.voice import Reply, Voice
from common.code_digest import site_code_digest
from common.envelope import decode_signed_request
from common.errors import SiteError
from common.manifest import Manifest
from common.record_bytes import from_bytes, to_bytes
from common.signing import read_private_key
from common.wire import (
    EvaluateRequest,
    Evaluation,
    QueryRequest,
    Refusal,
    RefusalCode,
    Request,
    SiteCard,
    TrainRequest,
    Update,
)

if TYPE_CHECKING:
    from client.app import SiteTrainer

_Work = TrainRequest | EvaluateRequest

_LOOK_S = 0.5  # how often a waiting request looks whether anyone still waits for it


class Desk:
    """Answers requests in the name of one site."""

    def __init__(
        self,
        home: SiteHome,
        site: SiteSettings,
        trainer: "SiteTrainer",
        now: Callable[[], datetime],
    ) -> None:
        """Take the site's own settings. Raises TrustError when its signing key cannot be used."""
        self._home, self._site, self._trainer, self._now = home, site, trainer, now
        key = read_private_key(home.signing_key)
        self._identity = Identity(
            site=site.name,
            federation=site.federation,
            task=site.task,
            signing_key=key.public.text,
            code_digest=site_code_digest(),
        )
        self._voice = Voice(site=site.name, key=key, audit=AuditLog(home.audit_log), now=now)
        self._answers = Answers(home.answers)
        self._permission = Permission(home, voice=self._voice, now=now)
        self._turns: Turns[Reply] = Turns()
        self._card_lock = threading.Lock()
        self._card: SiteCard | None = None

    def ask(self, content: RecordDict) -> RecordDict:
        """Answer a request given as records."""
        answer = self.answer(to_bytes(content), is_wanted=lambda: True)
        if answer is None:
            raise SiteError("a request was dropped although someone waited for it.")
        return from_bytes(answer)

    def answer(self, content: bytes, *, is_wanted: Callable[[], bool]) -> bytes | None:
        """Answer a request; a repeat gets the stored bytes. None when nobody waits any more."""
        try:
            signed = decode_signed_request(from_bytes(content))
            case = Case(signed, signed.digest, len(content))
        except Exception as error:
            return self._voice.refuse_unreadable(error, size_bytes=len(content))
        try:
            return self._answer(case, is_wanted)
        except Exception as error:
            return self._voice.break_down(case, error).content

    def warm(self) -> None:
        """Open the shard, which the first request would otherwise wait for."""
        self._own_card()

    def close(self, *, within_s: float) -> bool:
        """Take nothing new, finish and store what is begun; False when time ran out before."""
        return self._turns.close(within_s=within_s)

    def report(self) -> DeskReport:
        """Say how things stand here."""
        reasons = self.reasons_against()
        card, records = self._card, self._answers.runs()
        trained = [record for record in records if "train" in record.answered]
        return DeskReport(
            site=self._site.name,
            task=self._site.task,
            able=not reasons,
            reasons=reasons,
            is_paused=self._home.pause_marker.exists(),
            last_round={each.run: each.answered["train"].server_round for each in trained},
            waiting=self._permission.waiting(),
            busy_since=self._turns.busy_since,
            counts=counts_of(card) if card is not None else None,
        )

    def reasons_against(self) -> tuple[str, ...]:
        """Return why a permitted request would not be carried out now; none: it would be."""
        return reasons_against(
            self._home,
            min_free_disk_mb=self._site.limits.min_free_disk_mb,
            is_warm=self._card is not None,
            is_closing=self._turns.is_closing,
        )

    # --- the way of a request --------------------------------------------------------------

    def _answer(self, case: Case, is_wanted: Callable[[], bool]) -> bytes | None:
        self._voice.note("request-received", case, size_bytes=case.size_bytes)
        manifest = verified(
            case.signed,
            run_keys=read_run_keys(self._home.run_keys),
            identity=self._identity,
            now=self._now(),
        )
        if isinstance(manifest, Denial):
            return self._voice.refuse(case, manifest).content
        request = case.signed.request
        if isinstance(request, QueryRequest):
            return self._describe(case, manifest).content  # at once, even while a round is trained
        return self._in_turn(case, partial(self._carry_out, case, request, manifest), is_wanted)

    def _in_turn(
        self, case: Case, work: Callable[[], Reply], is_wanted: Callable[[], bool]
    ) -> bytes | None:
        turn = self._turns.take(case.key, partial(self._safely, case, work), now=self._now())
        if turn is None:
            is_closing = self._turns.is_closing
            return self._put_off(
                case, "it is stopping" if is_closing else "it is busy with another request"
            )
        end = time.monotonic() + self._site.limits.request_s
        while not turn.is_done(within_s=_LOOK_S):
            if not is_wanted():
                return None
            if time.monotonic() > end:
                return self._put_off(
                    case, "it still works on this request, and keeps the answer for a repeat"
                )
        reply = turn.result.result()
        if turn.is_joined and reply.is_release:
            return self._voice.repeat(case, reply.content).content
        return reply.content

    def _safely(self, case: Case, work: Callable[[], Reply]) -> Reply:
        try:
            return work()
        except Exception as error:
            return self._voice.break_down(case, error)

    def _describe(self, case: Case, manifest: Manifest) -> Reply:
        policy = read_policy(self._home.policy_file)
        counts = counts_of(self._own_card())
        standing = self._permission.standing(case, manifest, policy, counts, rounds_trained=0)
        if no := self._permission.objection(case, manifest, policy, standing):
            return self._voice.refuse(case, no)
        card = as_released(self._own_card(), policy, standing)
        if no := self._kept(case.signed.request, card, manifest):
            return self._voice.refuse(case, no)
        return self._voice.release(case, card, self._voice.sign(case, card))

    def _carry_out(self, case: Case, request: _Work, manifest: Manifest) -> Reply:
        policy = read_policy(self._home.policy_file)
        record = self._answers.record_of(manifest.run)
        asked = case.asked(evaluates=evaluates(request))
        place = place_of(asked, record)
        if isinstance(place, Late):
            return self._voice.refuse(case, Denial(RefusalCode.OUT_OF_ORDER, place.reason))
        before = _rounds_before(case, place, record)
        counts = counts_of(self._own_card())
        standing = self._permission.standing(case, manifest, policy, counts, rounds_trained=before)
        if no := self._permission.objection(case, manifest, policy, standing):
            return self._voice.refuse(case, no)
        if isinstance(place, Repeat):
            return self._voice.repeat(case, self._answers.stored(asked, run=manifest.run))
        if lack := lack_of_disk(
            self._home.trainer, min_free_disk_mb=self._site.limits.min_free_disk_mb
        ):
            return self._voice.refuse(case, Denial(RefusalCode.UNAVAILABLE, lack))
        self._voice.note("request-permitted", case)
        if isinstance(request, TrainRequest):
            may_evaluate = place.may_evaluate and may_release_evaluation(policy, standing)
            request = replace(request, evaluates=request.evaluates and may_evaluate)
        return self._work(case, request, manifest, policy, standing)

    def _work(
        self, case: Case, request: _Work, manifest: Manifest, policy: Policy, standing: Standing
    ) -> Reply:
        answer: Update | Evaluation | Refusal
        if isinstance(request, TrainRequest):
            answer = self._trainer.train(request)
        else:
            answer = self._trainer.evaluate(request)
        if isinstance(answer, Refusal):
            return self._voice.refuse(case, Denial(answer.code, answer.reason))
        released = as_released(answer, policy, standing)
        if no := self._kept(request, released, manifest):
            return self._voice.refuse(case, no)
        content = self._voice.sign(case, released)
        self._answers.store(
            case.asked(evaluates=evaluates(request)),
            content,
            run=manifest.run,
            expires_at=manifest.expires_at,
            now=self._now(),
        )
        return self._voice.release(case, released, content)

    # --- what the steps need ---------------------------------------------------------------

    def _own_card(self) -> SiteCard:
        with self._card_lock:
            if self._card is None:
                self._card = self._trainer.describe()
            return self._card

    def _kept(
        self, request: Request, answer: SiteCard | Update | Evaluation, manifest: Manifest
    ) -> Denial | None:
        reason = reason_to_keep(
            request,
            answer,
            site=self._site.name,
            task=self._site.task,
            local_layers=manifest.config.federation.local_layers,
        )
        return None if reason is None else Denial(RefusalCode.UNABLE, reason)

    def _put_off(self, case: Case, reason: str) -> bytes:
        return self._voice.refuse(case, Denial(RefusalCode.UNAVAILABLE, reason)).content


def _rounds_before(case: Case, place: New | Repeat, record: RunRecord | None) -> int:
    """Return how many rounds were trained without the one that is asked for."""
    trained = record.rounds_trained if record is not None else 0
    return trained - 1 if isinstance(place, Repeat) and case.kind == "train" else trained
