"""Flower's SuperLink as a program: its command line, its environment, its ports."""

import os
import socket
import sys
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path

from common.errors import ConfigError, RunError
from server.operations.flower_control import HOST
from server.operations.home import CoordinatorHome


def command(home: CoordinatorHome, *, host: str, port: int) -> list[str]:
    """Return the command line of the SuperLink.

    Raises ConfigError for a host that others can reach: whoever reaches the control API commands.
    """
    if not _is_loopback(host):
        raise ConfigError(
            f"host {host}: the SuperLink listens on loopback only, its control API asks for no "
            "password. Hospitals come through the reverse proxy of deploy/."
        )
    return [
        str(Path(sys.executable).parent / "flower-superlink"),
        *("--ssl-certfile", str(home.server_certificate)),
        *("--ssl-keyfile", str(home.server_key)),
        *("--ssl-ca-certfile", str(home.authority)),
        "--enable-supernode-auth",
        "--disable-runtime-dependency-installation",
        *("--database", str(database_file(home))),
        *("--host", host),
        *("--port", str(port)),
        *("--health-server-address", f"{host}:{port + 1}"),
    ]


def environment(home: CoordinatorHome, inherited: Mapping[str, str]) -> dict[str, str]:
    """Return what the SuperLink and the processes of runs find in their environment."""
    programs = str(Path(sys.executable).parent)
    code = str(Path(__file__).parents[2])  # where a checkout lies that nobody installed
    local = f"{HOST},localhost"
    return {
        **inherited,
        "FLWR_HOME": str(home.superlink / "flower"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.5",  # seconds; at 0.1 it takes a fifth of a core
        "PATH": os.pathsep.join(filter(None, (programs, inherited.get("PATH")))),
        "PYTHONPATH": os.pathsep.join(filter(None, (code, inherited.get("PYTHONPATH")))),
        # What runs on this machine speaks to it directly, whatever proxy leads outside.
        "NO_PROXY": ",".join(filter(None, (local, inherited.get("NO_PROXY")))),
        "no_proxy": ",".join(filter(None, (local, inherited.get("no_proxy")))),
    }


def database_file(home: CoordinatorHome) -> Path:
    """Return Flower's database."""
    return home.superlink / "state.db"


def check_free(port: int) -> None:
    """Raise RunError when another program listens on a port of this machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise RunError(
                f"port {port} of this machine is taken ({error.strerror}). End what listens there, "
                "or change superlink_port in federation.yaml (it and the next are used)."
            ) from error


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False  # a name can be pointed elsewhere
