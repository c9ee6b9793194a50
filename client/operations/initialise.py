"""``fovea-site init``: makes a site's folder from the coordinator's kit, and the site's own keys.

Only what is missing is made, so that an interrupted try can be repeated; a key, a pin or a file
that somebody may have edited is never overwritten. New pins come in through client/trust/pins.py.
"""

import os
import pwd
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from client.home.connector_file import ConnectorSettings, read_connector
from client.home.folders import SiteHome
from client.home.node_key import make_node_key, public_line, read_node_key
from client.home.ownership import Owner, as_owner, give, owner_of
from client.trust.pins import AUTHORITY, RUN_KEYS, check_same_pins, read_kit_pins
from common.errors import ConfigError
from common.files.whole_file import sync_folder, write_whole
from common.files.yaml_file import read_yaml
from common.messages.admission import Admission, write_admission
from common.messages.signing import PrivateKey, read_private_key

MAX_SOCKET_PATH_BYTES = 107  # Linux: sun_path holds 108 with the final zero
_SHARED_FOLDER = 0o3770  # files get the folder's group; nobody removes another user's


@dataclass(frozen=True)
class Owners:
    """The users of the two processes; both may be one."""

    trainer: str
    connector: str


def initialise(
    home: SiteHome,
    kit: Path,
    *,
    trainer_user: str | None = None,
    connector_user: str | None = None,
    now: datetime,
) -> Admission:
    """Make the site's folder and keys, and return what the coordinator must be sent.

    Args:
        home: The site's folder, which may be there in part.
        kit: Folder that the coordinator has sent.
        trainer_user: Owner of the pictures' side; None: whoever runs this. Needs root.
        connector_user: Owner of the network's side, given with the other or not at all.
        now: The moment at which the kit's certificates must be valid.

    Raises:
        ConfigError: The kit is incomplete, the folder is another site's or is complete already, or
            the owners cannot be given.
        TrustError: A pin or key is damaged, or differs from the one that this folder holds.
    """
    owners = _owners(trainer_user, connector_user)
    connector = _read_kit(kit)
    task = _task(kit / "site.yaml", connector)
    pins = read_kit_pins(kit, now=now)
    with as_owner(home.trainer):
        if home.site_file.exists():
            task = _task(home.site_file, connector)
    _check_home(home, connector)
    check_same_pins(home, pins)
    copies = {
        home.site_file: (kit / "site.yaml").read_bytes(),
        home.policy_file: (kit / "policy.yaml").read_bytes(),
        home.run_keys: pins.run_keys_text,
        home.connector_file: (kit / "connector.yaml").read_bytes(),
        home.certificate_authority: pins.authorities_pem,
    }
    _make_folders(home)
    for path, content in copies.items():
        # Where it is there already, its owner may be another and must not lead root astray.
        with as_owner(path.parent):
            if not path.exists():
                write_whole(path, content, mode=0o600)
    admission = _admission(home, connector, task)
    if owners is not None:
        _give_all(home, owners)
    with as_owner(home.root):
        sync_folder(home.root)
        # Last, because where it stands everything else does.
        write_admission(home.admission, admission)
    return admission


def _owners(trainer_user: str | None, connector_user: str | None) -> Owners | None:
    if trainer_user is None and connector_user is None:
        return None
    if trainer_user is None or connector_user is None:
        raise ConfigError("give both --trainer-user and --connector-user, or neither.")
    if os.geteuid() != 0:
        raise ConfigError(
            "only root can give files to other users: run `sudo fovea-site init …`, or leave "
            "--trainer-user and --connector-user away on a workstation."
        )
    for user in (trainer_user, connector_user):
        _check_user(user)
    return Owners(trainer_user, connector_user)


def _read_kit(kit: Path) -> ConnectorSettings:
    names = ("connector.yaml", "site.yaml", "policy.yaml", AUTHORITY, RUN_KEYS)
    missing = [name for name in names if not (kit / name).is_file()]
    if missing:
        raise ConfigError(
            f"{kit}: lacks {', '.join(missing)}. Give the folder that the coordinator has sent, "
            "whole."
        )
    return read_connector(kit / "connector.yaml")


def _task(site_file: Path, connector: ConnectorSettings) -> str:
    values = read_yaml(site_file)
    for key, expected in (("name", connector.site), ("federation", connector.federation)):
        if values.get(key) != expected:
            raise ConfigError(
                f"{site_file}: {key} is {values.get(key)!r}, the kit is for {expected!r}. Use the "
                "kit of this site."
            )
    task = values.get("task")
    if not isinstance(task, str):
        raise ConfigError(f"{site_file}: task: expected a name, got {task!r}.")
    return task


def _check_home(home: SiteHome, connector: ConnectorSettings) -> None:
    if len(os.fsencode(home.socket.absolute())) > MAX_SOCKET_PATH_BYTES:
        raise ConfigError(
            f"{home.root.absolute()}: too long for a Unix socket below it (at most "
            f"{MAX_SOCKET_PATH_BYTES} bytes in all). Give a shorter --home."
        )
    if home.connector_file.exists():
        with as_owner(home.connector):
            present = read_connector(home.connector_file)
        if (present.site, present.federation) != (connector.site, connector.federation):
            raise ConfigError(
                f"{home.root}: is site {present.site!r} of federation {present.federation!r}. Give "
                "another --home."
            )
    if home.admission.exists() and all(path.exists() for path in _pieces(home)):
        raise ConfigError(
            f"{home.root}: is initialised already; nothing was changed. Take a new kit with "
            "`fovea-site update-pins KIT`; send the coordinator admission.json."
        )


def _pieces(home: SiteHome) -> tuple[Path, ...]:
    return (
        home.site_file,
        home.policy_file,
        home.run_keys,
        home.signing_key,
        home.connector_file,
        home.certificate_authority,
        home.node_key,
    )


def _make_folders(home: SiteHome) -> None:
    with as_owner(home.root):
        home.root.mkdir(parents=True, exist_ok=True)
    for folder, mode in (
        (home.root, 0o755),
        (home.trainer, 0o700),
        (home.state, 0o700),
        (home.audit_log.parent, 0o700),
        (home.connector, 0o700),
        (home.run, _SHARED_FOLDER),
    ):
        with as_owner(folder):
            folder.mkdir(exist_ok=True)
            _set_mode(folder, mode)


def _admission(home: SiteHome, connector: ConnectorSettings, task: str) -> Admission:
    with as_owner(home.trainer):
        if home.signing_key.exists():
            signing_key = read_private_key(home.signing_key)
        else:
            signing_key = PrivateKey.new()
            signing_key.write(home.signing_key)
    with as_owner(home.connector):
        is_new = not home.node_key.exists()
        node_key = make_node_key(home.node_key) if is_new else read_node_key(home.node_key)
    return Admission(
        version=1,
        federation=connector.federation,
        site=connector.site,
        task=task,
        node_key=public_line(node_key),
        signing_key=signing_key.public.text,
    )


def _check_user(user: str) -> None:
    try:
        pwd.getpwnam(user)
    except KeyError as error:
        raise ConfigError(
            f"user {user!r} does not exist: make it first (deploy/README.md says how)."
        ) from error


def _give_all(home: SiteHome, owners: Owners) -> None:
    trainer, connector = pwd.getpwnam(owners.trainer), pwd.getpwnam(owners.connector)
    _give_half(home, home.trainer, Owner(trainer.pw_uid, trainer.pw_gid))
    _give_half(home, home.connector, Owner(connector.pw_uid, connector.pw_gid))
    # The socket gets the folder's group, so that the connector may speak to it and nobody else.
    with _ours(home, home.run, trainer.pw_uid) as run:
        os.fchown(run, trainer.pw_uid, connector.pw_gid)
        os.fchmod(run, _SHARED_FOLDER)  # a change of owner takes the group bit away


def _give_half(home: SiteHome, half: Path, owner: Owner) -> None:
    with _ours(home, half, owner.user) as folder:
        if os.fstat(folder).st_uid == owner.user:
            return  # and all that was made in it just now was made as its owner
        # Shut while files change hands: its former owner can exchange none of them.
        os.fchown(folder, 0, 0)
        folders = (home.state, home.audit_log.parent)
        for path in (*folders, *_pieces(home)):
            if path.parent == half:
                give(path.name, owner, folder=folder)
        os.fchown(folder, owner.user, owner.group)


@contextmanager
def _ours(home: SiteHome, folder: Path, wanted: int) -> Iterator[int]:
    """Open a folder that this command has made, or that has its wanted owner already."""
    maker = owner_of(home.root)
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        present = os.fstat(handle).st_uid
        if present not in (wanted, 0 if maker is None else maker.user):
            raise ConfigError(
                f"{folder}: belongs to user {present}, not to {wanted}. Give another --home, or "
                "the same users as before."
            )
        yield handle
    finally:
        os.close(handle)


def _set_mode(folder: Path, mode: int) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        # Not twice: an owner who is not of the folder's group would take its group bit away.
        if stat.S_IMODE(os.fstat(handle).st_mode) != mode:
            os.fchmod(handle, mode)
    finally:
        os.close(handle)
