"""``fovea-site check``: looks at everything that a site needs, and changes nothing."""

import time
from collections.abc import Iterator
from datetime import datetime

from client.home.folders import SiteHome
from client.preflight.data import check_pictures
from client.preflight.files import SiteFiles, read_site_files
from client.preflight.finding import Finding
from client.preflight.keys import check_connector_keys, check_folders, check_trainer_keys
from client.preflight.ledger import check_ledger
from client.preflight.machine import (
    check_disk,
    check_gpu,
    check_package_names,
    check_processors,
    check_services,
    check_versions,
)
from client.preflight.network import Clock, check_way
from client.preflight.trainer import check_trainer

WARNING_DAYS = 30  # before a certificate ends, where connector.yaml cannot be read

__all__ = ["Finding", "check_site"]


def check_site(home: SiteHome, *, now: datetime, reach: bool = True) -> tuple[Finding, ...]:
    """Return what was found, in the order in which a person would mend it.

    Args:
        home: The site's folder.
        now: The time.
        reach: Whether to go the way to the coordinator.
    """
    clock = Clock(told=now, at=time.monotonic())
    files = read_site_files(home)
    return (
        *files.findings,
        *_keys(home, files, now=now),
        *_pictures(home, files),
        *_machine(home, files),
        *check_trainer(home, files.site),
        *(_network(home, files, clock) if reach else ()),
    )


def _keys(home: SiteHome, files: SiteFiles, *, now: datetime) -> Iterator[Finding]:
    if files.sees_trainer:
        yield from check_trainer_keys(home)
        yield from check_ledger(home)
    if files.sees_connector:
        yield from check_connector_keys(home, now=now, warning_days=_warning_days(files))
    data = None if files.site is None or files.site.data is None else files.site.data
    yield from check_folders(home, None if data is None else home.trainer / data)


def _pictures(home: SiteHome, files: SiteFiles) -> Iterator[Finding]:
    if files.site is not None:
        yield from check_pictures(home, files.site, files.policy)


def _machine(home: SiteHome, files: SiteFiles) -> Iterator[Finding]:
    if files.site is not None:
        yield check_disk(home, files.site)
        yield from check_processors(files.site.machine)
        yield check_gpu(files.site.machine)
    yield check_versions()
    yield check_package_names()
    yield check_services()


def _network(home: SiteHome, files: SiteFiles, clock: Clock) -> Iterator[Finding]:
    if files.connector is not None:
        yield from check_way(
            files.connector.coordinator,
            home.certificate_authority,
            clock=clock,
            warning_days=_warning_days(files),
        )


def _warning_days(files: SiteFiles) -> int:
    return WARNING_DAYS if files.connector is None else files.connector.certificate_warning_days
