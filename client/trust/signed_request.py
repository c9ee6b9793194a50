"""Is a request what the pinned run key signed, for this site, this run, this code?

Pure, but for the file of pinned keys. Nothing in a request is believed before it came through here.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from pathlib import Path

from common.config.reading import canonical_json
from common.errors import TrustError, WireError
from common.messages.envelope import SignedRequest
from common.messages.kinds import (
    NOT_SECURE,
    KeysRequest,
    QueryRequest,
    RefusalCode,
    Request,
    TrainRequest,
    UnmaskRequest,
)
from common.messages.manifest import Manifest, expired, open_manifest
from common.messages.signing import PublicKey, public_key


@dataclass(frozen=True)
class Identity:
    """What a manifest must say of this site, and of the code that it runs."""

    site: str
    federation: str
    task: str
    signing_key: str  # public
    code_digest: str


@dataclass(frozen=True)
class Denial:
    """Why a request is not carried out."""

    code: RefusalCode
    reason: str


def read_run_keys(path: Path) -> tuple[PublicKey, ...]:
    """Return the pinned run keys, one per line; ``#`` begins a comment.

    Raises TrustError when the file cannot be read, holds none, or a line is no key.
    """
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TrustError(f"{path}: the run keys cannot be read ({error}).") from error
    texts = [text for line in lines if (text := line.partition("#")[0].strip())]
    if not texts:
        raise TrustError(f"{path}: no run key is pinned. `fovea-site init` puts the kit's there.")
    return tuple(public_key(text) for text in texts)


def verified(
    signed: SignedRequest, *, run_keys: Sequence[PublicKey], identity: Identity, now: datetime
) -> Manifest | Denial:
    """Return the manifest of a request that may be believed, or why it may not."""
    try:
        manifest = open_manifest(signed.manifest, run_keys=run_keys)
    except TrustError as error:
        return _untrusted(str(error))
    except WireError as error:
        return Denial(RefusalCode.UNREADABLE, str(error))
    if not any(_is_signed_by(key, signed) for key in run_keys):
        return _untrusted("the request is not signed by the run key that this site has pinned.")
    if expired(manifest, now):
        return _untrusted(
            f"the run's manifest expired at {manifest.expires_at:%Y-%m-%d %H:%M %Z}; "
            f"by the site's clock it is {now:%Y-%m-%d %H:%M %Z}."
        )
    reasons = chain(_not_for(identity, signed, manifest), _not_of(manifest, signed))
    reason = next(reasons, None)
    return _untrusted(reason) if reason else manifest


def _untrusted(reason: str) -> Denial:
    return Denial(RefusalCode.UNTRUSTED, reason)


def _is_signed_by(key: PublicKey, signed: SignedRequest) -> bool:
    try:
        signed.verify(key)
    except TrustError:
        return False
    return True


def _not_for(identity: Identity, signed: SignedRequest, manifest: Manifest) -> Iterator[str]:
    """Yield why a signed request is not for this site."""
    if signed.site != identity.site:
        yield f"the request is for another site than {identity.site}."
    if manifest.federation != identity.federation:
        yield f"the run is of another federation than {identity.federation}."
    entry = manifest.site(identity.site)
    if entry is None:
        yield f"the run's manifest does not name {identity.site}."
        return
    if entry.task != identity.task:
        yield f"the manifest gives {identity.site} the task {entry.task}, it has {identity.task}."
    if entry.signing_key != identity.signing_key:
        yield f"the manifest names another signing key for {identity.site} than it has."
    if manifest.code_digest != identity.code_digest:
        yield (
            "the manifest is for other code than the site runs "
            f"({manifest.code_digest[:12]}, here {identity.code_digest[:12]}): "
            "both ends must run the same Fovea version."
        )


def _not_of(manifest: Manifest, signed: SignedRequest) -> Iterator[str]:
    """Yield why a request does not belong to the run that its manifest describes."""
    request = signed.request
    if request.run != manifest.run:
        yield f"the request is of another run than its manifest's, {manifest.run}."
    if isinstance(request, QueryRequest):
        return
    if request.config_json != canonical_json(manifest.config):
        yield "the request's configuration is not the manifest's."
    # Round 0 is a model that nobody has trained, and the run as a whole.
    first = int(isinstance(request, TrainRequest | UnmaskRequest))
    last = manifest.config.federation.rounds
    if not first <= request.server_round <= last:
        yield f"round {request.server_round} is none of the manifest's, {first} to {last}."
    yield from _not_as_summed(request, is_secure=manifest.config.secure_aggregation.enabled)


def _not_as_summed(request: Request, *, is_secure: bool) -> Iterator[str]:
    """Yield why a request is not for the kind of sum that the manifest promised to the sites."""
    if isinstance(request, TrainRequest) and (request.secure_json != NOT_SECURE) != is_secure:
        yield (
            "the run's updates are summed under masks, and the request asks for a plain one."
            if is_secure
            else "the run's updates are plain, and the request asks for a masked one."
        )
    if isinstance(request, KeysRequest | UnmaskRequest) and not is_secure:
        yield "the run's updates are plain, so there are no keys of a secure sum."
    if isinstance(request, KeysRequest) and (
        (request.keys_json == NOT_SECURE) != (request.server_round == 0)
    ):
        yield "keys for a round need the list of members, and a run's key is made without one."
