"""A request on its way through the trainer, and what the steps need to know of it."""

from dataclasses import dataclass
from typing import Literal

from client.desk.answers import Asked
from client.records.audit_lines import Record
from common.machine.printable import printable
from common.messages.envelope import SignedRequest
from common.messages.kinds import (
    EvaluateRequest,
    KeysRequest,
    QueryRequest,
    Request,
    TrainRequest,
    UnmaskRequest,
)
from common.messages.wire import kind_of_request

CaseKind = Literal["query", "train", "evaluate", "keys", "unmask"]

_LONGEST_TEXT = 200  # of what came from outside, in the audit log
_KINDS: dict[type[Request], CaseKind] = {
    QueryRequest: "query",
    TrainRequest: "train",
    EvaluateRequest: "evaluate",
    KeysRequest: "keys",
    UnmaskRequest: "unmask",
}


@dataclass(frozen=True, eq=False)
class Case:
    """A request as it came; not yet believed."""

    signed: SignedRequest
    digest: str  # of the request
    size_bytes: int

    @property
    def key(self) -> str:
        """Equal for the same request under the same manifest, and for nothing else."""
        return f"{self.signed.manifest.digest} {self.digest}"

    @property
    def kind(self) -> CaseKind:
        """What is asked for, in the policy's words."""
        return _KINDS[type(self.signed.request)]

    @property
    def server_round(self) -> int:
        """The round that is asked for; 0 for a query, and for a run's key."""
        request = self.signed.request
        return 0 if isinstance(request, QueryRequest) else request.server_round

    def asked(self, *, evaluates: bool) -> Asked:
        """Return the place in its run's order of a request to train or to measure."""
        return Asked(
            kind="evaluate" if self.kind == "evaluate" else "train",
            server_round=self.server_round,
            request_digest=self.digest,
            evaluates=evaluates,
        )

    def audit_fields(self) -> Record:
        """Return what the audit log says of it; of texts from outside, the beginning."""
        return {
            "run": short(self.signed.request.run),
            "kind": kind_of_request(self.signed.request),
            "round": self.server_round,
            "for_site": short(self.signed.site),
            "request": self.digest,
            "manifest": self.signed.manifest.digest,
        }


def evaluates(request: Request) -> bool:
    """Say whether a request is to measure a model."""
    if isinstance(request, TrainRequest):
        return request.evaluates
    return isinstance(request, EvaluateRequest)


def short(text: str, *, most: int = _LONGEST_TEXT) -> str:
    """Return as much of a text from outside as belongs in a log, fit to be shown."""
    return printable(text[:most])[:most]
