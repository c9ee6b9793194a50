"""What must last at a site between rounds: local layers, durable per site, run and round."""

import logging
import os
import re
import shutil
from pathlib import Path

from common.durable import read_array_file, write_array_file
from common.errors import RunError
from common.wire import Arrays

log = logging.getLogger(__name__)

_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_FILE = re.compile(r"local-layers-(\d+)\.safetensors")

KEPT_ROUNDS = 2  # the last one, and the one it was trained from
KEPT_RUNS = 16  # those of a site that were used last


class LocalState:
    """A site's own arrays of one run. They never leave the site.

    Kept per round: a round that is trained again, because the coordinator lost it, starts from
    the layers that it started from before.
    """

    def __init__(self, folder: Path, *, site: str, run: str) -> None:
        """Name the place. Raises RunError for a run name that would lead elsewhere on the disk."""
        for name in (site, run):
            # The run's name comes over the network and becomes part of a path.
            if not _PLAIN_NAME.fullmatch(name):
                raise RunError(f"{name!r} cannot name a folder: use letters, digits, dots, dashes.")
        self._folder = folder / site / run

    def load(self, *, before: int) -> Arrays:
        """Return the arrays of the last round before this one, none before the first.

        Raises DataError when the file is damaged: training on without it would silently lose
        what the site has learnt.
        """
        rounds = self._rounds()
        if rounds:
            os.utime(self._folder)  # in use: other runs are forgotten before this one
        earlier = [kept for kept in rounds if kept < before]
        if not earlier:
            return {}
        arrays, _ = read_array_file(self._file(max(earlier)))
        return arrays

    def save(self, arrays: Arrays, *, server_round: int) -> None:
        """Keep the arrays after a round; when this returns they outlast a power cut."""
        write_array_file(self._file(server_round), arrays, {"round": server_round})
        known = self._rounds()
        # Later ones belong to rounds that the coordinator has lost and now does again.
        kept = [number for number in known if number <= server_round][-KEPT_ROUNDS:]
        for number in known:
            if number not in kept:
                self._file(number).unlink(missing_ok=True)
        os.utime(self._folder)
        self._forget_old_runs()

    def _forget_old_runs(self) -> None:
        """Remove the layers of all runs but the last used; this one is never removed."""
        others = [path for path in self._folder.parent.iterdir() if path != self._folder]
        runs = [path for path in others if _PLAIN_NAME.fullmatch(path.name) and path.is_dir()]
        runs.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
        for old in runs[KEPT_RUNS - 1 :]:
            try:
                shutil.rmtree(old)
            except OSError as error:  # the round is trained and kept: that counts
                log.warning(
                    "the layers of an old run cannot be removed: %s",
                    error.strerror,
                    extra={"action": "state_not_removed", "run": old.name},
                )
                return
            log.info("old run forgotten", extra={"action": "state_removed", "run": old.name})

    def _rounds(self) -> list[int]:
        if not self._folder.is_dir():
            return []
        found = (_FILE.fullmatch(path.name) for path in self._folder.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def _file(self, server_round: int) -> Path:
        return self._folder / f"local-layers-{server_round:05d}.safetensors"
