"""Four sites of three tasks, small enough for a round in a second, through Flower's engine."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from common.config import PhantomSource, RunConfig
from common.config_file import load_config
from common.datasets.prepare import prepare_shard
from common.datasets.sources import open_source
from common.seed import derive_seed
from common.wire import Arrays, Metrics, SiteCard
from server.exchange.participation import Reply
from server.rounds.coordinate import RunResult
from server.rounds.round_report import NOTHING_BESIDE, Beside, Progress, RoundReport
from server.run.simulate import simulate

CONFIGS = Path(__file__).parents[2] / "configs"
SITES = ("north", "harbour", "valley", "lakeside")


def tiny_config() -> RunConfig:
    small = ["data.image_size_px=64", "model.image_size_px=64", "train.batch_size=8"]
    small += ["train.epochs=1", "federation.rounds=2", "evaluation.overlays_per_task=0"]
    # A site needs no core of its own here, and one process starts sooner than two.
    small += [f"sites.{number}.source.patients=20" for number in range(5)]
    config = load_config(CONFIGS / "experiments" / "demo.yaml", small).run
    sites = tuple(site for site in config.sites if site.name in SITES)
    return config.model_copy(update={"sites": sites})


@pytest.fixture(scope="session")
def config() -> RunConfig:
    return tiny_config()


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    config = tiny_config()
    root = tmp_path_factory.mktemp("shards")
    for site in config.sites:
        assert isinstance(site.source, PhantomSource)
        source = open_source(
            site.source,
            task=config.task(site.task),
            data_root=root,
            config_root=CONFIGS,
            site=site.name,
            seed=derive_seed(config.seed, site.name),
        )
        prepare_shard(
            source,
            task=config.task(site.task),
            parts={"train": 0.7, "val": 0.2, "test": 0.1},
            data=config.data,
            seed=config.seed,
            out=root / site.name,
        )
    return {site.name: root / site.name for site in config.sites}


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
