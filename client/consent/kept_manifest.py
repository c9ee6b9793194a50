"""A manifest that a site has received, and what a person or the standing rule decided on it."""

from datetime import datetime
from typing import Literal

from pydantic import AwareDatetime, ValidationError

from client.consent.policy import Decision
from common.config.run import Section
from common.errors import WireError
from common.messages.manifest import Manifest, SignedManifest


class Kept(Section):
    """A manifest, and what was decided on it."""

    version: Literal[1]
    state: Decision
    run: str
    federation: str
    first_seen: AwareDatetime
    expires_at: AwareDatetime
    decided_at: AwareDatetime | None
    decided_by: str | None
    by_rule: bool  # approved by the policy's standing rule, not by a person
    manifest_json: str
    signature: str

    @property
    def signed(self) -> SignedManifest:
        """The manifest as it came."""
        return SignedManifest(self.manifest_json, self.signature)

    @property
    def digest(self) -> str:
        """What names it."""
        return self.signed.digest

    def manifest(self) -> Manifest:
        """Return the manifest. Raises WireError when another version of Fovea kept it."""
        try:
            return Manifest.model_validate_json(self.manifest_json)
        except ValidationError as error:
            raise WireError(
                f"run {self.run}: its manifest is of another version of Fovea and cannot be read."
            ) from error


def newly_seen(signed: SignedManifest, manifest: Manifest, now: datetime) -> Kept:
    """Return a manifest on which nothing has been decided."""
    return Kept(
        version=1,
        state="waiting",
        run=manifest.run,
        federation=manifest.federation,
        first_seen=now,
        expires_at=manifest.expires_at,
        decided_at=None,
        decided_by=None,
        by_rule=False,
        manifest_json=signed.manifest_json,
        signature=signed.signature,
    )
