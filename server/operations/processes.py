"""A child process and everything it starts: none of them outlives the one that supervises."""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

_PR_SET_CHILD_SUBREAPER = 36  # Linux, linux/prctl.h
_LOOK_S = 0.05
KILLED_S = 3.0  # what was killed is gone at once, unless the kernel holds it: then we go on


def adopt_orphans() -> None:
    """Make this process the parent of descendants whose own parent dies.

    Flower's helpers start sessions of their own: no process group holds them all, but with this
    they stay descendants. Elsewhere than on Linux it does nothing.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def descendants() -> list[psutil.Process]:
    """Return every process below this one."""
    return psutil.Process().children(recursive=True)


def family(pid: int) -> list[psutil.Process]:
    """Return a process with everything below it; empty when it is gone."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def named(processes: Sequence[psutil.Process], program: str) -> list[psutil.Process]:
    """Return those that run a program, itself or through an interpreter."""
    return [p for p in processes if any(Path(word).name == program for word in _command(p)[:2])]


def mentions(process: psutil.Process, argument: str) -> bool:
    """Say whether a process was started with exactly this argument."""
    return argument in _command(process)


def end(processes: Sequence[psutil.Process], *, patience_s: float) -> None:
    """Ask processes to end, and after a while end them; take ``KILLED_S`` more at most."""
    for number, wait_s in ((signal.SIGTERM, patience_s), (signal.SIGKILL, KILLED_S)):
        for process in processes:
            _send(process, number)
        deadline = time.monotonic() + wait_s
        while not all([_is_gone(process) for process in processes]):
            if time.monotonic() > deadline:
                break
            time.sleep(_LOOK_S)
        else:
            return


def reap(*, but: int) -> None:
    """Take the ended orphans that became our children out of the system's table, but for one."""
    for child in psutil.Process().children():
        if child.pid != but and _status(child) == psutil.STATUS_ZOMBIE:
            with suppress(ChildProcessError):  # somebody waited for it meanwhile
                os.waitpid(child.pid, os.WNOHANG)


def _is_gone(process: psutil.Process) -> bool:
    """Say whether a process has ended, and reap it if it is our child."""
    try:
        process.wait(timeout=0)
    except psutil.TimeoutExpired:
        # Flower's own parents do not always reap: what is only a name in a table is gone.
        return not process.is_running() or _status(process) == psutil.STATUS_ZOMBIE
    return True


def _status(process: psutil.Process) -> str:
    try:
        return process.status()
    except psutil.NoSuchProcess:
        return psutil.STATUS_DEAD


def _send(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return  # what was to be reached is reached


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return []
