"""Whose a site's files are: what root writes for a user must belong to that user.

`fovea-site approve` under sudo would otherwise leave files that the trainer cannot read.
"""

import os
import pwd
from pathlib import Path

FOLDER_MODE = 0o700


def hand_over(path: Path) -> None:
    """Give a file or folder to the owner of the folder it lies in; for root only, else nothing."""
    if os.geteuid() == 0:
        owner = path.parent.stat()
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def make_folder(path: Path) -> None:
    """Make a folder and those above it that are missing, each for its owner alone."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
        hand_over(folder)


def person() -> str:
    """Return who types, for the audit log: the login name, and who became it by sudo."""
    user = os.geteuid()
    try:
        name = pwd.getpwuid(user).pw_name
    except KeyError:
        name = f"user {user}"  # in a container, a number may have no name
    before = os.environ.get("SUDO_USER")
    return f"{name} (sudo by {before})" if before else name
