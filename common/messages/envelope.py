"""Signed messages: what travels between a real coordinator and a real site.

A request carries its run's manifest and the run key's signature over the site it is for, run,
round, kind, model digest and the digest of everything else. An answer carries the signature of
the site's own key over the request it answers. Simulation sends the bare messages of
common/messages/wire.py.
"""

from dataclasses import dataclass

from flwr.app import ConfigRecord, RecordDict
from pydantic import JsonValue

from common.errors import WireError
from common.messages.digests import arrays_digest, message_digest
from common.messages.kinds import (
    Answer,
    AnswerT,
    EvaluateRequest,
    QueryRequest,
    Refusal,
    Request,
    TrainRequest,
)
from common.messages.manifest import SignedManifest
from common.messages.signing import PrivateKey, PublicKey
from common.messages.wire import decode_answer, decode_any_request, encode, kind_of_request

REQUEST_PURPOSE = "fovea request v1"
ANSWER_PURPOSE = "fovea answer v1"

_SEAL = "seal"  # the record beside those of common/messages/wire.py


@dataclass(frozen=True, eq=False)
class SignedRequest:
    """A request as a site receives it; nothing in it is believed before it is verified."""

    site: str  # whom it is for
    request: Request
    manifest: SignedManifest
    signature: str

    @property
    def digest(self) -> str:
        """The SHA-256 that names this request: equal requests of a run have equal digests."""
        return message_digest(self.request)

    def verify(self, run_key: PublicKey) -> None:
        """Raise TrustError when the run key did not sign exactly this."""
        run_key.verify(REQUEST_PURPOSE, _statement(self), self.signature)


def sign_request(
    request: Request, *, site: str, manifest: SignedManifest, key: PrivateKey
) -> SignedRequest:
    """Return a request for one site, signed with the run key."""
    unsigned = SignedRequest(site=site, request=request, manifest=manifest, signature="")
    signature = key.sign(REQUEST_PURPOSE, _statement(unsigned))
    return SignedRequest(site=site, request=request, manifest=manifest, signature=signature)


def encode_signed_request(signed: SignedRequest) -> RecordDict:
    """Return a signed request as Flower records."""
    content = encode(signed.request)
    content[_SEAL] = ConfigRecord(
        {
            "site": signed.site,
            "manifest-json": signed.manifest.manifest_json,
            "manifest-signature": signed.manifest.signature,
            "signature": signed.signature,
        }
    )
    return content


def decode_signed_request(content: RecordDict) -> SignedRequest:
    """Return the signed request that records hold. Raises WireError naming what is wrong."""
    seal, inner = _opened(content, ("site", "manifest-json", "manifest-signature", "signature"))
    return SignedRequest(
        site=seal["site"],
        request=decode_any_request(inner),
        manifest=SignedManifest(seal["manifest-json"], seal["manifest-signature"]),
        signature=seal["signature"],
    )


def encode_signed_answer(answer: Answer, *, request_digest: str, key: PrivateKey) -> RecordDict:
    """Return an answer as Flower records, signed with the site's key."""
    content = encode(answer)
    statement = _answer_statement(answer, request_digest)
    content[_SEAL] = ConfigRecord({"signature": key.sign(ANSWER_PURPOSE, statement)})
    return content


def decode_signed_answer(
    content: RecordDict, kind: type[AnswerT], *, request: Request, site_key: PublicKey
) -> AnswerT | Refusal:
    """Return a site's answer to a request.

    A refusal may come unsigned: the connector says no in the site's name when the trainer is away
    or the request could not be read. Raises WireError for what does not keep the contract,
    TrustError for a signature that is not the site's.
    """
    if _SEAL not in content:
        answer = decode_answer(content, kind)
        if isinstance(answer, Refusal):
            return answer
        raise WireError("the answer is not signed by the site.")
    seal, inner = _opened(content, ("signature",))
    answer = decode_answer(inner, kind)
    statement = _answer_statement(answer, message_digest(request))
    site_key.verify(ANSWER_PURPOSE, statement, seal["signature"])
    return answer


def _opened(content: RecordDict, keys: tuple[str, ...]) -> tuple[dict[str, str], RecordDict]:
    """Return the seal's texts, and the records without it."""
    record = content.config_records.get(_SEAL)
    if record is None:
        raise WireError("the message is not signed: record 'seal' is missing.")
    if set(record) != set(keys):
        raise WireError(f"seal: expected the keys {', '.join(keys)}.")
    texts: dict[str, str] = {}
    for key in keys:
        value = record[key]
        if not isinstance(value, str) or not value:
            raise WireError(f"seal.{key}: expected text.")
        texts[key] = value
    inner = RecordDict({name: part for name, part in content.items() if name != _SEAL})
    return texts, inner


def _statement(signed: SignedRequest) -> dict[str, JsonValue]:
    request = signed.request
    server_round = 0 if isinstance(request, QueryRequest) else request.server_round
    model = ""
    if isinstance(request, TrainRequest | EvaluateRequest):
        model = arrays_digest(request.arrays)
    return {
        "manifest": signed.manifest.digest,
        "site": signed.site,
        "run": request.run,
        "kind": kind_of_request(request),
        "round": server_round,
        "model": model,
        "request": message_digest(request),
    }


def _answer_statement(answer: Answer, request_digest: str) -> dict[str, JsonValue]:
    return {"request": request_digest, "answer": message_digest(answer)}
