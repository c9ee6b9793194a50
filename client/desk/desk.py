"""The trainer's desk: everything that is asked of a site comes across it, and every answer leaves.

Open, verify, order, permit, work, account, guard, store, audit, sign. Whatever it says no to, and
whatever breaks down behind it, becomes a signed and audited refusal. A broken connection does not
stop the work, and the same request coming again waits for it. A training step cannot be stopped
from outside, so ``limits.request_s`` bounds how long an asker is kept waiting: after that the site
is ``unavailable``, works on, and keeps the answer for a repeat.
"""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from datetime import datetime
from functools import partial

from flwr.app import RecordDict

from client.desk.answers import Answers
from client.desk.assistance import Assistance
from client.desk.breakdown import denial_of
from client.desk.case import Case
from client.desk.outgoing import Outgoing
from client.desk.permission import Permission
from client.desk.readiness import reasons_against
from client.desk.turns import Turns
from client.desk.view import Viewer
from client.desk.voice import Reply, Voice
from client.desk.workbench import Workbench
from client.door.desk_report import DeskReport
from client.home.folders import SiteHome
from client.home.own_shard import DoorTrainer, OwnShard, ShardCounts
from client.home.site import SiteSettings
from client.records.audit import AuditLog
from client.secure.member import SecureMember
from client.trust.signed_request import Denial, Identity, read_run_keys, verified
from common.errors import SiteError
from common.messages.code_digest import site_code_digest
from common.messages.envelope import decode_signed_request
from common.messages.kinds import KeysRequest, QueryRequest, RefusalCode, UnmaskRequest
from common.messages.manifest import Manifest
from common.messages.record_bytes import from_bytes, to_bytes
from common.messages.signing import read_private_key

log = logging.getLogger(__name__)

LARGE_BYTES = 4 * 2**20  # of requests beyond, one at a time is read before it is believed

_LOOK_S = 0.5  # how often a waiting request looks whether anyone still waits for it


class Desk:
    """Answers requests in the name of one site."""

    def __init__(
        self,
        home: SiteHome,
        site: SiteSettings,
        trainer: DoorTrainer,
        now: Callable[[], datetime],
    ) -> None:
        """Take the site's own settings. Raises TrustError when its signing key cannot be used."""
        self._home, self._site, self._now = home, site, now
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
        self._shard = OwnShard(home.shard, trainer=trainer, on_reopened=self._note_reopened)
        # One for keys, masks and shares: what it keeps must not be written twice at once.
        member = SecureMember(home.secure_rounds, site=site.name, task=site.task, key=key)
        outgoing = Outgoing(home, site=site.name, member=member, voice=self._voice, now=now)
        viewer = Viewer(
            home, shard=self._shard, permission=self._permission, believe=self._verified
        )
        self._bench = Workbench(
            home,
            site,
            trainer=trainer,
            outgoing=outgoing,
            answers=self._answers,
            viewer=viewer,
            voice=self._voice,
            now=now,
        )
        self._assistance = Assistance(
            member=member,
            outgoing=outgoing,
            answers=self._answers,
            viewer=viewer,
            voice=self._voice,
        )
        self._one_large = threading.Lock()

    def ask(self, content: RecordDict) -> RecordDict:
        """Answer a request given as records."""
        answer = self.answer(to_bytes(content), is_wanted=lambda: True)
        if answer is None:
            raise SiteError("a request was dropped although someone waited for it.")
        return from_bytes(answer)

    def answer(self, content: bytes, *, is_wanted: Callable[[], bool]) -> bytes | None:
        """Answer a request; a repeat gets the stored bytes. None when nobody waits any more."""
        # Whoever has no key must not make the site hold several models at once.
        with self._one_large if len(content) > LARGE_BYTES else nullcontext():
            believed = self._believed(content)
        if isinstance(believed, bytes):
            return believed
        case, manifest = believed
        try:
            return self._answer(case, manifest, is_wanted)
        except Exception as error:
            return self._voice.break_down(case, error).content

    def turned_away(self, reason: str) -> None:
        """Note what did not come as far as this desk."""
        self._voice.turn_away(reason)

    def settle(self) -> None:
        """Note what was only counted so far; to be called often."""
        self._voice.settle()

    def warm(self) -> None:
        """Open the shard, which the first request would otherwise wait for."""
        self._shard.current()

    def close(self, *, within_s: float) -> bool:
        """Take nothing new, finish and store what is begun; False when time ran out before."""
        is_over = self._turns.close(within_s=within_s)
        self._voice.settle(at_once=True)
        return is_over

    def report(self) -> DeskReport:
        """Say how things stand here."""
        reasons = self.reasons_against()
        trained = [record for record in self._answers.runs() if "train" in record.answered]
        return DeskReport(
            site=self._site.name,
            task=self._site.task,
            able=not reasons,
            reasons=reasons,
            is_paused=self._home.pause_marker.exists(),
            last_round={each.run: each.answered["train"].server_round for each in trained},
            waiting=self._permission.waiting(),
            busy_since=self._turns.busy_since,
        )

    def reasons_against(self) -> tuple[str, ...]:
        """Return why a permitted request would not be carried out now; none: it would be."""
        return reasons_against(
            self._home,
            min_free_disk_mb=self._site.limits.min_free_disk_mb,
            is_warm=self._shard.is_open,
            is_closing=self._turns.is_closing,
        )

    # --- the way of a request --------------------------------------------------------------

    def _believed(self, content: bytes) -> tuple[Case, Manifest] | bytes:
        """Return a request that the run key signed for this site, or the refusal."""
        try:
            signed = decode_signed_request(from_bytes(content))
            case = Case(signed, signed.digest, len(content))
        except Exception as error:
            return self._voice.refuse_unreadable(error, size_bytes=len(content))
        try:
            manifest = self._verified(case)
        except Exception as error:
            log.exception("a request cannot be verified", extra={"action": "verifying_broke_down"})
            manifest = denial_of(error)
        if isinstance(manifest, Denial):
            return self._voice.refuse_unproven(case, manifest).content
        return case, manifest

    def _verified(self, case: Case) -> Manifest | Denial:
        return verified(
            case.signed,
            run_keys=read_run_keys(self._home.run_keys),
            identity=self._identity,
            now=self._now(),
        )

    def _answer(
        self, case: Case, manifest: Manifest, is_wanted: Callable[[], bool]
    ) -> bytes | None:
        self._voice.note("request-received", case, size_bytes=case.size_bytes)
        request = case.signed.request
        if isinstance(request, QueryRequest):
            # At once, even while a round is trained.
            return self._bench.describe(case, manifest).content
        if isinstance(request, KeysRequest | UnmaskRequest):
            work = partial(self._assistance.give, case, request, manifest)
        else:
            work = partial(self._bench.carry_out, case, request, manifest)
        return self._in_turn(case, work, is_wanted)

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
            return self._voice.repeat(case, reply.answer, reply.content).content
        return reply.content

    def _safely(self, case: Case, work: Callable[[], Reply]) -> Reply:
        try:
            return work()
        except Exception as error:
            return self._voice.break_down(case, error)

    def _put_off(self, case: Case, reason: str) -> bytes:
        return self._voice.refuse(case, Denial(RefusalCode.UNAVAILABLE, reason)).content

    def _note_reopened(self, counts: ShardCounts) -> None:
        self._voice.tell(
            "shard-reopened",
            training_pictures=counts.training_pictures,
            validation_pictures=counts.validation_pictures,
        )
