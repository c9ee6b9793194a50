"""What a site holds on to: the authority of the coordinator's certificate, and its run keys.

A kit changes them only here, where the former ones stay under a dated name and a person has
compared fingerprints before.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from client.home.connector_file import ConnectorSettings, read_connector
from client.home.folders import SiteHome
from client.home.ownership import as_owner
from common.errors import ConfigError, TrustError
from common.files.whole_file import read_plain, write_whole
from common.messages.certificates import certificate_fingerprint, line_fingerprint, read_authorities
from common.messages.signing import public_key, write_secret

AUTHORITY = "ca.crt"  # of a kit
RUN_KEYS = "run-keys.pub"
MAX_PINS = 2  # the current one, and while it is renewed the former
MAX_FILE_BYTES = 2**20  # of a file of pins

_COORDINATOR_LINE = re.compile(r"^coordinator:[ \t]*\S+", re.MULTILINE)


@dataclass(frozen=True)
class Pins:
    """Authorities and run keys, the current ones first."""

    authorities: tuple[x509.Certificate, ...]
    run_keys: tuple[str, ...]  # public lines

    @property
    def authority_fingerprints(self) -> tuple[str, ...]:
        """For a call by telephone, as ``openssl x509 -fingerprint -sha256`` shows them."""
        return tuple(certificate_fingerprint(one) for one in self.authorities)

    @property
    def run_key_fingerprints(self) -> tuple[str, ...]:
        """Likewise, as ``sha256sum`` shows a file with the one line."""
        return tuple(line_fingerprint(line) for line in self.run_keys)

    @property
    def authorities_pem(self) -> bytes:
        """The authorities as a file's content."""
        return b"".join(one.public_bytes(Encoding.PEM) for one in self.authorities)

    @property
    def run_keys_text(self) -> bytes:
        """The run keys as a file's content."""
        return "".join(f"{line}\n" for line in self.run_keys).encode()


@dataclass(frozen=True)
class PinChanges:
    """What a kit would change at a site; fingerprints of what comes and goes."""

    new_authorities: tuple[str, ...]
    dropped_authorities: tuple[str, ...]
    new_run_keys: tuple[str, ...]
    dropped_run_keys: tuple[str, ...]
    coordinator: tuple[str, str] | None  # the former and the new address, None where the same
    continues: bool  # one authority and one run key are pinned already: the same coordinator's

    @property
    def is_empty(self) -> bool:
        """Say whether everything is as it would be."""
        lists = (self.new_authorities, self.dropped_authorities, self.new_run_keys)
        return not any((*lists, self.dropped_run_keys)) and self.coordinator is None


def read_pins(home: SiteHome) -> Pins:
    """Return what this site has pinned. Raises TrustError when it is missing or damaged."""
    with as_owner(home.connector):
        _check_plain(home.certificate_authority)
        authorities = read_authorities(home.certificate_authority)
    with as_owner(home.trainer):
        return Pins(authorities, _read_run_keys(home.run_keys))


def read_kit_pins(kit: Path, *, now: datetime) -> Pins:
    """Return what a kit asks to pin. Raises TrustError where it is damaged or not valid now."""
    pins = Pins(read_authorities(kit / AUTHORITY), _read_run_keys(kit / RUN_KEYS))
    if len(pins.authorities) > MAX_PINS:
        raise TrustError(f"{kit / AUTHORITY}: more than {MAX_PINS} authorities. Ask for a new kit.")
    begins, ends = pins.authorities[0].not_valid_before_utc, pins.authorities[0].not_valid_after_utc
    if not begins <= now <= ends:
        raise TrustError(
            f"{kit / AUTHORITY}: valid from {begins:%Y-%m-%d %H:%M} to {ends:%Y-%m-%d %H:%M} UTC, "
            f"here it is {now:%Y-%m-%d %H:%M %Z}. "
            "Correct this machine's clock, or ask for a new kit."
        )
    return pins


def check_same_pins(home: SiteHome, kit: Pins) -> None:
    """Raise TrustError where the site's folder holds other pins than a kit."""
    for path, content in (
        (home.certificate_authority, kit.authorities_pem),
        (home.run_keys, kit.run_keys_text),
    ):
        with as_owner(path.parent):
            differs = path.exists() and _normal(path) != content
        if differs:
            raise TrustError(
                f"{path}: differs from the kit's. Compare fingerprints with the coordinator by "
                "telephone, then take the new ones with `fovea-site update-pins KIT`."
            )


def pin_changes(home: SiteHome, kit: Path, *, now: datetime) -> PinChanges:
    """Return what a new kit would change, for a person to compare. Changes nothing.

    Raises ConfigError for another site's kit, TrustError for one that is damaged or expired.
    """
    present, offered = read_pins(home), read_kit_pins(kit, now=now)
    here, there = _connectors(home, kit)
    return PinChanges(
        new_authorities=_beyond(offered.authority_fingerprints, present.authority_fingerprints),
        dropped_authorities=_beyond(present.authority_fingerprints, offered.authority_fingerprints),
        new_run_keys=_beyond(offered.run_key_fingerprints, present.run_key_fingerprints),
        dropped_run_keys=_beyond(present.run_key_fingerprints, offered.run_key_fingerprints),
        coordinator=None
        if here.coordinator == there.coordinator
        else (here.coordinator, there.coordinator),
        continues=bool(
            set(offered.authority_fingerprints) & set(present.authority_fingerprints)
            and set(offered.run_key_fingerprints) & set(present.run_key_fingerprints)
        ),
    )


def update_pins(home: SiteHome, kit: Path, *, now: datetime) -> PinChanges:
    """Pin what a kit says, and return what has changed; both processes must be restarted then.

    Call it only after a person has compared the fingerprints of :func:`pin_changes` by telephone.
    Former files stay as ``*.old-<date>``, owners stay, nothing else is touched. Root writes in
    each half's folder as the owner of that folder. Raises as :func:`pin_changes`, and ConfigError
    when this user may not write both folders.
    """
    changes = pin_changes(home, kit, now=now)
    if changes.is_empty:
        return changes
    offered = read_kit_pins(kit, now=now)
    _, there = _connectors(home, kit)
    with as_owner(home.connector):
        text = home.connector_file.read_text(encoding="utf-8")
    moved = _COORDINATOR_LINE.sub(f"coordinator: {there.coordinator}", text)
    for path, content in (
        (home.certificate_authority, offered.authorities_pem),
        (home.run_keys, offered.run_keys_text),
        (home.connector_file, moved.encode()),
    ):
        _replace(path, content, now)
    return changes


def _connectors(home: SiteHome, kit: Path) -> tuple[ConnectorSettings, ConnectorSettings]:
    there = read_connector(kit / "connector.yaml")
    with as_owner(home.connector):
        _check_plain(home.connector_file)
        here = read_connector(home.connector_file)
    if (here.site, here.federation) != (there.site, there.federation):
        raise ConfigError(
            f"{kit}: is the kit of site {there.site!r} of federation {there.federation!r}, this is "
            f"{here.site!r} of {here.federation!r}. Use the kit of this site."
        )
    return here, there


def _read_run_keys(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError) as error:
        raise TrustError(f"{path}: the run keys cannot be read ({error}).") from error
    if not 1 <= len(lines) <= MAX_PINS:
        raise TrustError(
            f"{path}: expected one public run key per line, at most {MAX_PINS}, got {len(lines)}. "
            "Ask the coordinator for a new kit."
        )
    return tuple(public_key(line).text for line in lines)


def _check_plain(path: Path) -> None:
    # A pipe in the connector's folder would hold up whoever reads it for ever.
    try:
        read_plain(path, at_most=MAX_FILE_BYTES)
    except OSError as error:
        raise TrustError(f"{path}: cannot be read ({error.strerror}).") from error


def _normal(path: Path) -> bytes:
    return path.read_bytes().replace(b"\r\n", b"\n")


def _beyond(ones: tuple[str, ...], others: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(one for one in ones if one not in others)


def _replace(path: Path, content: bytes, now: datetime) -> None:
    try:
        # In the connector's folder anything may lie, and be exchanged at any moment.
        with as_owner(path.parent):
            former = read_plain(path, at_most=MAX_FILE_BYTES)
            if former != content:
                write_secret(_unused(path, f"{path.name}.old-{now:%Y-%m-%d}"), former)
                write_whole(path, content, mode=0o600)
    except PermissionError as error:
        raise ConfigError(
            f"{path}: cannot be replaced by this user. Run `sudo fovea-site update-pins`; the file "
            "must belong to the owner of its folder."
        ) from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be replaced ({error.strerror}).") from error


def _unused(path: Path, name: str) -> Path:
    number = 1
    kept = path.with_name(name)
    while kept.exists():
        number += 1
        kept = path.with_name(f"{name}-{number}")
    return kept
