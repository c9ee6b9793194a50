"""What `fovea renew` does, and what it says of it."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from server.operations import renewal
from server.operations.federation_file import read_federation
from server.operations.home import CoordinatorHome


def renew_one(
    home: CoordinatorHome,
    what: str,
    federation_file: Path,
    *,
    sites_updated: bool,
    keep_former: bool,
    now: datetime,
) -> Iterator[str]:
    """Renew one thing and yield what the person at the terminal must know."""
    federation = read_federation(federation_file)
    if what == "kits":
        changed = renewal.renew_kits(federation, home)
        yield from _about_kits(changed)
        return
    renewed = {
        "server": lambda: renewal.renew_server_certificate(
            federation, home, sites_updated=sites_updated, now=now
        ),
        "authority": lambda: renewal.renew_authority(federation, home, now=now),
        "drop-authority": lambda: renewal.drop_former_authority(federation, home, now=now),
        "run-key": lambda: renewal.renew_run_key(
            federation, home, keep_former=keep_former, now=now
        ),
        "drop-run-key": lambda: renewal.drop_former_run_key(federation, home, now=now),
    }[what]()
    if renewed.fingerprint:
        yield f"fingerprint  {renewed.fingerprint}"
    if renewed.expires:
        yield f"expires      {renewed.expires:%Y-%m-%d}"
    for path in renewed.kept:
        yield f"former kept  {path}"
    yield from _about_kits(renewed.kits)
    if what in ("server", "drop-authority"):
        yield "`fovea serve` takes it when it is restarted, best while no run is running"


def _about_kits(sites: tuple[str, ...]) -> Iterator[str]:
    if sites:
        yield f"send new kits to {', '.join(sites)}: they run `fovea-site update-pins`"
