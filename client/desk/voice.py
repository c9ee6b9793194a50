"""How a site says yes and no: signed with its key, and in the audit log before it leaves."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from pydantic import JsonValue

from client.desk.breakdown import denial_of
from client.desk.case import Case, short
from client.records.audit import AuditLog, release_fields
from client.records.flood import Counted, Flood
from client.trust.signed_request import Denial
from common.errors import AuditError
from common.messages.envelope import decode_signed_answer, encode_signed_answer
from common.messages.kinds import (
    NOT_SECURE,
    Answer,
    Evaluation,
    MaskedUpdate,
    Refusal,
    TrainRequest,
    Update,
)
from common.messages.record_bytes import from_bytes, to_bytes
from common.messages.signing import PrivateKey
from common.messages.wire import encode

log = logging.getLogger(__name__)

TURNED_AWAY = "turned-away"  # in place of a refusal's code: what never came as far as the desk

_LONGEST_REASON = 500


@dataclass(frozen=True)
class Reply:
    """Bytes that may leave: an answer, or a refusal."""

    content: bytes
    answer: Answer

    @property
    def is_release(self) -> bool:
        """Whether it tells something that a refusal does not."""
        return not isinstance(self.answer, Refusal)


class Voice:
    """Speaks for one site."""

    def __init__(
        self, *, site: str, key: PrivateKey, audit: AuditLog, now: Callable[[], datetime]
    ) -> None:
        """Take the site's name, its signing key and its audit log."""
        self._site, self._key, self._audit, self._now = site, key, audit, now
        self._flood = Flood()

    def note(self, event: str, case: Case, **fields: JsonValue) -> None:
        """Put an event in the audit log. Raises AuditError or OSError when it cannot be."""
        self.tell(event, **case.audit_fields(), **fields)

    def tell(self, event: str, **fields: JsonValue) -> None:
        """Put an event that belongs to no request in the audit log; raises as ``note`` does."""
        self._audit.append(event, self._now(), **fields)

    def sign(self, case: Case, answer: Answer) -> bytes:
        """Return an answer, signed; it has not left yet, nor been noted."""
        return to_bytes(encode_signed_answer(answer, request_digest=case.digest, key=self._key))

    def opened(self, case: Case, content: bytes) -> Update | MaskedUpdate | Evaluation | Refusal:
        """Return the answer that this site signed earlier. Raises TrustError for any other."""
        request, records = case.signed.request, from_bytes(content)
        site_key = self._key.public
        if isinstance(request, TrainRequest) and request.secure_json != NOT_SECURE:
            return decode_signed_answer(records, MaskedUpdate, request=request, site_key=site_key)
        if isinstance(request, TrainRequest):
            return decode_signed_answer(records, Update, request=request, site_key=site_key)
        return decode_signed_answer(records, Evaluation, request=request, site_key=site_key)

    def release(self, case: Case, answer: Answer, content: bytes) -> Reply:
        """Note that a signed answer leaves, and let it."""
        self.note("answer-released", case, **release_fields(answer))
        return Reply(content, answer)

    def repeat(self, case: Case, answer: Answer, content: bytes) -> Reply:
        """Note that an answer leaves once more, and let it."""
        self.note("answer-repeated", case, size_bytes=len(content), **release_fields(answer))
        return Reply(content, answer)

    def refuse(self, case: Case, denial: Denial) -> Reply:
        """Say no."""
        refusal = self.refusal(denial)
        return self.deny(case, refusal, self.sign(case, refusal))

    def refusal(self, denial: Denial) -> Refusal:
        """Return how a denial is told outside; it has not left yet, nor been noted."""
        # What leaves and what the log says left are the same text.
        reason = short(denial.reason, most=_LONGEST_REASON)
        return Refusal(site=self._site, code=denial.code, reason=reason)

    def deny(self, case: Case, refusal: Refusal, content: bytes) -> Reply:
        """Note a signed refusal, and let it leave: for the first time, or once more."""
        self._note_refusal(str(refusal.code), refusal.reason, **case.audit_fields())
        return Reply(content, refusal)

    def refuse_unproven(self, case: Case, denial: Denial) -> Reply:
        """Say no to what was not shown to be the coordinator's: anyone may send that, endlessly."""
        refusal = self.refusal(denial)
        self._note_unproven(
            str(refusal.code), refusal.reason, size_bytes=case.size_bytes, **case.audit_fields()
        )
        return Reply(self.sign(case, refusal), refusal)

    def break_down(self, case: Case, error: Exception) -> Reply:
        """Say that something broke: outside, its kind; in the site's own log, all of it."""
        log.error("a request broke down", exc_info=error, extra={"action": "request_broke_down"})
        return self.refuse(case, denial_of(error))

    def refuse_unreadable(self, error: Exception, *, size_bytes: int) -> bytes:
        """Refuse what is no request; unsigned, for there is no request to name in a signature."""
        refusal = self.refusal(denial_of(error))
        self._note_unproven(str(refusal.code), refusal.reason, size_bytes=size_bytes)
        return to_bytes(encode(refusal))

    def turn_away(self, reason: str) -> None:
        """Note what was turned away before it was read."""
        self._note_unproven(TURNED_AWAY, short(reason, most=_LONGEST_REASON))

    def settle(self, *, at_once: bool = False) -> None:
        """Note how many refusals were not noted one by one, once a minute or at once."""
        try:
            self._flood.settle(self._note_counted, now=self._now(), at_once=at_once)
        except (OSError, AuditError):
            log.exception("the audit log cannot be written", extra={"action": "audit_failed"})

    def _note_unproven(self, code: str, reason: str, **fields: JsonValue) -> None:
        self.settle()
        if self._flood.admits(code, self._now()):
            self._note_refusal(code, reason, **fields)

    def _note_refusal(self, code: str, reason: str, **fields: JsonValue) -> None:
        log.warning(
            "request refused", extra={"action": "request_refused", "code": code, "reason": reason}
        )
        try:
            self.tell("request-refused", code=code, reason=reason, **fields)
        except (OSError, AuditError):
            # Nothing of the site leaves with a refusal, and its reason must reach the coordinator.
            log.exception("the audit log cannot be written", extra={"action": "audit_failed"})

    def _note_counted(self, counted: Counted) -> None:
        self.tell(
            "requests-refused",
            count=counted.count,
            since=counted.since.isoformat(timespec="seconds"),
            until=counted.until.isoformat(timespec="seconds"),
            codes=dict(counted.codes),
        )
