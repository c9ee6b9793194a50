"""Makes what a federation needs: authority, server certificate, run key and a kit per site.

Nothing that stands is made anew: running it again for one more site adds that site's kit alone.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from common.errors import ConfigError, TrustError
from common.files.whole_file import sync_folder, write_whole
from common.messages.certificates import (
    certificate_fingerprint,
    certificate_names,
    line_fingerprint,
    read_authorities,
    read_certificates,
)
from common.messages.signing import PrivateKey, public_key, read_private_key, write_secret
from server.operations.authority import new_authority, new_server, read_identity
from server.operations.federation_file import Federation, federation_text, read_federation
from server.operations.home import CoordinatorHome
from server.operations.kit import Pins, differing_files, kit_files, read_policy_template
from server.operations.replacement import settle

_HEADER = """\
# Written by `fovea provision`, which replaces it: change the file it was made from.
"""


@dataclass(frozen=True)
class Provisioned:
    """What there is now, and what of it was made this time."""

    made: tuple[str, ...]  # "authority", "server certificate", "run key", "kit of NAME"
    kits: Path
    outdated_kits: tuple[str, ...]  # sites whose kits were made from other values
    authority_fingerprint: str
    run_key_fingerprint: str
    authority_expires: datetime
    certificate_expires: datetime


def provision(federation: Federation, home: CoordinatorHome, *, now: datetime) -> Provisioned:
    """Make what is missing; each piece is there whole or not at all, also after a crash.

    Raises:
        ConfigError: The folder is of another federation, the endpoint or the certificate's names
            have changed (they need renewing), or the policy for the kits cannot be read.
        TrustError: Something that stands is damaged; it is never made anew.
    """
    policy = read_policy_template(federation.policy)
    home.root.mkdir(parents=True, exist_ok=True, mode=0o700)
    settle(home)
    _check_nothing_lost(home)
    _check_same_federation(federation, home)
    _check_names(federation, home)
    made = []
    if _is_missing(home.authority_key.parent):
        _make_authority(federation, home, now=now)
        made.append("authority")
    if _is_missing(home.server_key.parent):
        _make_server(federation, home, now=now)
        made.append("server certificate")
    if _is_missing(home.run_key.parent):
        _make_run_key(home)
        made.append("run key")
    pins = read_pins(home)
    home.kits.mkdir(exist_ok=True)
    for site in federation.sites:
        if _is_missing(home.kits / site.name):
            files = kit_files(federation, site, pins=pins, policy=policy)
            with _whole_folder(home.kits / site.name, mode=0o755) as folder:
                for name, content in files.items():
                    write_whole(folder / name, content)
            made.append(f"kit of {site.name}")
    keep_federation(federation, home)
    server = read_identity(home.server_key, home.server_certificate).certificate
    return Provisioned(
        made=tuple(made),
        kits=home.kits,
        outdated_kits=_outdated_kits(federation, home, pins=pins, policy=policy),
        authority_fingerprint=certificate_fingerprint(pins.authorities[0]),
        run_key_fingerprint=line_fingerprint(pins.run_keys[0]),
        authority_expires=pins.authorities[0].not_valid_after_utc,
        certificate_expires=server.not_valid_after_utc,
    )


def read_pins(home: CoordinatorHome) -> Pins:
    """Return what sites pin, checked against the private keys. Raises TrustError."""
    read_identity(home.authority_key, home.authority)
    current = read_private_key(home.run_key).public.text
    try:
        lines = tuple(home.run_keys.read_text(encoding="ascii").split())
    except (OSError, UnicodeDecodeError) as error:
        raise TrustError(f"{home.run_keys}: the public run keys cannot be read.") from error
    if not lines or lines[0] != current:
        raise TrustError(
            f"{home.run_keys}: does not begin with the public half of {home.run_key}. Restore both "
            "from one backup."
        )
    return Pins(read_authorities(home.authority), tuple(public_key(line).text for line in lines))


def keep_federation(federation: Federation, home: CoordinatorHome) -> None:
    """Keep the federation beside what was made from it, if it is not as kept already."""
    text = (_HEADER + federation_text(federation)).encode()
    path = home.federation_file
    if not path.is_file() or read_federation(path) != federation:
        write_whole(path, text)


def _make_authority(federation: Federation, home: CoordinatorHome, *, now: datetime) -> None:
    authority = new_authority(federation.name, days=federation.authority_days, now=now)
    with _whole_folder(home.authority_key.parent, mode=0o700) as folder:
        write_secret(folder / home.authority_key.name, authority.key_pem)
        write_whole(folder / home.authority.name, authority.certificate_pem)


def _make_server(federation: Federation, home: CoordinatorHome, *, now: datetime) -> None:
    authority = read_identity(home.authority_key, home.authority)
    server = new_server(
        authority, federation.certificate_names, days=federation.certificate_days, now=now
    )
    with _whole_folder(home.server_key.parent, mode=0o700) as folder:
        write_secret(folder / home.server_key.name, server.key_pem)
        write_whole(folder / home.server_certificate.name, server.certificate_pem)


def _make_run_key(home: CoordinatorHome) -> None:
    key = PrivateKey.new()
    with _whole_folder(home.run_key.parent, mode=0o700) as folder:
        key.write(folder / home.run_key.name)
        write_whole(folder / home.run_keys.name, f"{key.public.text}\n".encode())


def _is_missing(folder: Path) -> bool:
    return not folder.is_dir() or not any(folder.iterdir())


@contextmanager
def _whole_folder(folder: Path, *, mode: int) -> Iterator[Path]:
    """Give a folder to fill, which takes its name only when all of it is there and durable."""
    staging = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        yield staging
        staging.chmod(mode)
        sync_folder(staging)
        staging.rename(folder)  # over an empty folder, too
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    sync_folder(folder.parent)


def _check_nothing_lost(home: CoordinatorHome) -> None:
    # Made in this order: an earlier one that is missing was there once, and sites depend on it.
    folders = (home.authority_key.parent, home.server_key.parent, home.run_key.parent, home.kits)
    missing = [_is_missing(folder) for folder in folders]
    for place, folder in enumerate(folders):
        if missing[place] and not all(missing[place:]):
            raise TrustError(
                f"{folder}: is gone, and sites depend on what it held. Restore it from the backup, "
                "or start a new federation in another folder."
            )


def _check_same_federation(federation: Federation, home: CoordinatorHome) -> None:
    if not home.federation_file.is_file():
        return
    kept = read_federation(home.federation_file).name
    if kept != federation.name:
        raise ConfigError(
            f"{home.root}: holds the federation {kept!r}, not {federation.name!r}. Give another "
            "folder with --out."
        )


def _check_names(federation: Federation, home: CoordinatorHome) -> None:
    if _is_missing(home.server_key.parent):
        return
    names = certificate_names(read_certificates(home.server_certificate)[0])
    if set(names) != set(federation.certificate_names):
        raise ConfigError(
            f"the server's certificate is for {', '.join(names)}, the federation asks for "
            f"{', '.join(federation.certificate_names)}. Make a new one, and new kits, with "
            "`fovea renew server`."
        )


def _outdated_kits(
    federation: Federation, home: CoordinatorHome, *, pins: Pins, policy: str
) -> tuple[str, ...]:
    return tuple(
        site.name
        for site in federation.sites
        if differing_files(
            home.kits / site.name, kit_files(federation, site, pins=pins, policy=policy)
        )
    )
