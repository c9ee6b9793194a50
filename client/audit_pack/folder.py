"""A pack's folder and its files: for their owner alone, whoever runs the command."""

from pathlib import Path

from client.home.ownership import FOLDER_MODE, as_owner, make_folder
from common.errors import DataError
from common.files.whole_file import write_whole

FILE_MODE = 0o600


def take_folder(out: Path) -> None:
    """Make or close a folder that must be empty. Raises DataError for one that is not."""
    make_folder(out)
    with as_owner(out):
        if any(out.iterdir()):
            raise DataError(f"{out}: is not empty. Name another folder, or remove this one.")
        out.chmod(FOLDER_MODE)  # it may have been there before


def write_text(path: Path, text: str) -> None:
    """Write a file of the pack whole, for its owner alone."""
    with as_owner(path.parent):
        write_whole(path, text.encode(), mode=FILE_MODE)
