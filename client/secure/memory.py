"""What a site keeps of the rounds that are summed under masks: secrets, and what it did with them.

A folder per run holds ``run.json``, with the key for letters and how far masking came, and
``round-<number>.json`` for each round in preparation or not yet opened. Each file is written whole
and durably, mode 0600, before anything that depends on it leaves. A round's own secrets are gone
from the disk as soon as they have masked one update: no second one can be masked with them.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from common.config.run import Section
from common.errors import DataError
from common.files.whole_file import sync_folder, write_whole
from common.messages.manifest import Digest, Slug
from common.secure_sum.letters import Letter
from common.secure_sum.statements import Bundle, Key32, OpenedShares, Round, RoundKey

MAX_RUNS = 16  # whose secrets are kept; of more, only how far masking came
KEPT_ROUNDS = 2  # the one that is masked and the one before, which may still be opened

_RUN_FILE = "run.json"
_ROUND_FILE = re.compile(r"round-([0-9]{6})\.json")
_UNFINISHED = ".r"  # how the name of a file begins that was not written to its end
_PLAIN_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,78}")


class RunMemory(Section):
    """What lasts from round to round."""

    letter_key: Key32 | None  # private X25519; None once the run's secrets are gone
    masked_round: int  # the last one; 0: none yet
    last_use: int = 0  # counts up over all runs; set when it is kept


class RoundSecrets(Section):
    """What must be secret until an update is masked, and is gone then."""

    mask_key: Key32  # private X25519
    self_seeds: Mapping[Slug, Key32]  # group → seed


class Masked(Section):
    """What a site must know when a round that it masked in is opened."""

    roster_digest: Digest
    needed: int  # survivors; the threshold of the run's sites, and never fewer than least
    groups: Mapping[Slug, tuple[Slug, ...]]  # of the round, as it masked for them
    least: int  # sites in a sum, as the configuration and this site's policy asked for then
    keys: tuple[RoundKey, ...]  # of the sites of the round
    letters: Mapping[Slug, Letter]  # site of the round → the shares that lie here


class Opened(Section):
    """The one answer to an unmasking."""

    unmasking: str  # as it was asked
    shares: OpenedShares


class RoundMemory(Section):
    """A site's part in one round."""

    server_round: Round
    bundle: Bundle  # what left
    own: Letter  # the site's shares of its own secrets
    groups: tuple[Slug, ...]  # for which seeds were shared out
    secrets: RoundSecrets | None  # None: used
    masked: Masked | None
    opened: Opened | None


MemoryT = TypeVar("MemoryT", RunMemory, RoundMemory)


class SecureMemory:
    """The files of all runs under one folder; for one user at a time."""

    def __init__(self, folder: Path) -> None:
        """Name the folder; it is made with the first secret."""
        self._folder = folder

    def run(self, run: str) -> RunMemory | None:
        """Return what is kept of a run. Raises DataError when its file is damaged."""
        return _read(self._of(run) / _RUN_FILE, RunMemory)

    def round(self, run: str, server_round: int) -> RoundMemory | None:
        """Return what is kept of a round. Raises DataError when its file is damaged."""
        return _read(self._round_file(run, server_round), RoundMemory)

    def keep_run(self, run: str, memory: RunMemory) -> None:
        """Keep it; when this returns it outlasts a power cut."""
        folder = self._of(run)
        is_new = not folder.exists()
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.mkdir(exist_ok=True, mode=0o700)
        if is_new:
            sync_folder(self._folder)
        others = self._runs()
        last_use = 1 + max((other.last_use for other in others.values()), default=0)
        _write(folder / _RUN_FILE, memory.model_copy(update={"last_use": last_use}))
        if memory.letter_key is not None:
            others.pop(run, None)
            self._let_go_of_old_runs(others)

    def keep_round(self, run: str, memory: RoundMemory) -> None:
        """Keep it likewise. The run must be kept already."""
        _write(self._round_file(run, memory.server_round), memory)

    def close_rounds(self, run: str, *, masked_round: int) -> None:
        """Note how far masking came, and remove what belongs to rounds that are over."""
        memory = self.run(run)
        if memory is None or memory.masked_round < masked_round:
            letter_key = None if memory is None else memory.letter_key
            self.keep_run(run, RunMemory(letter_key=letter_key, masked_round=masked_round))
        self._remove(self._rounds(run), up_to=masked_round - KEPT_ROUNDS)
        for unfinished in self._of(run).glob(f"{_UNFINISHED}*"):
            unfinished.unlink()  # a power cut left it, with secrets in it

    def _runs(self) -> dict[str, RunMemory]:
        """Return what is kept of all runs, by name."""
        found = {path.parent.name: path for path in self._folder.glob(f"*/{_RUN_FILE}")}
        read = {run: _read(path, RunMemory) for run, path in sorted(found.items())}
        return {run: memory for run, memory in read.items() if memory is not None}

    def _let_go_of_old_runs(self, others: Mapping[str, RunMemory]) -> None:
        """Remove secrets of runs long over, though not how far they came.

        Only runs that still have secrets count, in the order of their last use. The times of files
        would not do: letting go of a run writes its file anew.
        """
        live = [run for run, memory in others.items() if memory.letter_key is not None]
        latest_first = sorted(live, key=lambda run: others[run].last_use, reverse=True)
        for run in latest_first[MAX_RUNS - 1 :]:
            self._remove(self._rounds(run), up_to=None)
            gone = others[run].model_copy(update={"letter_key": None})
            _write(self._of(run) / _RUN_FILE, gone)

    def _remove(self, rounds: Iterator[tuple[int, Path]], *, up_to: int | None) -> None:
        folders = set()
        for server_round, path in rounds:
            if up_to is None or server_round <= up_to:
                path.unlink()
                folders.add(path.parent)
        for folder in folders:
            sync_folder(folder)

    def _rounds(self, run: str) -> Iterator[tuple[int, Path]]:
        for path in sorted(self._of(run).iterdir()):
            if found := _ROUND_FILE.fullmatch(path.name):
                yield int(found[1]), path

    def _round_file(self, run: str, server_round: int) -> Path:
        return self._of(run) / f"round-{server_round:06d}.json"

    def _of(self, run: str) -> Path:
        # The run's name comes over the network and becomes part of a path.
        if not _PLAIN_NAME.fullmatch(run):
            raise DataError(f"{run[:80]!r} cannot name a file: small letters, digits and hyphens.")
        return self._folder / run


def _write(path: Path, memory: RunMemory | RoundMemory) -> None:
    write_whole(path, memory.model_dump_json().encode(), mode=0o600)


def _read(path: Path, kind: type[MemoryT]) -> MemoryT | None:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). {_REMEDY}") from error
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        raise DataError(f"{path}: is damaged. {_REMEDY}") from error


_REMEDY = (
    "Do not restore an older copy: masks that were used could be used again. Move the run's folder "
    "away: the site then stays out of this run and takes part in the next one."
)
