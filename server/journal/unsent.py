"""What is told to MLflow, entry by entry, and the file that keeps the entries it did not take."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

UNSENT_FILE = "unsent_tracking_{run_id}.jsonl"  # one per run: a folder may hold several


@dataclass(frozen=True)
class Metrics:
    """Numbers of one round."""

    values: Mapping[str, float]
    step: int
    time_ms: int


@dataclass(frozen=True)
class Params:
    """Settings, each once."""

    values: Mapping[str, str]


@dataclass(frozen=True)
class Tag:
    """A property of the run, for instance its description."""

    key: str
    value: str


@dataclass(frozen=True)
class File:
    """A file to keep with the run."""

    path: str
    folder: str


@dataclass(frozen=True)
class Picture:
    """A picture that MLflow's page steps through by round."""

    path: str
    key: str
    step: int
    time_ms: int


Entry = Metrics | Params | Tag | File | Picture

_KINDS: Mapping[str, Callable[..., Entry]] = {
    kind.__name__: kind for kind in (Metrics, Params, Tag, File, Picture)
}


def read_unsent(path: Path) -> list[Entry]:
    """Return what an earlier process could not send; its files and pictures lie where they lay."""
    if not path.exists():
        return []
    entries: list[Entry] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        values = json.loads(line)
        entries.append(_KINDS[values.pop("kind")](**values))
    return entries


def write_unsent(entries: list[Entry], path: Path) -> None:
    """Keep entries, one a line, for whoever goes on with the run."""
    lines = [json.dumps({"kind": type(e).__name__, **asdict(e)}) + "\n" for e in entries]
    # Whole or not at all: a run that is continued reads it again.
    temporary = path.with_suffix(".part")
    temporary.write_text("".join(lines), encoding="utf-8")
    temporary.replace(path)
