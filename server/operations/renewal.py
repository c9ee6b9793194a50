"""Renews certificates and keys of a running federation; what is replaced stays under a dated name.

Sites change over one by one, so authority and run key have a time in which the former one counts
beside the new: kits carry both until the coordinator ends it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from common.errors import ConfigError
from common.files.whole_file import write_whole
from common.messages.certificates import (
    certificate_fingerprint,
    line_fingerprint,
    read_certificates,
)
from common.messages.signing import PrivateKey
from server.operations.authority import (
    Identity,
    new_authority,
    new_server,
    read_identity,
    was_issued_by,
)
from server.operations.federation_file import Federation
from server.operations.home import CoordinatorHome
from server.operations.kit import Pins, differing_files, kit_files, read_policy_template
from server.operations.provision import keep_federation, read_pins
from server.operations.replacement import PUBLIC, SECRET, replace_together, settle


@dataclass(frozen=True)
class Renewed:
    """What was made, where the former lies, and what sites must do."""

    fingerprint: str | None  # of the new certificate or run key; None: nothing new was made
    expires: datetime | None  # of a new certificate
    kept: tuple[Path, ...]  # former files, mode 0600
    kits: tuple[str, ...]  # sites whose kits have changed: they run `fovea-site update-pins`


def renew_server_certificate(
    federation: Federation, home: CoordinatorHome, *, sites_updated: bool, now: datetime
) -> Renewed:
    """Make the server a new key and certificate, by the current authority; sites need do nothing.

    Args:
        federation: As it shall be from now on: endpoint and names may have changed.
        home: The coordinator's folder.
        sites_updated: Every site has pinned the current authority. Asked for only after
            :func:`renew_authority`, for sites with the former alone could not connect any more.
        now: The moment the certificate begins.
    """
    settle(home)
    pins = read_pins(home)
    present = read_certificates(home.server_certificate)[0]
    if not sites_updated and not was_issued_by(present, pins.authorities[0]):
        raise ConfigError(
            "the authority was renewed: a certificate of the new one shuts out every site that has "
            "not run `fovea-site update-pins` with its new kit. Give --sites-updated when all have."
        )
    server = new_server(
        read_identity(home.authority_key, home.authority),
        federation.certificate_names,
        days=federation.certificate_days,
        now=now,
    )
    kept = replace_together(
        {
            home.server_key: (server.key_pem, SECRET),
            home.server_certificate: (server.certificate_pem, PUBLIC),
        },
        now=now,
    )
    return _renewed(federation, home, identity=server, kept=kept)


def renew_authority(federation: Federation, home: CoordinatorHome, *, now: datetime) -> Renewed:
    """Make a new authority that counts beside the former; the server keeps its certificate.

    Then sites pin both (``fovea-site update-pins``), the server gets a certificate of the new one
    (:func:`renew_server_certificate`), and the former is dropped (:func:`drop_former_authority`).
    """
    settle(home)
    former = read_pins(home).authorities
    if len(former) > 1:
        raise ConfigError(
            "an authority is being renewed already. End that first: `fovea renew server "
            "--sites-updated`, then `fovea renew drop-authority`."
        )
    authority = new_authority(federation.name, days=federation.authority_days, now=now)
    both = Pins((authority.certificate, *former), ()).authorities_pem
    kept = replace_together(
        {home.authority_key: (authority.key_pem, SECRET), home.authority: (both, PUBLIC)}, now=now
    )
    return _renewed(federation, home, identity=authority, kept=kept)


def drop_former_authority(
    federation: Federation, home: CoordinatorHome, *, now: datetime
) -> Renewed:
    """End the time of two authorities. Raises ConfigError while the server needs the former."""
    settle(home)
    current = read_pins(home).authorities[0]
    present = read_certificates(home.server_certificate)[0]
    if not was_issued_by(present, current):
        raise ConfigError(
            "the server's certificate is still the former authority's. Make a new one first: "
            "`fovea renew server --sites-updated`."
        )
    alone = Pins((current,), ()).authorities_pem
    kept = replace_together({home.authority: (alone, PUBLIC)}, now=now)
    return _renewed(federation, home, identity=None, kept=kept)


def renew_run_key(
    federation: Federation, home: CoordinatorHome, *, keep_former: bool, now: datetime
) -> Renewed:
    """Make a new run key; from now on it signs, and a site obeys it when it has its new kit.

    Args:
        federation: The federation.
        home: The coordinator's folder.
        keep_former: Kits carry the former key too, so that runs it has signed can be resumed. Give
            False when it may have been stolen: sites that update refuse it at once.
        now: The date in the former file's name.
    """
    settle(home)
    former = read_pins(home).run_keys[:1]
    key = PrivateKey.new()
    lines = Pins((), (key.public.text, *(former if keep_former else ()))).run_keys_text
    kept = replace_together(
        {home.run_key: (key.pem, SECRET), home.run_keys: (lines, PUBLIC)}, now=now
    )
    renewed = _renewed(federation, home, identity=None, kept=kept)
    return Renewed(line_fingerprint(key.public.text), None, kept, renewed.kits)


def drop_former_run_key(federation: Federation, home: CoordinatorHome, *, now: datetime) -> Renewed:
    """End the time of two run keys: kits carry the current one alone."""
    settle(home)
    current = read_pins(home).run_keys[:1]
    kept = replace_together({home.run_keys: (Pins((), current).run_keys_text, PUBLIC)}, now=now)
    return _renewed(federation, home, identity=None, kept=kept)


def renew_kits(federation: Federation, home: CoordinatorHome) -> tuple[str, ...]:
    """Write the kits as the federation is now, and return the sites whose kits have changed."""
    policy = read_policy_template(federation.policy)
    pins = read_pins(home)
    changed = []
    for site in federation.sites:
        folder = home.kits / site.name
        files = kit_files(federation, site, pins=pins, policy=policy)
        differing = differing_files(folder, files)
        folder.mkdir(parents=True, exist_ok=True)
        for name in differing:
            write_whole(folder / name, files[name])
        if differing:
            changed.append(site.name)
    keep_federation(federation, home)
    return tuple(changed)


def _renewed(
    federation: Federation,
    home: CoordinatorHome,
    *,
    identity: Identity | None,
    kept: Sequence[Path],
) -> Renewed:
    kits = renew_kits(federation, home)
    if identity is None:
        return Renewed(None, None, tuple(kept), kits)
    certificate = identity.certificate
    return Renewed(
        certificate_fingerprint(certificate), certificate.not_valid_after_utc, tuple(kept), kits
    )
