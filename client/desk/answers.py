"""What a site has answered in each run: rounds only go up, and a repeat gets what was stored.

One file per run holds the last training and the last evaluation: round, digest of the request and
the signed answer's bytes. It is written before an answer leaves, so a reply that was lost is sent
again without training again; a crash before that means nothing was released, and the repeat trains.
What was refused for what the training gave is such an answer too: otherwise the same round could be
asked with one model after another, and each refusal would tell something of the pictures.
"""

import hashlib
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import BinaryIO, Literal

from pydantic import AwareDatetime, ValidationError

from common.config.run import Section
from common.errors import DataError
from common.files.whole_file import write_whole

log = logging.getLogger(__name__)

Kind = Literal["train", "evaluate"]
Part = Literal["metrics", "evaluation"]  # of an update, beside its arrays

MAX_RUNS = 16  # whose answers are kept; of more, only the order
KEPT_AFTER_EXPIRY = timedelta(days=30)  # the order, lest a clock that is set back revives a run

_FIRST_LINE = b"fovea answers 1\n"
_PLAIN_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,78}")
_SUFFIX = ".answers"


@dataclass(frozen=True)
class Asked:
    """As much of a request as its place in a run's order depends on."""

    kind: Kind
    server_round: int
    request_digest: str
    evaluates: bool  # a training that is to measure the model it comes with, or an evaluation

    @property
    def measured_round(self) -> int | None:
        """After which round the model that this would measure was made; None: measures none."""
        if not self.evaluates:
            return None
        return self.server_round if self.kind == "evaluate" else self.server_round - 1


class Answered(Section):
    """The last answer of one kind."""

    server_round: int
    request_digest: str
    size_bytes: int  # 0: the answer itself is no longer kept
    answer_digest: str
    tells: tuple[Part, ...] = ()  # parts of an update; in a masked one nobody can see them


class RunRecord(Section):
    """What a site remembers of a run."""

    run: str
    expires_at: AwareDatetime
    answered_at: AwareDatetime  # the last time
    answered: Mapping[Kind, Answered]
    measured_round: int  # the latest model that was measured here; -1: none yet
    rounds_trained: int


@dataclass(frozen=True)
class New:
    """A request whose turn it is."""

    may_evaluate: bool  # False: this round's model was measured here already


@dataclass(frozen=True)
class Repeat:
    """A request that was answered before."""


@dataclass(frozen=True)
class Late:
    """A request whose turn is over."""

    reason: str


def place_of(asked: Asked, record: RunRecord | None) -> New | Repeat | Late:
    """Return where a request stands in its run."""
    if record is None:
        return New(may_evaluate=True)
    former = record.answered.get(asked.kind)
    if former is not None and former.request_digest == asked.request_digest:
        is_kept = former.size_bytes > 0
        return Repeat() if is_kept else Late("it has answered this, and no longer keeps the answer")
    if reason := next(_reasons_against(asked, record), None):
        return Late(reason)
    measured = asked.measured_round
    return New(may_evaluate=measured is None or measured > record.measured_round)


def _reasons_against(asked: Asked, record: RunRecord) -> Iterator[str]:
    """Yield why the turn of a request that was not answered yet is over."""
    former = record.answered.get(asked.kind)
    if former is not None and asked.server_round == former.server_round:
        yield f"it has answered another request for round {asked.server_round}"
    reached = max((each.server_round for each in record.answered.values()), default=0)
    # A round is trained before its model is measured, so an evaluation ends its round.
    is_ended = asked.kind == "train" and asked.server_round == reached
    if asked.server_round < reached or is_ended:
        yield f"round {asked.server_round} is over: it has answered round {reached}"
    measured = asked.measured_round
    if asked.kind == "evaluate" and measured is not None and measured <= record.measured_round:
        yield f"it has measured the model of round {measured} before"


class Answers:
    """The records of all runs in a folder."""

    def __init__(self, folder: Path) -> None:
        """Name the folder; it is made with the first answer."""
        self._folder = folder

    def record_of(self, run: str) -> RunRecord | None:
        """Return what is remembered of a run. Raises DataError when its file is damaged."""
        path = self._path(run)
        return self._read_record(path) if path.exists() else None

    def runs(self) -> tuple[RunRecord, ...]:
        """Return every run's record, the one that was answered last first.

        A damaged one is left out with a warning: it must not hold up other runs.
        """
        return tuple(record for _, record in self._recent())

    def stored(self, asked: Asked, *, run: str) -> tuple[bytes, tuple[Part, ...]]:
        """Return the answer of a repeat, byte for byte, and what it tells beside its arrays.

        Raises DataError when it is damaged.
        """
        record, content = self._read(self._path(run))
        answered = record.answered[asked.kind]
        answer = content[asked.kind]
        if hashlib.sha256(answer).hexdigest() != answered.answer_digest:
            raise DataError(f"{self._path(run)}: the stored answer is damaged.")
        return answer, answered.tells

    def store(
        self,
        asked: Asked,
        answer: bytes,
        *,
        run: str,
        expires_at: datetime,
        now: datetime,
        tells: tuple[Part, ...] = (),
    ) -> None:
        """Keep an answer; when this returns it outlasts a power cut."""
        path = self._path(run)
        kept: dict[Kind, bytes] = {}
        record = RunRecord(
            run=run,
            expires_at=expires_at,
            answered_at=now,
            answered={},
            measured_round=-1,
            rounds_trained=0,
        )
        if path.exists():
            record, kept = self._read(path)
        answered = Answered(
            server_round=asked.server_round,
            request_digest=asked.request_digest,
            size_bytes=len(answer),
            answer_digest=hashlib.sha256(answer).hexdigest(),
            tells=tells,
        )
        measured = -1 if asked.measured_round is None else asked.measured_round
        record = record.model_copy(
            update={
                # Another manifest of the run may end earlier: the order outlasts both.
                "expires_at": max(record.expires_at, expires_at),
                "answered_at": now,
                "answered": {**record.answered, asked.kind: answered},
                "measured_round": max(record.measured_round, measured),
                "rounds_trained": record.rounds_trained + (asked.kind == "train"),
            }
        )
        self._write(path, record, {**kept, asked.kind: answer})
        self.prune(now)

    def prune(self, now: datetime) -> None:
        """Let go of answers nobody may ask for again, and of runs long over."""
        for place, (path, record) in enumerate(self._recent()):
            if now >= record.expires_at + KEPT_AFTER_EXPIRY:
                path.unlink()
            elif now >= record.expires_at or place >= MAX_RUNS:
                self._forget_answers(path, record)

    def _forget_answers(self, path: Path, record: RunRecord) -> None:
        if not any(each.size_bytes for each in record.answered.values()):
            return
        emptied = {
            kind: each.model_copy(update={"size_bytes": 0})
            for kind, each in record.answered.items()
        }
        self._write(path, record.model_copy(update={"answered": emptied}), {})

    def _recent(self) -> list[tuple[Path, RunRecord]]:
        found = []
        for path in self._folder.glob(f"[!.]*{_SUFFIX}"):
            try:
                found.append((path, self._read_record(path)))
            except DataError as error:
                log.warning(
                    "a run's record cannot be read",
                    extra={"action": "answers_damaged", "reason": str(error)},
                )
        return sorted(found, key=lambda each: each[1].answered_at, reverse=True)

    def _path(self, run: str) -> Path:
        # The run's name comes over the network and becomes part of a path.
        if not _PLAIN_NAME.fullmatch(run):
            raise DataError(f"{run[:80]!r} cannot name a file: small letters, digits and hyphens.")
        return self._folder / f"{run}{_SUFFIX}"

    def _write(self, path: Path, record: RunRecord, answers: Mapping[Kind, bytes]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        header = record.model_dump_json().encode() + b"\n"
        parts = [answers[kind] for kind, each in record.answered.items() if each.size_bytes]
        write_whole(path, b"".join([_FIRST_LINE, header, *parts]), mode=0o600)

    def _read(self, path: Path) -> tuple[RunRecord, dict[Kind, bytes]]:
        with _opened(path) as file:
            record = _record_in(file, path)
            answers = {kind: file.read(each.size_bytes) for kind, each in record.answered.items()}
        return record, answers

    def _read_record(self, path: Path) -> RunRecord:
        with _opened(path) as file:
            return _record_in(file, path)


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). {_REMEDY}") from error


def _record_in(file: BinaryIO, path: Path) -> RunRecord:
    if file.readline() != _FIRST_LINE:
        raise DataError(f"{path}: written by something else. {_REMEDY}")
    try:
        return RunRecord.model_validate_json(file.readline())
    except ValidationError as error:
        raise DataError(f"{path}: its record is damaged. {_REMEDY}") from error


_REMEDY = (
    "Restore it from a copy; deleting it lets the run's rounds be asked for once more, which a "
    "person at the site must decide."
)
