"""Runs whose sites do simple sums, over a grid of this process, for the tests of rounds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from flwr.app import Context
from flwr.serverapp import Grid

from client.app import client_app
from common.config.reading import config_digest, load_config
from common.config.run import RunConfig
from common.datasets.card import DataCard, DuplicateCount, PartCount, PixelRange
from common.messages.kinds import (
    Arrays,
    EvaluateRequest,
    Evaluation,
    Keys,
    KeysRequest,
    Metrics,
    Refusal,
    RefusalCode,
    Shares,
    SiteCard,
    TrainRequest,
    UnmaskRequest,
    Update,
)
from server.exchange.exchange import Exchange
from server.exchange.participation import Outcome, Reply
from server.exchange.sealing import Unsealed
from server.record.checkpoint import NOTHING_EVALUATED, Checkpoint, ModelFiles
from server.rounds.coordinate import Instruments, RunResult, coordinate
from server.rounds.round_report import NOTHING_BESIDE, RoundReport
from server.rounds.rounds import Federation, measure_untrained, run_rounds
from server.strategies import STRATEGIES
from tests.server.rounds.grid import GridInThisProcess

CONFIGS = Path(__file__).parents[3] / "configs"
TASKS = {"north": "chestx", "harbour": "chestx", "valley": "retina", "coast": "pathoscan"}
EXAMPLES = {"north": 10, "harbour": 30, "valley": 20, "coast": 40}


def data_card(task: str, *, pictures: int) -> DataCard:
    """A card of a shard that has only a training part."""
    sides = PixelRange(smallest=64, median=64, largest=64)
    part = PartCount(
        name="train", pictures=pictures, patients=pictures, classes=(), lesion_pictures=0
    )
    nothing = DuplicateCount(
        exact=0, near=0, shared_pictures=0, straddling_pictures=0, straddling_patients=0,
        conflicts=0,
    )  # fmt: skip
    return DataCard(
        task=task, image_size_px=64, pictures=pictures, patients=pictures, parts=(part,),
        regions=(), width_px=sides, height_px=sides, exclusions={}, duplicates=nothing, notes=(),
    )  # fmt: skip


def mean_of(arrays: Arrays) -> float:
    return float(np.mean([array.mean() for array in arrays.values()]))


class SummingSite:
    """A site whose training moves every array by its own constant times the round."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.constant = float(1 + list(TASKS).index(name))
        self.requests: list[TrainRequest] = []
        self.evaluated: list[int] = []

    def describe(self) -> SiteCard:
        card = data_card(TASKS[self.name], pictures=EXAMPLES[self.name])
        return SiteCard(self.name, TASKS[self.name], EXAMPLES[self.name], 2, card.as_json())

    def train(self, request: TrainRequest) -> Update | Refusal:
        self.requests.append(request)
        change = {
            name: np.full_like(array, self.constant * request.server_round)
            for name, array in request.arrays.items()
        }
        return self.update(request, change)

    def update(self, request: TrainRequest, change: Arrays) -> Update:
        return Update(
            request.run, request.server_round, self.name, TASKS[self.name],
            EXAMPLES[self.name], 1, {"total": 0.5, "seconds": 0.1},
            {"mean": mean_of(request.arrays)} if request.evaluates else {}, change,
        )  # fmt: skip

    def keys(self, request: KeysRequest) -> Keys | Refusal:
        return Refusal(self.name, RefusalCode.UNABLE, f"no keys for round {request.server_round}")

    def unmask(self, request: UnmaskRequest) -> Shares | Refusal:
        return Refusal(self.name, RefusalCode.UNABLE, f"no sum in round {request.server_round}")

    def evaluate(self, request: EvaluateRequest) -> Evaluation | Refusal:
        self.evaluated.append(request.server_round)
        return Evaluation(
            request.run, request.server_round, self.name, TASKS[self.name], 2,
            {"mean": mean_of(request.arrays)},
        )  # fmt: skip


class CrashingSite(SummingSite):
    def train(self, request: TrainRequest) -> Update | Refusal:
        raise MemoryError("out of memory")


class NanSite(SummingSite):
    def train(self, request: TrainRequest) -> Update | Refusal:
        change = {name: np.zeros_like(array) for name, array in request.arrays.items()}
        change["trunk.w"] = np.full_like(change["trunk.w"], np.nan)
        return self.update(request, change)


class EmptySite(SummingSite):
    def train(self, request: TrainRequest) -> Update | Refusal:
        return Refusal(self.name, RefusalCode.UNABLE, "no training pictures")


class LateSite(SummingSite):
    """Answers for a round that is over."""

    def train(self, request: TrainRequest) -> Update | Refusal:
        stale = TrainRequest(**{**vars(request), "server_round": request.server_round + 7})
        return super().train(stale)


class GridOfSites(GridInThisProcess):
    """The sites of a list, the first being the first node; mute ones never answer."""

    def __init__(self, sites: Sequence[SummingSite], *, mute: Sequence[str] = ()) -> None:
        apps = [None if s.name in mute else client_app(_always(s)) for s in sites]
        super().__init__(apps)


def _always(site: SummingSite) -> Callable[[Context], tuple[str, SummingSite]]:
    return lambda _context: (site.name, site)


@dataclass(frozen=True)
class Score:
    score: float | None


@dataclass
class Watcher:
    """Keeps what the rounds tell; tracker and progress in one."""

    reports: list[RoundReport[Score]] = field(default_factory=list)
    waited_for: list[list[str]] = field(default_factory=list)
    asked: list[list[str]] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)

    measured: dict[int, Mapping[str, Metrics]] = field(default_factory=dict)

    def run_started(self, cards: Mapping[str, SiteCard]) -> None:
        self.cards = dict(cards)

    def sites_joined(self, cards: Mapping[str, SiteCard]) -> None:
        self.cards |= cards

    def keep_round(self, report: RoundReport[Score]) -> None:
        if report.server_round:
            self.measured[report.server_round - 1] = report.evaluations_before

    def sites_measured(self, server_round: int, evaluations: Mapping[str, Metrics]) -> None:
        self.measured[server_round] = evaluations

    def waiting_for(self, sites: Sequence[str]) -> None:
        self.waited_for.append(list(sites))

    def round_started(self, server_round: int, *, rounds: int, sites: Sequence[str]) -> None:
        self.asked.append(list(sites))

    def site_answered(self, site: str) -> None:
        self.answered.append(site)

    def evaluating(self, server_round: int, *, sites: Sequence[str]) -> None:
        pass


class TrackingWatcher(Watcher):
    def round_finished(self, report: RoundReport[Score]) -> None:
        self.reports.append(report)


class ProgressWatcher(Watcher):
    def round_finished(self, server_round: int, *, replies: Sequence[Reply]) -> None:
        pass


def model() -> dict[str, np.ndarray]:
    names = ["trunk.w", *(f"heads.{task}.w" for task in ("chestx", "retina", "pathoscan"))]
    return {name: np.zeros((2, 3), np.float32) for name in names}


def run_config(*overrides: str) -> RunConfig:
    return load_config(
        CONFIGS / "default.yaml", ["federation.rounds=3", "federation.patience=99", *overrides]
    ).run


def start(config: RunConfig) -> Checkpoint:
    return Checkpoint("run", config_digest(config), 0, model(), {}, (), NOTHING_EVALUATED)


def an_exchange(
    grid: Grid, *, tasks: Mapping[str, str], stop: Callable[[], bool] = lambda: False
) -> Exchange:
    return Exchange(
        grid, run="run", tasks=tasks, nodes=None, sealing=Unsealed(), stop=stop, return_grace_s=0.0
    )


def federation(
    config: RunConfig,
    sites: Sequence[SummingSite],
    out: Path,
    *,
    mute: Sequence[str] = (),
    scores: Callable[[int], float | None] = float,
    grid: Grid | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Federation[Score]:
    exchange = an_exchange(grid or GridOfSites(sites, mute=mute), tasks=TASKS, stop=stop)
    progress = ProgressWatcher()
    discovery = exchange.discover(wait_s=0.3, waiting_for=progress.waiting_for)
    return Federation(
        run="run",
        config=config,
        discovery=discovery,
        exchange=exchange,
        strategy=STRATEGIES.get(config.federation.strategy)(config),
        evaluator=lambda _arrays, server_round, _beside=NOTHING_BESIDE: Score(scores(server_round)),
        tracker=TrackingWatcher(),
        progress=progress,
        files=ModelFiles(out),
    )


def run_whole(made: Federation[Score], begin: Checkpoint) -> Checkpoint:
    untrained = measure_untrained(made.evaluator, begin.model)
    return run_rounds(made, begin, untrained=untrained).state


def measured(made: Federation[Score]) -> dict[int, Mapping[str, Metrics]]:
    assert isinstance(made.tracker, TrackingWatcher)
    return made.tracker.measured


def reports(made: Federation[Score]) -> list[RoundReport[Score]]:
    assert isinstance(made.tracker, TrackingWatcher)
    return made.tracker.reports


def outcomes(report: RoundReport[Score]) -> dict[str, tuple[Outcome, str]]:
    return {site.site: (site.outcome, site.reason) for site in report.sites}


class CrashError(BaseException):
    """Stands for the end of the process: nothing of ours may catch it."""


class CrashingProgress(ProgressWatcher):
    """Breaks off when the second site of a round has answered."""

    crash_in, now, answers = 0, -1, 0

    def round_started(self, server_round: int, *, rounds: int, sites: Sequence[str]) -> None:
        self.now, self.answers = server_round, 0

    def site_answered(self, site: str) -> None:
        self.answers += 1
        if (self.now, self.answers) == (self.crash_in, 2):
            raise CrashError


def coordinated(config: RunConfig, out: Path, *, resume: Checkpoint) -> RunResult:
    """Go on with a run whose sites are all away."""
    watcher = ProgressWatcher()
    return coordinate(
        GridOfSites([]),
        config,
        STRATEGIES.get(config.federation.strategy)(config),
        Instruments(
            lambda _arrays, _round, _beside=NOTHING_BESIDE: Score(0.5),
            TrackingWatcher(),
            watcher,
            ModelFiles(out),
        ),
        run="run",
        nodes={site: 100 + number for number, site in enumerate(TASKS)},
        sealing=Unsealed(),
        site_keys={},
        stop=lambda: False,
        resume=resume,
    )


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(path)
