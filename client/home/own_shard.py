"""The shard as the desk sees it: how much it holds, and whether it is still the one on the disk.

`fovea-site prepare` puts a new shard in the place of the former one, for instance because a
patient has withdrawn. From then on nothing may be made from the former.
"""

import json
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from common.datasets.card import card_from_dict
from common.datasets.shard import META
from common.errors import SiteError
from common.messages.kinds import (
    EvaluateRequest,
    Evaluation,
    Refusal,
    SiteCard,
    TrainRequest,
    Update,
)

log = logging.getLogger(__name__)

_TRIES = 3  # to open a shard that is exchanged meanwhile


class DoorTrainer(Protocol):
    """Whatever trains behind the door."""

    def describe(self) -> SiteCard:
        """Return who the site is; opens the shard."""
        ...

    def reopen(self) -> None:
        """Open the shard anew with the next call; what is going on ends with the former."""
        ...

    def architecture_digest(self, config_json: str) -> str:
        """Return the digest of the whole network that the site builds for a configuration."""
        ...

    def train(self, request: TrainRequest) -> Update | Refusal:
        """Run one round."""
        ...

    def evaluate(self, request: EvaluateRequest) -> Evaluation | Refusal:
        """Measure a model."""
        ...


@dataclass(frozen=True)
class ShardCounts:
    """How much the shard holds."""

    training_pictures: int
    validation_pictures: int
    training_patients: int
    validation_patients: int


def counts_of(card: SiteCard) -> ShardCounts:
    """Return how much a site holds. Raises DataError when its data card is of another version."""
    parts = {part.name: part for part in card_from_dict(json.loads(card.data_card_json)).parts}
    return ShardCounts(
        training_pictures=card.num_examples,
        validation_pictures=card.num_val,
        training_patients=parts["train"].patients if "train" in parts else 0,
        validation_patients=parts["val"].patients if "val" in parts else 0,
    )


@dataclass(frozen=True, eq=False)
class OpenShard:
    """A shard as it was opened; another object for every opening."""

    card: SiteCard
    counts: ShardCounts


class OwnShard:
    """Keeps what is known of the shard in a folder, and sees when another lies there."""

    def __init__(
        self, folder: Path, *, trainer: DoorTrainer, on_reopened: Callable[[ShardCounts], None]
    ) -> None:
        """Open nothing yet.

        Args:
            folder: Of the prepared shard.
            trainer: Told to open it anew.
            on_reopened: Told how much the new one holds, before anything is made from it.
        """
        self._folder, self._trainer, self._on_reopened = folder, trainer, on_reopened
        self._lock = threading.Lock()
        self._current: OpenShard | None = None
        self._identity: tuple[int, int, int] | None = None
        self._was_open = False

    @property
    def is_open(self) -> bool:
        """Whether it was opened."""
        return self._current is not None

    def current(self) -> OpenShard:
        """Return the shard that lies there now; the same object while it does.

        Raises SiteError where none lies there any more, DataError where it cannot be used.
        """
        with self._lock:
            if self._current is None or _identity(self._folder) != self._identity:
                self._current = self._opened()
                self._was_open = True
            return self._current

    def _opened(self) -> OpenShard:
        if self._was_open:
            self._current = None
            self._trainer.reopen()
        for _ in range(_TRIES):
            identity = _identity(self._folder)
            if self._was_open and identity is None:
                break
            card = self._trainer.describe()
            if _identity(self._folder) == identity:
                opened = OpenShard(card, counts_of(card))
                if self._was_open:
                    self._on_reopened(opened.counts)
                    log.info("another shard lies here", extra={"action": "shard_reopened"})
                self._identity = identity
                return opened
            self._trainer.reopen()  # it was exchanged while its files were opened
        raise SiteError(
            f"{self._folder}: the shard is being exchanged, or was removed. `fovea-site prepare` "
            "makes it again."
        )


def _identity(folder: Path) -> tuple[int, int, int] | None:
    """Return what tells a prepared shard from another in its place; None where there is none."""
    try:
        found = (folder / META).stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns
