"""Looks at the socket between connector and trainer, and whether anybody answers there."""

import os
import socket
from collections.abc import Iterator

from client.home.folders import SiteHome
from client.home.site import SiteSettings
from client.preflight.finding import Finding, error, ok, warning
from common.errors import SiteError

LONGEST = 107  # bytes of a Unix socket's path, as Linux has it
TIMEOUT_S = 5.0
_START = "Start it: `systemctl start fovea-trainer`, or `fovea-site run`."


def check_trainer(home: SiteHome, site: SiteSettings | None) -> Iterator[Finding]:
    """Look at the socket, then ask the trainer for its health."""
    length = len(os.fsencode(home.socket))
    if length > LONGEST:
        yield error(
            "socket",
            f"its path has {length} bytes, the system takes {LONGEST}",
            "Move the site to a folder with a shorter path (FOVEA_SITE_HOME).",
        )
        return
    finding = _listening(home)
    yield finding
    if finding.status == "ok" and site is not None:
        yield _health(home, site)


def _listening(home: SiteHome) -> Finding:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(TIMEOUT_S)
        try:
            probe.connect(str(home.socket))
        except FileNotFoundError:
            return warning("socket", "the trainer does not run", _START)
        except ConnectionRefusedError:
            return warning(
                "socket",
                "left behind by a trainer that no longer runs",
                f"{_START} It clears the socket away.",
            )
        except PermissionError:
            return warning(
                "socket",
                "this user may not speak to the trainer",
                "Run `sudo fovea-site check`, or as the trainer's or the connector's user.",
            )
        except OSError as problem:
            return error("socket", f"cannot be used ({problem.strerror or 'timed out'})", _START)
    return ok("socket", "somebody listens")


def _health(home: SiteHome, site: SiteSettings) -> Finding:
    from client.door.service import TrainerStub  # noqa: PLC0415 - brings gRPC

    try:
        stub = TrainerStub(home.socket, request_mb=site.limits.request_mb)
        is_serving = stub.is_serving(TIMEOUT_S)
    except SiteError as problem:
        return error("trainer", str(problem), "Look at the trainer's log.")
    if not is_serving:
        return warning("trainer", "runs, but cannot train now", "`fovea-site status` says why not.")
    return ok("trainer", "answers and can train")
