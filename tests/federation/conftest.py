"""Four sites of three tasks, small enough for a round in a second, through Flower's engine."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from common.config.run import RunConfig
from common.messages.kinds import Arrays, Metrics, SiteCard
from server.exchange.participation import Reply
from server.rounds.coordinate import RunResult
from server.rounds.round_report import NOTHING_BESIDE, Beside, Progress, RoundReport
from server.run.simulate import simulate
from tests.federation.engine import engine_in_this_process
from tests.small_demo import prepare_sites, small_demo

SITES = ("north", "harbour", "valley", "lakeside")


@pytest.fixture(scope="session")
def config() -> RunConfig:
    demo = small_demo("train.epochs=1", "federation.rounds=2", "evaluation.overlays_per_task=0")
    return demo.model_copy(update={"sites": tuple(s for s in demo.sites if s.name in SITES)})


@pytest.fixture(scope="session")
def shards(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return prepare_sites(config, tmp_path_factory.mktemp("shards"))


@dataclass(frozen=True)
class Norm:
    """Stands in for a central evaluation: how far the model is from zero."""

    score: float | None


def norm(arrays: Arrays, server_round: int, beside: Beside = NOTHING_BESIDE) -> Norm:
    del server_round, beside
    return Norm(float(sum(np.abs(array).mean() for array in arrays.values())))


@dataclass
class Kept:
    """A tracker that keeps what it is told."""

    cards: dict[str, SiteCard] = field(default_factory=dict)
    reports: list[RoundReport[Norm]] = field(default_factory=list)
    measured: dict[int, Mapping[str, Metrics]] = field(default_factory=dict)

    def run_started(self, cards: Mapping[str, SiteCard]) -> None:
        self.cards = dict(cards)

    def sites_joined(self, cards: Mapping[str, SiteCard]) -> None:
        self.cards |= cards

    def keep_round(self, report: RoundReport[Norm]) -> None:
        if report.server_round:
            self.measured[report.server_round - 1] = report.evaluations_before

    def round_finished(self, report: RoundReport[Norm]) -> None:
        self.reports.append(report)

    def sites_measured(self, server_round: int, evaluations: Mapping[str, Metrics]) -> None:
        self.measured[server_round] = evaluations


class Silent:
    """A progress that nobody watches."""

    def waiting_for(self, sites: Sequence[str]) -> None: ...
    def round_started(self, server_round: int, *, rounds: int, sites: Sequence[str]) -> None: ...
    def site_answered(self, site: str) -> None: ...
    def evaluating(self, server_round: int, *, sites: Sequence[str]) -> None: ...
    def round_finished(self, server_round: int, *, replies: Sequence[Reply]) -> None: ...


@dataclass(frozen=True)
class Ran:
    result: RunResult
    kept: Kept
    config: RunConfig


Run = Callable[..., Ran]


@pytest.fixture
def run(config: RunConfig, shards: dict[str, Path], tmp_path: Path) -> Run:
    """Return what runs the federation through Flower's engine: Ray, its processes, real bytes."""

    def run_once(
        out: str = "out",
        *,
        client_app: str = "client.app:app",
        progress: Progress | None = None,
        settings: Mapping[str, object] | None = None,
        **changed: Path,
    ) -> Ran:
        kept = Kept()
        result = simulate(
            config.model_copy(update=settings),
            shards={**shards, **changed},
            out=tmp_path / out,
            evaluator=norm,
            tracker=kept,
            progress=progress or Silent(),
            client_app=client_app,
        )
        return Ran(result, kept, config)

    return run_once


@pytest.fixture
def run_here(run: Run) -> Run:
    """Return the same with sites of this process: a run costs what its training does."""

    def run_once(*out: str, **changed: object) -> Ran:
        with engine_in_this_process():
            return run(*out, **changed)

    return run_once


@pytest.fixture(params=["here", pytest.param("flower", marks=pytest.mark.slow)])
def run_by(request: pytest.FixtureRequest, run: Run, run_here: Run) -> Run:
    """Return either, one after the other: Flower's engine among the tests that take long."""
    return run_here if request.param == "here" else run
