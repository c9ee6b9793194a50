"""Which sites have been admitted, with which keys: a small file each, so that none touches another.

A site's keys are checked here, then made known to Flower. The file is written first: after a crash
in between, admitting again goes on.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_ssh_public_key,
)
from pydantic import AwareDatetime, ValidationError

from common.config.run import Section
from common.errors import ConfigError, TrustError
from common.files.whole_file import write_whole
from common.messages.admission import Admission
from common.messages.signing import public_key
from common.registry import unknown_name
from server.operations.federation_file import read_federation
from server.operations.home import CoordinatorHome


class AdmittedSite(Section):
    """A site whose keys a person at the coordinator has accepted."""

    site: str
    task: str
    node_key: str  # public, an OpenSSH line without comment: who may connect
    signing_key: str  # public, ed25519:…: who signs the site's answers
    node_id: int | None  # Flower's; None: not known to Flower yet, or no more
    admitted_at: AwareDatetime
    retired_at: AwareDatetime | None  # None: it may take part


class NodeRegistry(Protocol):
    """Flower's list of nodes that may connect."""

    def register(self, public_key: bytes, name: str) -> int:
        """Let the node with this key (an OpenSSH line) connect, and return its id.

        A key that is registered already keeps its id, which is returned.
        """
        ...

    def unregister(self, node_id: int) -> None:
        """Let this node connect no more; one that is gone already is no error."""
        ...


def read_admitted(home: CoordinatorHome) -> dict[str, AdmittedSite]:
    """Return every site ever admitted, the retired ones too, by name.

    Raises TrustError for a file that is damaged or not of the site it is named after.
    """
    return {path.stem: _read(path) for path in sorted(home.admitted.glob("[a-z0-9]*.json"))}


def admit(
    home: CoordinatorHome, admission: Admission, control: NodeRegistry, now: datetime
) -> AdmittedSite:
    """Let a site take part; the same keys again change nothing but finish what was interrupted.

    Raises:
        ConfigError: The federation does not list the site with this task, or the site is admitted
            with other keys.
        TrustError: A key is of the wrong kind, belongs to another site or was retired.
    """
    federation = read_federation(home.federation_file)
    if admission.federation != federation.name:
        raise ConfigError(
            f"the admission is for federation {admission.federation!r}, this is "
            f"{federation.name!r}. Ask the site which kit it used."
        )
    task = federation.site(admission.site).task
    if admission.task != task:
        raise ConfigError(
            f"site {admission.site} asks to be admitted for task {admission.task}, federation.yaml "
            f"says {task}. Correct one of them."
        )
    node_key = checked_node_key(admission.node_key)
    signing_key = public_key(admission.signing_key).text  # base64 has several texts for one key
    with _alone(home):
        admitted = read_admitted(home)
        _check_keys_are_free(admission.site, (node_key, signing_key), admitted, home)
        present = admitted.get(admission.site)
        if present is not None and present.retired_at is None:
            _check_same_keys(present, node_key=node_key, signing_key=signing_key)
        else:
            if present is not None:
                _put_aside(home, present)
            present = AdmittedSite(
                site=admission.site,
                task=task,
                node_key=node_key,
                signing_key=signing_key,
                node_id=None,
                admitted_at=now,
                retired_at=None,
            )
            _write(home, present)
        return _registered(home, present, control)


def register_again(home: CoordinatorHome, control: NodeRegistry) -> tuple[AdmittedSite, ...]:
    """Make Flower know every admitted site and no retired one, as after its database was lost.

    Returns the sites whose node has another id than before.
    """
    with _alone(home):
        before = read_admitted(home)
        after = [
            _registered(home, site.model_copy(update={"node_id": None}), control)
            if site.retired_at is None
            else _unregistered(home, site, control)
            for site in before.values()
        ]
    return tuple(site for site in after if site != before[site.site])


def retire(
    home: CoordinatorHome, site: str, *, control: NodeRegistry, now: datetime
) -> AdmittedSite:
    """Let a site take part no more: at once in new runs, then in Flower. Others are not touched.

    Raises ConfigError when it was never admitted. Once more is no error, and tries Flower again.
    """
    with _alone(home):
        admitted = read_admitted(home)
        if site not in admitted:
            raise ConfigError(unknown_name("site", site, admitted) + " These were admitted.")
        present = admitted[site]
        if present.retired_at is None:
            # An interrupted admission may have reached Flower without our knowing the node's id.
            present = _registered(home, present, control)
            present = present.model_copy(update={"retired_at": now})
            _write(home, present)
        return _unregistered(home, present, control)


def checked_node_key(line: str) -> str:
    """Return an OpenSSH line without its comment. Raises TrustError unless it is ECDSA P-384."""
    try:
        key = load_ssh_public_key(line.strip().encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise TrustError(
            "node_key: not a public key in OpenSSH format. Ask the site for the admission.json of "
            "`fovea-site init`."
        ) from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise TrustError("node_key: expected ECDSA P-384, as `fovea-site init` makes it.")
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def _registered(home: CoordinatorHome, site: AdmittedSite, control: NodeRegistry) -> AdmittedSite:
    if site.node_id is not None:
        return site
    node_id = control.register(site.node_key.encode(), site.site)
    known = site.model_copy(update={"node_id": node_id})
    _write(home, known)
    return known


def _unregistered(home: CoordinatorHome, site: AdmittedSite, control: NodeRegistry) -> AdmittedSite:
    if site.node_id is None:
        return site
    control.unregister(site.node_id)
    gone = site.model_copy(update={"node_id": None})
    _write(home, gone)
    return gone


def _check_same_keys(present: AdmittedSite, *, node_key: str, signing_key: str) -> None:
    if (present.node_key, public_key(present.signing_key).text) != (node_key, signing_key):
        raise ConfigError(
            f"site {present.site} is admitted with other keys. If it has made new ones, and has "
            f"said so by telephone: `fovea retire {present.site}`, then admit it again."
        )


def _check_keys_are_free(
    site: str, keys: tuple[str, str], admitted: dict[str, AdmittedSite], home: CoordinatorHome
) -> None:
    former = [_read(path) for path in sorted(home.admitted.glob("*.retired-*"))]
    for other in (*admitted.values(), *former):
        if not {other.node_key, public_key(other.signing_key).text} & set(keys):
            continue
        if other.retired_at is not None:
            raise TrustError(
                f"a key of this admission was retired with site {other.site} on "
                f"{other.retired_at:%Y-%m-%d} and is never admitted again. The site moves "
                "connector/node.key, trainer/signing.key and admission.json away, runs "
                "`fovea-site init` and sends the new admission.json."
            )
        if other.site != site:
            raise TrustError(
                f"a key of this admission is site {other.site}'s. Every site makes its own with "
                "`fovea-site init`; a site's folder is never copied."
            )


def _file(home: CoordinatorHome, site: str) -> Path:
    return home.admitted / f"{site}.json"


def _write(home: CoordinatorHome, site: AdmittedSite) -> None:
    content = site.model_dump_json(indent=1).encode() + b"\n"
    write_whole(_file(home, site.site), content, mode=0o600)


def _read(path: Path) -> AdmittedSite:
    try:
        site = AdmittedSite.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise TrustError(f"{path}: is damaged. Restore it from the backup.") from error
    if path.name.partition(".")[0] != site.site:
        raise TrustError(f"{path}: holds site {site.site}. Restore it from the backup.")
    return site


def _put_aside(home: CoordinatorHome, site: AdmittedSite) -> None:
    # The site is admitted anew; what was retired stays known, so that its keys stay shut out.
    write_whole(
        home.admitted / f"{site.site}.retired-{site.retired_at:%Y%m%dT%H%M%S}",
        site.model_dump_json(indent=1).encode() + b"\n",
        mode=0o600,
    )


@contextmanager
def _alone(home: CoordinatorHome) -> Iterator[None]:
    """Let one process at a time change who is admitted."""
    home.admitted.mkdir(exist_ok=True, mode=0o700)
    handle = os.open(home.admitted / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
