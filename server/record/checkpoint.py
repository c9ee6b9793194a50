"""The durable state of a run after each round, and the best and last model.

One file, replaced whole, kept so that a run can be continued: it holds all that the rounds after
it depend on, to the bit. Every random number is drawn from the run's seed and the round, so there
is no state of a generator to keep; what is told of the rounds is server/journal/kept_rounds.py's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue, TypeAdapter, ValidationError

from common.config.run import RunConfig
from common.errors import RunError
from common.messages.durable import read_array_file, write_array_file
from common.messages.kinds import Arrays
from server.exchange.participation import Participation

_MODEL, _STRATEGY = "model/", "strategy/"


@dataclass(frozen=True)
class Progression:
    """Where early stopping stands."""

    best_round: int | None
    best_score: float | None  # None: no evaluation had a score yet
    evaluations_since_best: int

    def after(self, server_round: int, score: float | None) -> Self:
        """Return where it stands after one more evaluation; higher scores are better."""
        if score is not None and (self.best_score is None or score > self.best_score):
            return type(self)(server_round, score, 0)
        return replace(self, evaluations_since_best=self.evaluations_since_best + 1)


NOTHING_EVALUATED = Progression(best_round=None, best_score=None, evaluations_since_best=0)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Everything the rounds after this one depend on."""

    run: str
    config_digest: str
    server_round: int  # rounds done; 0 before training
    model: Arrays
    strategy: Arrays
    participation: tuple[Participation, ...]
    progression: Progression
    late_replies: int = 0  # answers that came, until then, when they were no longer wanted

    def is_last(self, config: RunConfig) -> bool:
        """Say whether no round is left: all are done, or the score no longer improves."""
        rules = config.federation
        no_longer_improves = self.progression.evaluations_since_best >= rules.patience
        return self.server_round >= rules.rounds or no_longer_improves


@dataclass(frozen=True)
class ModelFiles:
    """Where a run's durable files lie."""

    folder: Path

    @property
    def checkpoint(self) -> Path:
        """The state after the last finished round."""
        return self.folder / "checkpoint.safetensors"

    @property
    def best(self) -> Path:
        """The model with the best central score."""
        return self.folder / "best.safetensors"

    @property
    def last(self) -> Path:
        """The model after the last round."""
        return self.folder / "last.safetensors"

    @property
    def secure_round(self) -> Path:
        """The opening of the round that is summed under masks (server/rounds/secure/kept.py)."""
        return self.folder / "secure_round.json"


@dataclass(frozen=True)
class _Note:
    run: str
    config_digest: str
    server_round: int
    participation: Sequence[Participation]
    progression: Progression
    late_replies: int


_NOTE: TypeAdapter[_Note] = TypeAdapter(_Note)


def save_model(path: Path, model: Arrays, *, run: str, server_round: int) -> None:
    """Write a global model as safetensors, named as the network's state."""
    write_array_file(path, model, {"run": run, "round": server_round})


def keep_state(files: ModelFiles, state: Checkpoint) -> None:
    """Write a checkpoint, and the models that it makes the last and maybe the best.

    The checkpoint first: a model that is missing after a crash is still in it, see
    :func:`mend_models`, while a best model written too soon would have replaced the former one.
    """
    save_checkpoint(files.checkpoint, state)
    mend_models(files, state)


def mend_models(files: ModelFiles, state: Checkpoint) -> None:
    """Write the models that a checkpoint's own model is, as they may not have been written yet."""
    if state.progression.best_round == state.server_round:
        save_model(files.best, state.model, run=state.run, server_round=state.server_round)
    save_model(files.last, state.model, run=state.run, server_round=state.server_round)


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; when this returns it outlasts a power cut."""
    arrays: dict[str, NDArray[np.float32]] = {
        **{_MODEL + name: array for name, array in checkpoint.model.items()},
        **{_STRATEGY + name: array for name, array in checkpoint.strategy.items()},
    }
    note = _Note(
        run=checkpoint.run,
        config_digest=checkpoint.config_digest,
        server_round=checkpoint.server_round,
        participation=checkpoint.participation,
        progression=checkpoint.progression,
        late_replies=checkpoint.late_replies,
    )
    content: dict[str, JsonValue] = _NOTE.dump_python(note, mode="json")
    write_array_file(path, arrays, content)


def load_checkpoint(path: Path, *, config_digest: str) -> Checkpoint:
    """Read a checkpoint of the same configuration.

    Raises DataError for an unreadable file, RunError for another configuration's.
    """
    arrays, content = read_array_file(path)
    try:
        note = _NOTE.validate_python(content)
    except ValidationError as error:
        raise RunError(f"{path}: not a checkpoint of this version. Start the run anew.") from error
    if note.config_digest != config_digest:
        raise RunError(
            f"{path}: written by a run of another configuration. Continue with the configuration "
            "that it was started with, or start the run anew."
        )
    return Checkpoint(
        run=note.run,
        config_digest=note.config_digest,
        server_round=note.server_round,
        model=_under(_MODEL, arrays),
        strategy=_under(_STRATEGY, arrays),
        participation=tuple(note.participation),
        progression=note.progression,
        late_replies=note.late_replies,
    )


def _under(prefix: str, arrays: Arrays) -> dict[str, NDArray[np.float32]]:
    # safetensors sorts by name and size; the order of arrays carries no meaning here.
    return {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }
