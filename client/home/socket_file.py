"""The file of a Unix socket: what may stand in its place, and how long its path may be."""

import os
import socket as sockets
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from common.errors import SiteError

LONGEST_PATH = 107  # bytes, on Linux


def clear(socket: Path) -> None:
    """Remove whatever stands where the trainer is to listen; links are not followed.

    The folder is the trainer's, and it holds its home's lock: no other trainer of this home is
    alive. Others may write into the folder and must not keep it from starting. Raises SiteError
    when a process of this user answers there.
    """
    check_length(socket)
    try:
        status = socket.lstat()
    except FileNotFoundError:
        return
    if stat.S_ISDIR(status.st_mode):
        # It may hold another user's files, which only that user can remove. Renamed over an empty
        # folder it is out of the way.
        socket.rename(tempfile.mkdtemp(dir=socket.parent, prefix=f".{socket.name}.aside-"))
        return
    if stat.S_ISSOCK(status.st_mode) and status.st_uid == os.geteuid():
        _check_silent(socket)
    socket.unlink()


def nobody_answers(socket: Path) -> SiteError:
    """Return the error of a trainer that is away."""
    return SiteError(f"no trainer answers at {socket}: is it running?")


def check_length(socket: Path) -> None:
    """Raise SiteError when the path is too long for a socket."""
    length = len(os.fsencode(socket))
    if length > LONGEST_PATH:
        raise SiteError(
            f"{socket}: {length} bytes long, a socket's path has at most {LONGEST_PATH}. "
            "Choose a shorter home."
        )


def _check_silent(socket: Path) -> None:
    with sockets.socket(sockets.AF_UNIX) as probe, suppress(ConnectionRefusedError):
        probe.setblocking(False)  # or one who listens but takes no calls would hold us up
        with suppress(BlockingIOError):
            probe.connect(str(socket))
        raise SiteError(f"{socket}: another trainer answers there. Stop it first.")
