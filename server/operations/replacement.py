"""Puts new files in the place of former ones together, whatever happens in between.

A key without its certificate stops a server. So new contents are first written beside the former
files, the last one last; from then on a crash is made good by :func:`settle`, before it nothing
has happened. Former files stay under a dated name.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from common.files.whole_file import sync_folder, write_whole
from common.messages.signing import write_secret
from server.operations.home import CoordinatorHome

SECRET = 0o600
PUBLIC = 0o644


def replace_together(files: Mapping[Path, tuple[bytes, int]], *, now: datetime) -> tuple[Path, ...]:
    """Replace files of one folder with contents and modes, and return where the former ones lie."""
    kept = tuple(_keep(path, now) for path in files if path.is_file())
    for path, (content, mode) in files.items():
        write_whole(_beside(path), content, mode=mode)
    settle_together(tuple(files))
    return kept


def settle(home: CoordinatorHome) -> None:
    """Finish what a crash has interrupted, or undo it where it had not begun to count."""
    settle_together((home.authority_key, home.authority))
    settle_together((home.server_key, home.server_certificate))
    settle_together((home.run_key, home.run_keys))


def settle_together(files: Sequence[Path]) -> None:
    """Do so for files that belong together, in the order they are always given in."""
    # The last new file is written last and renamed last: while it is there, all were written.
    counts = _beside(files[-1]).is_file()
    for path in files:
        new = _beside(path)
        if new.is_file() and counts:
            new.replace(path)
        elif new.is_file():
            new.unlink()
    if files[0].parent.is_dir():
        sync_folder(files[0].parent)


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.new")


def _keep(path: Path, now: datetime) -> Path:
    """Copy a file to a dated name of mode 0600; several of one day get numbers."""
    content = path.read_bytes()
    number = 1
    while True:
        suffix = "" if number == 1 else f"-{number}"
        kept = path.with_name(f"{path.name}.old-{now:%Y-%m-%d}{suffix}")
        if not kept.exists():
            write_secret(kept, content)
            return kept
        if kept.read_bytes() == content:
            return kept  # an interrupted try of the same day
        number += 1
