"""Finished networks of the study, kept one by one: a study of hours survives being interrupted."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from common.studies.looks_config import LooksConfig, ScenarioConfig
from common.studies.looks_measures import Looks


@dataclass(frozen=True)
class Run:
    """One network to train and measure."""

    scenario: str
    variant: str
    seed: int


@dataclass(frozen=True)
class Result:
    """What came of it."""

    run: Run
    looks: Looks
    last_loss: float
    step_ms: float


def plan_digest(run: Run, scenario: ScenarioConfig, config: LooksConfig) -> str:
    """Return a digest of the settings and the code that decide a network, in hexadecimal."""
    decisive = [
        run.variant,
        str(run.seed),
        scenario.phantom.model_dump_json(),
        scenario.training.model_dump_json(),
        json.dumps(scenario.changes),
        scenario.variants[run.variant].model_dump_json(),
        config.loss.model_dump_json(),
        Path(scenario.model).read_text(encoding="utf-8"),
        _code(),
    ]
    return hashlib.sha256("\x1f".join(decisive).encode()).hexdigest()


@cache
def _code() -> str:
    """Return a digest of the code that decides a network: after a change it is trained anew."""
    root = Path(__file__).parent.parent
    files = [
        root / "learning" / "loss.py",
        *(root / "model").glob("*.py"),
        *(root / "studies").glob("*.py"),
    ]
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.read_bytes())
    return digest.hexdigest()


class KeptResults:
    """A file with one line per finished network."""

    def __init__(self, path: Path) -> None:
        """Use a file; it is made with the first result."""
        self._path = path

    def keep(self, result: Result, digest: str) -> None:
        """Add a network."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"digest": digest} | asdict(result))
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def known(self, digests: Iterable[str]) -> dict[str, Result]:
        """Return the networks that were finished with exactly these settings."""
        if not self._path.exists():
            return {}
        wanted = set(digests)
        found: dict[str, Result] = {}
        for line in self._path.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            if entry["digest"] in wanted:
                found[entry["digest"]] = Result(
                    run=Run(**entry["run"]),
                    looks=Looks(**entry["looks"]),
                    last_loss=entry["last_loss"],
                    step_ms=entry["step_ms"],
                )
        return found
