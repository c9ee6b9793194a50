"""The light half of a secure sum at a site: its keys before a round, what opens the sums after."""

from client.desk.answers import Answers
from client.desk.case import Case
from client.desk.outgoing import Outgoing, too_large
from client.desk.view import Viewer
from client.desk.voice import Reply, Voice
from client.secure.member import SecureMember
from client.trust.signed_request import Denial
from common.messages.kinds import Keys, KeysRequest, Refusal, Shares, UnmaskRequest
from common.messages.manifest import Manifest
from common.secure_sum.statements import Unmasking, parsed


class Assistance:
    """Gives keys and shares, where that is permitted."""

    def __init__(
        self,
        *,
        member: SecureMember,
        outgoing: Outgoing,
        answers: Answers,
        viewer: Viewer,
        voice: Voice,
    ) -> None:
        """Take what it works with."""
        self._member, self._outgoing, self._answers = member, outgoing, answers
        self._viewer, self._voice = viewer, voice

    def give(self, case: Case, request: KeysRequest | UnmaskRequest, manifest: Manifest) -> Reply:
        """Give the keys of a secure sum, or what opens it.

        One at a time, and never while a round is trained: the caller sees to that.
        """
        record = self._answers.record_of(manifest.run)
        trained = record.rounds_trained if record is not None else 0
        view = self._viewer.look(case, manifest, rounds_trained=trained)
        if view.objection is not None:
            return self._voice.refuse(case, view.objection)
        answer = self._given(request, manifest)
        if isinstance(answer, Refusal):
            return self._voice.refuse(case, Denial(answer.code, answer.reason))
        if no := self._outgoing.kept(request, answer, manifest=manifest, view=view):
            return self._voice.refuse(case, no)
        content = self._voice.sign(case, answer)
        if no := too_large(content, view):
            return self._voice.refuse(case, no)
        self._note(case, request)
        return self._voice.release(case, answer, content)

    def _given(
        self, request: KeysRequest | UnmaskRequest, manifest: Manifest
    ) -> Keys | Shares | Refusal:
        terms = self._outgoing.terms(manifest)
        if isinstance(request, KeysRequest):
            return self._member.keys(request, terms=terms)
        return self._member.shares(request, terms=terms)

    def _note(self, case: Case, request: KeysRequest | UnmaskRequest) -> None:
        if isinstance(request, KeysRequest):
            self._voice.note("keys-given", case)
            return
        unmasking = parsed(request.unmask_json, Unmasking)
        self._voice.note(
            "shares-given",
            case,
            survivors=list(unmasking.survivors),
            dropped=list(unmasking.dropped),
            roster=unmasking.roster_digest,
        )
