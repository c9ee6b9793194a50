"""Runs with a real journal that break off anywhere, and are told as if they had not."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from common.config.reading import config_digest
from common.config.run import RunConfig
from common.learning.evaluate import TaskReport
from common.messages.kinds import Arrays
from server.journal.journal import Journal
from server.journal.kept_rounds import KeptRounds
from server.journal.tracking import connect, continue_tracking, start_tracking
from server.measuring.explanation_watch import WatchReport
from server.measuring.overlays import OverlayCase, OverlayMap
from server.record.checkpoint import Checkpoint, ModelFiles, load_checkpoint
from server.record.summary import RoundEntry
from server.rounds.round_report import NOTHING_BESIDE, Beside, RoundReport
from server.rounds.rounds import measure_untrained, run_rounds
from tests.server.rounds.small_runs import (
    EXAMPLES,
    TASKS,
    CrashError,
    CrashingProgress,
    SummingSite,
    federation,
    load_arrays,
    mean_of,
    run_config,
    start,
)


@dataclass(frozen=True)
class Seen:
    """A central result with a picture, as far as the journal looks at one."""

    score: float | None
    overlays: Mapping[str, tuple[OverlayMap, ...]]
    reports: Mapping[str, TaskReport] = field(default_factory=dict)
    wall_s: float = 0.0
    explanation: WatchReport | None = None
    extremes: Mapping[str, object] = field(default_factory=dict)


def seen(arrays: Arrays, server_round: int, _beside: Beside = NOTHING_BESIDE) -> Seen:
    saliency = np.full((4, 4), 1 / 16, np.float32)
    said = f"round {server_round}"
    shown = OverlayMap(saliency, 1 / 3, said, mean_of(arrays), None, None)
    return Seen({0: 0.1, 1: 0.9, 2: 0.5, 3: 0.7}[server_round], {"chestx": (shown,)})


class CrashingJournal(Journal):
    """Breaks off at one place of one round."""

    crash: tuple[str, int] | None = None

    def keep_round(self, report: RoundReport[Seen]) -> None:
        self._maybe("before keeping", report.server_round)
        super().keep_round(report)
        self._maybe("before the checkpoint", report.server_round)

    def round_finished(self, report: RoundReport[Seen]) -> None:
        self._maybe("before telling", report.server_round)
        super().round_finished(report)
        self._maybe("after telling", report.server_round)

    def _maybe(self, where: str, server_round: int) -> None:
        if self.crash == (where, server_round):
            raise CrashError


class CrashingFiles(ModelFiles):
    """Breaks off after the checkpoint of round 1, before its best model is written."""

    @property
    def best(self) -> Path:
        content = self.checkpoint.read_bytes()
        if b'\\"server_round\\": 1' in content[:20_000]:
            raise CrashError
        return super().best


CRASHES = [
    "before the checkpoint",
    "before the best model",
    "before telling",
    "during round 2",
    pytest.param("before keeping", marks=pytest.mark.slow),
    pytest.param("after telling", marks=pytest.mark.slow),
]
UNKEPT = ("before keeping", "before the checkpoint")


@pytest.fixture(scope="module")
def database(empty_tracking_database: Callable[[], Path]) -> Path:
    """MLflow's tables without a run."""
    return empty_tracking_database()


@dataclass(frozen=True)
class Whole:
    """A run as it lies on the disk when it is over."""

    last: Checkpoint
    rounds: list[RoundEntry]
    files: ModelFiles
    out: Path
    mlflow_run: str


def kept_run(
    config: RunConfig,
    out: Path,
    *,
    crash: str | None = None,
    resume: Checkpoint | None = None,
    mute: Sequence[str] = (),
) -> Whole:
    """Run three rounds with a real journal, or what is left of them."""
    if resume is None:
        tracker = start_tracking(config, out=out, tags={})
    else:
        note = KeptRounds(out).read_note()
        tracker = continue_tracking(config, note.tracking_run_id, out=out, tags={})
    case = OverlayCase(np.zeros((64, 64, 1), np.uint8), None, "Mass?", "Mass")
    journal = CrashingJournal(
        config, out=out, tracker=tracker, cases={"chestx": [case]}, started_at=datetime.now(UTC)
    )
    if resume is None:
        journal.begin({})
    else:
        journal.go_on({}, after=resume.server_round)
    journal.crash = (crash, 1) if crash else None
    progress = CrashingProgress()
    progress.crash_in = 2 if crash == "during round 2" else 0
    kind = CrashingFiles if crash == "before the best model" else ModelFiles
    made = replace(
        federation(config, [SummingSite(name) for name in TASKS], out, mute=mute),
        evaluator=seen,
        tracker=journal,
        progress=progress,
        files=kind(out / "model"),
    )
    begin = resume or start(config)
    untrained = None if resume else measure_untrained(seen, begin.model)
    last = run_rounds(made, begin, untrained=untrained).state
    rounds = [
        entry.model_copy(update={"wall_s": 0.0, "central_s": 0.0}) for entry in journal.rounds()
    ]
    return Whole(last, rounds, ModelFiles(out / "model"), out, tracker.run_id)


@pytest.fixture(scope="module")
def undisturbed(database: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    out = tmp_path_factory.mktemp("undisturbed")
    shutil.copy(database, out / "mlflow.db")
    return kept_run(run_config("federation.strategy=fedadam"), out)


@pytest.mark.parametrize("crash", CRASHES)
def test_a_run_that_broke_off_anywhere_ends_as_an_undisturbed_one(
    crash: str, undisturbed: Whole, database: Path, tmp_path: Path
) -> None:
    config = run_config("federation.strategy=fedadam")
    shutil.copy(database, tmp_path / "mlflow.db")
    with pytest.raises(CrashError):
        kept_run(config, tmp_path, crash=crash)
    path = ModelFiles(tmp_path / "model").checkpoint
    state = load_checkpoint(path, config_digest=config_digest(config))

    ended = kept_run(config, tmp_path, resume=state)

    assert state.server_round == (0 if crash in UNKEPT else 1)
    assert ended.last.participation == undisturbed.last.participation
    assert ended.last.progression == undisturbed.last.progression
    for name in ("best", "last", "checkpoint"):
        expected = load_arrays(getattr(undisturbed.files, name))
        arrays = load_arrays(getattr(ended.files, name))
        assert arrays.keys() == expected.keys()
        assert all(np.array_equal(arrays[key], expected[key]) for key in expected), name
    assert ended.rounds == undisturbed.rounds
    assert [entry.round for entry in ended.rounds] == [0, 1, 2, 3]
    client = connect(f"sqlite:///{tmp_path / 'mlflow.db'}")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert [run.info.run_id for run in runs] == [ended.mlflow_run]
    for name in ("round/score", "federated/valley/mean"):
        history = client.get_metric_history(ended.mlflow_run, name)
        points = {(metric.step, metric.value) for metric in history}
        assert sorted(step for step, _ in points) == [0, 1, 2, 3]
        # What was told just before the crash may be told again: the same number once more.
        assert len(history) <= len(points) + (crash == "after telling")


def test_the_rounds_kept_have_what_sites_found_and_the_pictures(undisturbed: Whole) -> None:
    found = [
        {site.site: site.evaluation.get("mean") for site in entry.sites}
        for entry in undisturbed.rounds
    ]
    assert all(None not in by_site.values() and len(by_site) == 4 for by_site in found)
    (first,) = KeptRounds(undisturbed.out).read(until=3)[0].maps["chestx"]
    assert first.evidence_logits == 1 / 3
    assert (first.prediction, first.chance_energy) == ("round 0", None)


def test_a_run_that_broke_off_while_it_closed_ends_alike_though_a_site_has_left(
    undisturbed: Whole, tmp_path: Path
) -> None:
    config = run_config("federation.strategy=fedadam")
    shutil.copytree(undisturbed.out, tmp_path / "again")
    files = ModelFiles(tmp_path / "again" / "model")
    state = load_checkpoint(files.checkpoint, config_digest=config_digest(config))

    ended = kept_run(config, tmp_path / "again", resume=state, mute=["coast"])

    assert ended.rounds == undisturbed.rounds
    assert KeptRounds(ended.out).read_note().num_examples == EXAMPLES


def test_a_run_whose_mlflow_run_is_gone_is_told_anew_in_another(
    database: Path, tmp_path: Path
) -> None:
    config = run_config("federation.strategy=fedadam")
    shutil.copy(database, tmp_path / "mlflow.db")
    with pytest.raises(CrashError):
        kept_run(config, tmp_path, crash="during round 2")
    shutil.copy(database, tmp_path / "mlflow.db")
    path = ModelFiles(tmp_path / "model").checkpoint

    ended = kept_run(
        config, tmp_path, resume=load_checkpoint(path, config_digest=config_digest(config))
    )

    client = connect(f"sqlite:///{tmp_path / 'mlflow.db'}")
    history = client.get_metric_history(ended.mlflow_run, "round/score")
    assert [metric.step for metric in history] == [0, 1, 2, 3]
