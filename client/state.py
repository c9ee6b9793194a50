"""What must last at a site between rounds: local layers, durable per site and run."""

import re
from pathlib import Path

from common.durable import read_array_file, write_array_file
from common.errors import RunError
from common.wire import Arrays

_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class LocalState:
    """A site's own arrays of one run. They never leave the site."""

    def __init__(self, folder: Path, *, site: str, run: str) -> None:
        """Name the place. Raises RunError for a run name that would lead elsewhere on the disk."""
        for name in (site, run):
            # The run's name comes over the network and becomes part of a path.
            if not _PLAIN_NAME.fullmatch(name):
                raise RunError(f"{name!r} cannot name a folder: use letters, digits, dots, dashes.")
        self._path = folder / site / run / "local-layers.safetensors"

    def load(self) -> Arrays:
        """Return the kept arrays, none before the first round.

        Raises DataError when the file is damaged: training on without it would silently lose
        what the site has learnt.
        """
        if not self._path.exists():
            return {}
        arrays, _ = read_array_file(self._path)
        return arrays

    def save(self, arrays: Arrays, *, server_round: int) -> None:
        """Keep arrays; when this returns they outlast a power cut."""
        write_array_file(self._path, arrays, {"round": server_round})
