"""The signed manifest of a run: what the coordinator commits itself to, and a site approves."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, ValidationError

from common.config.run import RunConfig, Section
from common.errors import TrustError, WireError
from common.messages.digests import text_digest
from common.messages.signing import PrivateKey, PublicKey, canonical

PURPOSE = "fovea manifest v1"

Slug = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
RunName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,78}$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ManifestSite(Section):
    """A site that takes part."""

    name: Slug
    task: Slug
    signing_key: str  # public, as common/messages/signing.py writes it


class Manifest(Section):
    """Everything that stays the same from the first to the last round of a run."""

    version: Literal[1]
    federation: Slug
    run: RunName
    sites: Annotated[tuple[ManifestSite, ...], Field(min_length=1)]
    config: RunConfig  # as sites are told it, without sources and addresses
    architecture_digest: Digest  # common.messages.digests.architecture_digest of the whole network
    code_digest: Digest  # common.messages.code_digest.site_code_digest
    issued_at: AwareDatetime
    expires_at: AwareDatetime

    def site(self, name: str) -> ManifestSite | None:
        """Return a site's entry, None when it is not named."""
        return next((site for site in self.sites if site.name == name), None)


@dataclass(frozen=True)
class SignedManifest:
    """A manifest's canonical JSON with the run key's signature."""

    manifest_json: str
    signature: str

    @property
    def digest(self) -> str:
        """What a site approves: the SHA-256 of the canonical JSON."""
        return text_digest(self.manifest_json)


def sign_manifest(manifest: Manifest, key: PrivateKey) -> SignedManifest:
    """Return a manifest in its one form, signed."""
    text = canonical(manifest.model_dump(mode="json"))
    return SignedManifest(text, key.sign(PURPOSE, {"digest": text_digest(text)}))


def open_manifest(signed: SignedManifest, *, run_keys: Sequence[PublicKey]) -> Manifest:
    """Return a manifest that one of the pinned run keys signed.

    Its expiry is not looked at: see :func:`expired`. Raises TrustError for another's signature,
    WireError when it was signed but does not keep this contract.
    """
    _verify_with_any(run_keys, signed)
    try:
        manifest = Manifest.model_validate_json(signed.manifest_json)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise WireError(
            f"manifest: {key}: {first['msg']}. Both ends must run the same Fovea version."
        ) from error
    if canonical(manifest.model_dump(mode="json")) != signed.manifest_json:
        raise WireError("manifest: not in its canonical form. Both ends must run the same version.")
    return manifest


def expired(manifest: Manifest, now: datetime) -> bool:
    """Say whether a manifest's time is over."""
    return now >= manifest.expires_at


def _verify_with_any(run_keys: Sequence[PublicKey], signed: SignedManifest) -> None:
    for key in run_keys:
        try:
            key.verify(PURPOSE, {"digest": signed.digest}, signed.signature)
        except TrustError:
            continue
        return
    raise TrustError("the manifest is not signed by the run key that this site has pinned.")
