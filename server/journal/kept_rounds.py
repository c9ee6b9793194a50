"""What a run's journal must not forget: a file per round, and where MLflow has the run.

Written before the round's checkpoint, so that a run that is continued knows its earlier rounds:
their numbers, what the sites found, and what the model saw in the fixed pictures.
"""

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue, TypeAdapter, ValidationError

from common.errors import RunError
from common.messages.durable import read_array_file, write_array_file
from server.measuring.overlays import OverlayMap
from server.record.summary import FloorEntry, RoundEntry

FOLDER = "journal"
_NOTE_FILE = "run.safetensors"
_ROUND_FILE = re.compile(r"round_(\d+)\.safetensors")

Maps = Mapping[str, tuple[OverlayMap, ...]]  # by task, one per case


@dataclass(frozen=True, eq=False)
class KeptRound:
    """One round as it was when it ended."""

    entry: RoundEntry
    evaluations_before: Mapping[str, Mapping[str, float]]  # by site, of the round before's model
    # Of the same model, where only sums are known: by group, means over its sites.
    summed_evaluation_before: Mapping[str, Mapping[str, float]]
    floor_before: FloorEntry | None  # of the same model
    maps: Maps  # empty when the round was not evaluated


@dataclass(frozen=True)
class RunNote:
    """What is known of the run as a whole."""

    started_at: str  # ISO 8601 with time zone
    tracking_run_id: str  # MLflow's
    told_until: int  # the last round that MLflow was told of; -1: none
    num_examples: Mapping[str, int]  # training pictures of every site that has been there
    measured_round: int  # whose model the sites measured when no training request brought it
    measured: Mapping[str, Mapping[str, float]]  # what they found, by site


@dataclass(frozen=True)
class _MapNote:
    prediction: str
    # As text: a model that has diverged has numbers that JSON has no word for.
    evidence_logits: str
    energy_in_roi: str | None
    chance_energy: str | None
    context_share: str | None


@dataclass(frozen=True)
class _RoundNote:
    entry: RoundEntry
    evaluations_before: Mapping[str, Mapping[str, float]]
    summed_evaluation_before: Mapping[str, Mapping[str, float]]
    floor_before: FloorEntry | None
    maps: Mapping[str, Sequence[_MapNote]]


NoteT = TypeVar("NoteT", RunNote, _RoundNote)

_RUN: TypeAdapter[RunNote] = TypeAdapter(RunNote)
_ROUND: TypeAdapter[_RoundNote] = TypeAdapter(_RoundNote)


class KeptRounds:
    """The files below one run's folder."""

    def __init__(self, out: Path) -> None:
        """Name the place; nothing is read or written."""
        self._folder = out / FOLDER

    def clear(self) -> None:
        """Take away what an earlier run left."""
        if self._folder.is_dir():
            shutil.rmtree(self._folder)

    def write_note(self, note: RunNote) -> None:
        """Keep what is known of the run; when this returns it outlasts a power cut."""
        write_array_file(self._folder / _NOTE_FILE, {}, _RUN.dump_python(note, mode="json"))

    def read_note(self) -> RunNote:
        """Return what is known of the run. Raises RunError or DataError when it cannot be read."""
        _, content = read_array_file(self._folder / _NOTE_FILE)
        return self._understood(_RUN, content)

    def write(self, kept: KeptRound) -> None:
        """Keep a round, in place of an earlier attempt at it."""
        arrays = {
            f"{task}/{number}": seen.saliency
            for task, maps in kept.maps.items()
            for number, seen in enumerate(maps)
        }
        notes = {task: [_map_note(seen) for seen in maps] for task, maps in kept.maps.items()}
        note = _RoundNote(
            entry=kept.entry,
            evaluations_before=kept.evaluations_before,
            summed_evaluation_before=kept.summed_evaluation_before,
            floor_before=kept.floor_before,
            maps=notes,
        )
        content: dict[str, JsonValue] = _ROUND.dump_python(note, mode="json")
        write_array_file(self._file(kept.entry.round), arrays, content)

    def read(self, *, until: int) -> tuple[KeptRound, ...]:
        """Return the rounds up to this one, in order; later ones, half done, are taken away.

        Raises RunError when one is missing, RunError or DataError when one cannot be read.
        """
        numbers = sorted(
            int(match[1])
            for match in (_ROUND_FILE.fullmatch(path.name) for path in self._folder.iterdir())
            if match
        )
        for number in numbers:
            if number > until:
                self._file(number).unlink()
        if missing := sorted(set(range(until + 1)) - set(numbers)):
            raise RunError(f"{self._file(missing[0])}: is missing. Restore it from a back-up.")
        return tuple(self._read(number) for number in range(until + 1))

    def _read(self, server_round: int) -> KeptRound:
        arrays, content = read_array_file(self._file(server_round))
        note = self._understood(_ROUND, content)
        return KeptRound(
            entry=note.entry,
            evaluations_before=note.evaluations_before,
            summed_evaluation_before=note.summed_evaluation_before,
            floor_before=note.floor_before,
            maps={
                task: tuple(_map(seen, arrays[f"{task}/{n}"]) for n, seen in enumerate(notes))
                for task, notes in note.maps.items()
            },
        )

    def _understood(self, kind: TypeAdapter[NoteT], content: dict[str, JsonValue]) -> NoteT:
        try:
            return kind.validate_python(content)
        except ValidationError as error:
            raise RunError(
                f"{self._folder}: not of this version. Continue with the version that wrote it."
            ) from error

    def _file(self, server_round: int) -> Path:
        return self._folder / f"round_{server_round:05d}.safetensors"


def _map_note(seen: OverlayMap) -> _MapNote:
    return _MapNote(
        prediction=seen.prediction,
        evidence_logits=repr(float(seen.evidence_logits)),
        energy_in_roi=_text(seen.energy_in_roi),
        chance_energy=_text(seen.chance_energy),
        context_share=_text(seen.context_share),
    )


def _map(note: _MapNote, saliency: NDArray[np.float32]) -> OverlayMap:
    return OverlayMap(
        saliency=saliency,
        evidence_logits=float(note.evidence_logits),
        prediction=note.prediction,
        energy_in_roi=_number(note.energy_in_roi),
        chance_energy=_number(note.chance_energy),
        context_share=_number(note.context_share),
    )


def _text(number: float | None) -> str | None:
    return None if number is None else repr(float(number))


def _number(text: str | None) -> float | None:
    return None if text is None else float(text)
