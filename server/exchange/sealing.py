"""How messages are closed and opened: bare in simulation, signed between real machines."""

from collections.abc import Mapping
from typing import Protocol

from flwr.app import RecordDict

from common.messages.digests import text_digest
from common.messages.envelope import decode_signed_answer, encode_signed_request, sign_request
from common.messages.kinds import AnswerT, Refusal, Request
from common.messages.manifest import SignedManifest
from common.messages.signing import PrivateKey, PublicKey
from common.messages.wire import decode_answer, encode


class Sealing(Protocol):
    """Closes a request for one site and opens what comes back."""

    def run_digest(self, config_json: str) -> str:
        """Return the digest by which the sites of a secure sum know that all are in one run."""
        ...

    def close(self, request: Request, *, site: str) -> RecordDict:
        """Return what is sent."""
        ...

    def open(
        self, content: RecordDict, kind: type[AnswerT], *, request: Request, site: str
    ) -> AnswerT | Refusal:
        """Return the answer to a request. Raises WireError or TrustError naming what is wrong."""
        ...


class Unsealed:
    """Sites that are processes of this machine."""

    def run_digest(self, config_json: str) -> str:
        """Return the digest of the configuration, which is all that the sites know of the run."""
        return text_digest(config_json)

    def close(self, request: Request, *, site: str) -> RecordDict:
        """Return the bare message."""
        del site
        return encode(request)

    def open(
        self, content: RecordDict, kind: type[AnswerT], *, request: Request, site: str
    ) -> AnswerT | Refusal:
        """Return the bare answer."""
        del request, site
        return decode_answer(content, kind)


class Signed:
    """Sites that have pinned the run key, and whose keys were admitted."""

    def __init__(
        self, *, manifest: SignedManifest, run_key: PrivateKey, site_keys: Mapping[str, PublicKey]
    ) -> None:
        """Take the run's manifest and the keys of its sites by name."""
        self._manifest = manifest
        self._run_key = run_key
        self._site_keys = dict(site_keys)

    def run_digest(self, config_json: str) -> str:
        """Return the digest of the manifest, which holds the configuration."""
        del config_json
        return self._manifest.digest

    def close(self, request: Request, *, site: str) -> RecordDict:
        """Return the request with manifest and signature."""
        signed = sign_request(request, site=site, manifest=self._manifest, key=self._run_key)
        return encode_signed_request(signed)

    def open(
        self, content: RecordDict, kind: type[AnswerT], *, request: Request, site: str
    ) -> AnswerT | Refusal:
        """Return the answer if the site itself signed it for this request."""
        key = self._site_keys[site]
        return decode_signed_answer(content, kind, request=request, site_key=key)
