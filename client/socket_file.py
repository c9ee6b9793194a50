"""The file of a Unix socket: what may stand in its place, and how long its path may be."""

import os
import socket as sockets
import stat
from contextlib import suppress
from pathlib import Path

from common.errors import SiteError

LONGEST_PATH = 107  # bytes, on Linux


def clear(socket: Path) -> None:
    """Remove a socket that a process left when it was killed.

    Raises SiteError when someone answers there, or when it is no socket.
    """
    check_length(socket)
    if not socket.exists():
        return
    if not stat.S_ISSOCK(socket.stat().st_mode):
        raise SiteError(f"{socket}: is no socket. Move it away; the trainer listens there.")
    with sockets.socket(sockets.AF_UNIX) as probe, suppress(ConnectionRefusedError):
        probe.connect(str(socket))
        raise SiteError(f"{socket}: another trainer answers there. Stop it first.")
    socket.unlink()


def check_length(socket: Path) -> None:
    """Raise SiteError when the path is too long for a socket."""
    length = len(os.fsencode(socket))
    if length > LONGEST_PATH:
        raise SiteError(
            f"{socket}: {length} bytes long, a socket's path has at most {LONGEST_PATH}. "
            "Choose a shorter home."
        )
