"""Looks at keys, pins and who may read them."""

import os
import subprocess
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

from client.home.folders import SiteHome
from client.home.node_key import read_node_key
from client.preflight.finding import Finding, below, error, ok, warning
from client.trust.signed_request import read_run_keys
from common.errors import FoveaError
from common.messages.certificates import read_authorities
from common.messages.signing import read_private_key


def check_trainer_keys(home: SiteHome) -> Iterator[Finding]:
    """Look at the trainer's key, and at what it has pinned of the coordinator."""
    yield _key(
        home,
        "signing.key",
        "Ed25519, for its owner alone",
        lambda: read_private_key(home.signing_key),
    )
    try:
        count = len(read_run_keys(home.run_keys))
    except FoveaError as problem:
        yield error(
            "run key",
            below(problem, home.root),
            "Ask the coordinator for a new kit and take it with `fovea-site update-pins KIT`.",
        )
    else:
        yield ok("run key", f"{count} pinned")


def check_connector_keys(home: SiteHome, *, now: datetime, warning_days: int) -> Iterator[Finding]:
    """Look at the node's key and the certificate authority."""
    yield _key(
        home, "node.key", "ECDSA P-384, for its owner alone", lambda: read_node_key(home.node_key)
    )
    remedy = "Ask the coordinator for a new kit and take it with `fovea-site update-pins KIT`."
    try:
        current = read_authorities(home.certificate_authority)[0]
    except FoveaError as problem:
        yield error("certificate authority", below(problem, home.root), remedy)
        return
    yield expiry(
        "certificate authority",
        current.not_valid_before_utc,
        current.not_valid_after_utc,
        now=now,
        warning_days=warning_days,
        remedy=remedy,
    )


def expiry(
    subject: str,
    begins: datetime,
    ends: datetime,
    *,
    now: datetime,
    warning_days: int,
    remedy: str,
) -> Finding:
    """Return what a certificate's dates mean today."""
    if now < begins:
        clock = "Compare this machine's clock with the coordinator's (`timedatectl`)."
        return error(subject, f"valid only from {begins:%Y-%m-%d %H:%M} UTC", clock)
    if now > ends:
        return error(subject, f"expired on {ends:%Y-%m-%d}", remedy)
    left = ends - now
    if left < timedelta(days=warning_days):
        return warning(subject, f"expires on {ends:%Y-%m-%d}, in {left.days} days", remedy)
    return ok(subject, f"valid until {ends:%Y-%m-%d}")


def check_folders(home: SiteHome, data: Path | None) -> Iterator[Finding]:
    """Look at who may enter the site's folders; as root also whether the connector's user can."""
    for folder in (home.trainer, home.connector):
        if folder.is_dir():
            yield _closed(folder, others=0o077, right="700")
    if home.run.is_dir():
        yield _closed(home.run, others=0o007, right="o-rwx")
    else:
        yield error("run", "no such folder", "Make it with `fovea-site init`.")
    if home.trainer.is_dir() and home.connector.is_dir():
        yield from _two_users(home, data)


def _closed(folder: Path, *, others: int, right: str) -> Finding:
    mode = folder.stat().st_mode & 0o777
    subject = f"folder {folder.name}"
    if mode & others:
        return error(subject, f"open to other users (mode {mode:o})", f"chmod {right} {folder}")
    return ok(subject, f"closed to others (mode {mode:o})")


def _two_users(home: SiteHome, data: Path | None) -> Iterator[Finding]:
    trainer, connector = home.trainer.stat(), home.connector.stat()
    subject = "isolation"
    if trainer.st_uid == connector.st_uid:
        yield warning(
            subject,
            "trainer and connector are one user's: nothing keeps the network process from the "
            "pictures but its own code",
            "On a server, make the site with `sudo fovea-site init --trainer-user … "
            "--connector-user …`; on a workstation this is as it is.",
        )
        return
    if os.geteuid() != 0:
        yield ok(subject, "two users; `sudo fovea-site check` proves what the connector can read")
        return
    for name, folder in (("the trainer's folder", home.trainer), ("the pictures", data)):
        if folder is not None and _can_read(folder, user=connector.st_uid, group=connector.st_gid):
            yield error(
                subject,
                f"the connector's user can read {name}",
                f"Take the right away: chmod o-rwx {folder}, and look at its group and ACL "
                f"(getfacl {folder}).",
            )
            return
    yield ok(subject, "two users; the connector's can read neither trainer nor pictures")


def _can_read(folder: Path, *, user: int, group: int) -> bool:
    """Try as that user, so that groups and access lists count too."""
    done = subprocess.run(  # noqa: S603 - a fixed program, no shell
        ["/usr/bin/test", "-r", str(folder), "-a", "-x", str(folder)],
        user=user,
        group=group,
        extra_groups=[],
        cwd="/",
        check=False,
    )
    return done.returncode == 0


def _key(home: SiteHome, name: str, well: str, read: Callable[[], object]) -> Finding:
    try:
        read()
    except FoveaError as problem:
        return error(
            name,
            below(problem, home.root),
            f"Where it is open to others: chmod 600 {name}. Where it is gone or damaged: restore "
            "it from the backup, or make the site again and be admitted anew.",
        )
    return ok(name, well)
