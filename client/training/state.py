"""What must last at a site between rounds: local layers, durable per site, run, kind and round."""

import logging
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from common.config.privacy import Unit
from common.errors import RunError
from common.messages.digests import text_digest
from common.messages.durable import read_array_file, rename_durably, write_array_file
from common.messages.kinds import Arrays
from common.messages.signing import canonical

log = logging.getLogger(__name__)

_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_FILE = re.compile(r"local-layers-(\d+)\.safetensors")
_WAITING = "unspent-layers-{:05d}.safetensors"  # no name that _FILE knows: no round starts from it

KEPT_ROUNDS = 2  # the last one, and the one it was trained from
KEPT_RUNS = 16  # those of a site that were used last


@dataclass(frozen=True)
class Making:
    """All that decides what local layers are and what they tell of the pictures.

    A run's name does not decide it: two manifests may bear the same one. Layers trained without
    noise would tell of the pictures through every update that starts from them, which no ledger
    counts; noise for single images does not cover a patient.
    """

    task: str
    labels: tuple[str, ...]
    local_layers: tuple[str, ...]  # prefixes; their order says nothing
    architecture_digest: str
    noised_for: Unit | None  # None: trained without noise

    @property
    def kind(self) -> str:
        """Return a name that only layers made in the same way have."""
        noise = "plain" if self.noised_for is None else f"noised-{self.noised_for}"
        what: list[JsonValue] = [
            self.task,
            list(self.labels),
            list(sorted(set(self.local_layers))),
            self.architecture_digest,
        ]
        # In full: a coordinator who chooses both configurations could make short digests meet.
        return f"{noise}-{text_digest(canonical(what))}"


class LocalState:
    """A site's own arrays of one run, all made in one way. They never leave the site.

    Kept per round: a round that is trained again, because the coordinator lost it, starts from
    the layers that it started from before. Layers of the same run that were made in another way
    stay where they are, unused, until the run is forgotten.
    """

    def __init__(self, folder: Path, *, site: str, run: str, kind: str = "plain") -> None:
        """Name the place. Raises RunError for a run name that would lead elsewhere on the disk.

        Args:
            folder: Of all sites' states.
            site: Whose layers.
            run: Of which run.
            kind: How they are made (``Making.kind``).
        """
        for name in (site, run, kind):
            # The run's name comes over the network and becomes part of a path.
            if not _PLAIN_NAME.fullmatch(name):
                raise RunError(f"{name!r} cannot name a folder: use letters, digits, dots, dashes.")
        self._run = folder / site / run
        self._folder = self._run / kind

    def load(self, *, before: int) -> Arrays:
        """Return the arrays of the last round before this one, none before the first.

        Raises DataError when the file is damaged: training on without it would silently lose
        what the site has learnt.
        """
        rounds = self._rounds()
        if rounds:
            os.utime(self._run)  # in use: other runs are forgotten before this one
        earlier = [kept for kept in rounds if kept < before]
        if not earlier:
            self._tell_unused()
            return {}
        arrays, _ = read_array_file(self._file(max(earlier)))
        return arrays

    def save(self, arrays: Arrays, *, server_round: int) -> None:
        """Keep the arrays after a round; when this returns they outlast a power cut."""
        write_array_file(self._file(server_round), arrays, {"round": server_round})
        self._settle(server_round)

    def hold(self, arrays: Arrays, *, server_round: int) -> None:
        """Keep the arrays of a round with noise aside until the ledger counts it.

        Were they kept at once, a breakdown before the ledger is written would let the next round
        start from noise that nobody has counted. :func:`count_layers` makes them last.
        """
        write_array_file(self._waiting(server_round), arrays, {"round": server_round})

    def count(self, *, server_round: int) -> None:
        """Keep what was held aside after a round; nothing where nothing was."""
        if self._waiting(server_round).exists():
            rename_durably(self._waiting(server_round), self._file(server_round))
            self._settle(server_round)

    def _settle(self, server_round: int) -> None:
        """Remove what no round will start from any more, of this run and of old ones."""
        known = self._rounds()
        # Later ones belong to rounds that the coordinator has lost and now does again.
        kept = [number for number in known if number <= server_round][-KEPT_ROUNDS:]
        for number in known:
            if number not in kept:
                self._file(number).unlink(missing_ok=True)
        os.utime(self._run)
        self._forget_old_runs()

    def _tell_unused(self) -> None:
        """Say so where the run has layers, but none that may be used."""
        if self._run.is_dir() and any(path != self._folder for path in self._run.iterdir()):
            log.info(
                "local layers of this run were made under another configuration and stay unused",
                extra={"action": "state_not_used", "run": self._run.name},
            )

    def _forget_old_runs(self) -> None:
        """Remove the layers of all runs but the last used; this one is never removed."""
        others = [path for path in self._run.parent.iterdir() if path != self._run]
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

    def _waiting(self, server_round: int) -> Path:
        return self._folder / _WAITING.format(server_round)


def count_layers(folder: Path, *, site: str, run: str, server_round: int) -> None:
    """Let the layers of a round last, of which the ledger now says what their noise has spent.

    Args:
        folder: Of all sites' states.
        site: Whose layers.
        run: Of which run.
        server_round: The round that is spent.
    """
    kinds = folder / site / run
    if not kinds.is_dir():
        return  # it keeps no layers of its own
    for kind in sorted(path.name for path in kinds.iterdir() if path.is_dir()):
        LocalState(folder, site=site, run=run, kind=kind).count(server_round=server_round)
