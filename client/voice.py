"""How a site says yes and no: signed with its key, and in the audit log before it leaves."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from pydantic import JsonValue

from client.audit import AuditLog, release_fields
from client.breakdown import denial_of
from client.case import Case, short
from client.trust import Denial
from common.envelope import encode_signed_answer
from common.errors import AuditError
from common.record_bytes import to_bytes
from common.signing import PrivateKey
from common.wire import Answer, Refusal, encode

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reply:
    """Bytes that may leave: an answer, or a refusal."""

    content: bytes
    is_release: bool


class Voice:
    """Speaks for one site."""

    def __init__(
        self, *, site: str, key: PrivateKey, audit: AuditLog, now: Callable[[], datetime]
    ) -> None:
        """Take the site's name, its signing key and its audit log."""
        self._site, self._key, self._audit, self._now = site, key, audit, now

    def note(self, event: str, case: Case, **fields: JsonValue) -> None:
        """Put an event in the audit log. Raises AuditError or OSError when it cannot be."""
        self._audit.append(event, self._now(), **case.audit_fields(), **fields)

    def sign(self, case: Case, answer: Answer) -> bytes:
        """Return an answer, signed; it has not left yet, nor been noted."""
        return to_bytes(encode_signed_answer(answer, request_digest=case.digest, key=self._key))

    def release(self, case: Case, answer: Answer, content: bytes) -> Reply:
        """Note that a signed answer leaves, and let it."""
        self.note("answer-released", case, **release_fields(answer))
        return Reply(content, is_release=True)

    def repeat(self, case: Case, content: bytes) -> Reply:
        """Note that a stored answer leaves once more, and let it."""
        self.note("answer-repeated", case, size_bytes=len(content))
        return Reply(content, is_release=True)

    def refuse(self, case: Case, denial: Denial) -> Reply:
        """Say no."""
        refusal = self._refusal(denial, **case.audit_fields())
        return Reply(self.sign(case, refusal), is_release=False)

    def break_down(self, case: Case, error: Exception) -> Reply:
        """Say that something broke: outside, its kind; in the site's own log, all of it."""
        log.error("a request broke down", exc_info=error, extra={"action": "request_broke_down"})
        return self.refuse(case, denial_of(error))

    def refuse_unreadable(self, error: Exception, *, size_bytes: int) -> bytes:
        """Refuse what is no request; unsigned, for there is no request to name in a signature."""
        log.warning("unreadable request", exc_info=error, extra={"action": "unreadable_request"})
        return to_bytes(encode(self._refusal(denial_of(error), size_bytes=size_bytes)))

    def _refusal(self, denial: Denial, **fields: JsonValue) -> Refusal:
        reason = short(denial.reason)
        code = str(denial.code)
        log.warning(
            "request refused", extra={"action": "request_refused", "code": code, "reason": reason}
        )
        try:
            self._audit.append("request-refused", self._now(), code=code, reason=reason, **fields)
        except (OSError, AuditError):
            # Nothing of the site leaves with a refusal, and its reason must reach the coordinator.
            log.exception("the audit log cannot be written", extra={"action": "audit_failed"})
        return Refusal(site=self._site, code=denial.code, reason=denial.reason)
