"""Whose a site's files are: what root does in a user's folder, it does as that user.

`sudo fovea-site approve` would otherwise leave files that the trainer cannot read. Above all, the
connector is not trusted: links that it makes in its folder must lead root nowhere that it cannot
go itself.
"""

import ctypes
import os
import pwd
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from common.errors import SiteError

FOLDER_MODE = 0o700
MAX_LINKS = 40  # as Linux has it

_libc = ctypes.CDLL(None)
_acting = threading.Lock()


@dataclass(frozen=True)
class Owner:
    """A user and the group that new files get."""

    user: int
    group: int


@contextmanager
def as_owner(path: Path) -> Iterator[None]:
    """Work on files with the rights of the path's owner and no more; for root only, else nothing.

    The path need not be there yet. Only this thread and those it starts are concerned. Raises
    SiteError where root may not act as others.
    """
    owner = owner_of(path) if _is_root() else None
    if owner is None:
        yield
        return
    with _acting:  # for groups are the whole process's
        groups, group = os.getgroups(), os.getegid()
        try:
            _act_as(owner, path)
            yield
        finally:
            _libc.setfsuid(0)
            _libc.setfsgid(group)
            if os.getgroups() != groups:
                os.setgroups(groups)


def _act_as(owner: Owner, path: Path) -> None:
    # Linux has these for servers of files: they are of one thread, and with another user than root
    # all capabilities over files are gone until root is back.
    remedy = (
        f"{path}: belongs to {_name(owner.user)}, and this root may not act as others. Run this as "
        "that user, or give it the capabilities SETUID and SETGID."
    )
    try:
        os.setgroups([])
    except PermissionError as error:
        raise SiteError(remedy) from error
    _libc.setfsgid(owner.group)
    _libc.setfsuid(owner.user)
    # They tell of no error, but what was set before, and -1 sets nothing.
    if (_libc.setfsuid(-1), _libc.setfsgid(-1)) != (owner.user, owner.group):
        raise SiteError(remedy)


def _is_root() -> bool:
    return os.geteuid() == 0 and _libc.setfsuid(-1) == 0


def owner_of(path: Path) -> Owner | None:
    """Return who decides what a path leads to, None where root alone does.

    That is the last user other than root on the way there. The way ends at a link of such a user,
    who could change it at any time, and where nothing is yet.
    """
    found: Owner | None = None
    steps = list(reversed(path.absolute().parts))
    here = Path(steps.pop())
    links = 0
    while steps and links <= MAX_LINKS:
        here = here / steps.pop()
        try:
            status = here.lstat()
        except (FileNotFoundError, NotADirectoryError):
            break
        is_link = stat.S_ISLNK(status.st_mode)
        if status.st_uid != 0:
            found = Owner(status.st_uid, _group(status))
            if is_link:
                break
        elif is_link:
            links += 1
            target = (here.parent / here.readlink()).parts
            steps += reversed(target[1:])
            here = Path(target[0])
    return found


def hand_over(path: Path) -> None:
    """Give a file or folder to the owner of the folder it lies in; for root only, else nothing.

    Raises SiteError for a link or a file that has further names: root's files are not given away.
    """
    if not _is_root():
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        owner = os.fstat(folder)
        give(path.name, Owner(owner.st_uid, owner.st_gid), folder=folder)
    finally:
        os.close(folder)


def give(name: str, owner: Owner, *, folder: int) -> None:
    """Change whose a file or folder is that lies in an open folder. Raises SiteError for a link."""
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        handle = os.open(name, flags, dir_fd=folder)
    except OSError as error:
        raise SiteError(f"{name}: cannot be given to its owner ({error.strerror}).") from error
    try:
        status = os.fstat(handle)
        is_single = stat.S_ISREG(status.st_mode) and status.st_nlink == 1
        if not is_single and not stat.S_ISDIR(status.st_mode):
            raise SiteError(f"{name}: is no plain file, or has further names. Move it away.")
        os.fchown(handle, owner.user, owner.group)
    finally:
        os.close(handle)


def make_folder(path: Path) -> None:
    """Make a folder and those above it that are missing, each for its owner alone."""
    with as_owner(path):
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        for folder in reversed(missing):
            folder.mkdir(mode=FOLDER_MODE, exist_ok=True)


def person() -> str:
    """Return who types, for the audit log: the login name, and who became it by sudo."""
    name = _name(os.geteuid())
    before = os.environ.get("SUDO_USER")
    return f"{name} (sudo by {before})" if before else name


def _group(status: os.stat_result) -> int:
    try:
        return pwd.getpwuid(status.st_uid).pw_gid
    except KeyError:
        return status.st_gid


def _name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"user {user}"  # in a container, a number may have no name
