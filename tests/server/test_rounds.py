"""Whole runs over a grid that lives in this process, with sites that do simple sums."""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from client.app import client_app
from common.config import RunConfig
from common.config_file import config_digest, load_config
from common.datasets.card import DataCard, DuplicateCount, PartCount, PixelRange
from common.errors import RunError
from common.wire import (
    Arrays,
    EvaluateRequest,
    Evaluation,
    Refusal,
    SiteCard,
    TrainRequest,
    Update,
)
from server.checkpoint import NOTHING_EVALUATED, Checkpoint, ModelFiles, load_checkpoint
from server.exchange import Discovery, Exchange
from server.participation import Outcome, Reply, Status, verdict
from server.round_report import RoundReport
from server.rounds import Federation, measure_untrained, run_rounds
from server.strategies import STRATEGIES

CONFIGS = Path(__file__).parents[2] / "configs"
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


class SummingSite:
    """A site whose training moves every array by its own constant times the round."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.constant = float(1 + list(TASKS).index(name))
        self.requests: list[TrainRequest] = []

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
            EXAMPLES[self.name], 1, {"total": 0.5, "seconds": 0.1}, change,
        )  # fmt: skip

    def evaluate(self, request: EvaluateRequest) -> Evaluation | Refusal:
        mean = float(np.mean([array.mean() for array in request.arrays.values()]))
        return Evaluation(
            request.run, request.server_round, self.name, TASKS[self.name], 2, {"mean": mean}
        )


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
        return Refusal(self.name, "no training pictures")


class LateSite(SummingSite):
    """Answers for a round that is over."""

    def train(self, request: TrainRequest) -> Update | Refusal:
        stale = TrainRequest(**{**vars(request), "server_round": request.server_round + 7})
        return super().train(stale)


class GridInThisProcess(Grid):
    """Runs each node's ClientApp as soon as a message for it is pushed."""

    def __init__(self, sites: Sequence[SummingSite], *, mute: Sequence[str] = ()) -> None:
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
        self._apps: dict[int, ClientApp | None] = {
            100 + number: None if site.name in mute else client_app(_always(site))
            for number, site in enumerate(sites)
        }
        self._replies: dict[str, Message] = {}

    def set_run(self, run: Run) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Run:
        raise NotImplementedError

    def create_message(self, *args: object, **kwargs: object) -> Message:
        raise NotImplementedError

    def send_and_receive(self, *args: object, **kwargs: object) -> Iterable[Message]:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return list(self._apps)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        sent = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = str(uuid4())
            sent.append(message.metadata.message_id)
            node = message.metadata.dst_node_id
            app = self._apps[node]
            if app is not None:
                self._replies[message.metadata.message_id] = self._reply(app, node, message)
        return sent

    def _reply(self, app: ClientApp, node: int, message: Message) -> Message:
        context = Context(1, node, {}, RecordDict(), {})
        try:
            return app(message, context)
        except Exception as error:
            reply = Message(Error(code=3, reason=f"Traceback\n  {error}"), reply_to=message)
            # Flower's error replies may come from the SuperLink, not from the node.
            reply.metadata.__dict__["_src_node_id"] = 1
            return reply

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self._replies.pop(i) for i in message_ids if i in self._replies]


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

    def run_started(self, cards: Mapping[str, SiteCard]) -> None:
        self.cards = cards

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


def federation(
    config: RunConfig,
    sites: Sequence[SummingSite],
    out: Path,
    *,
    mute: Sequence[str] = (),
    scores: Callable[[int], float | None] = float,
) -> Federation[Score]:
    exchange = Exchange(GridInThisProcess(sites, mute=mute), run="run", stop=threading.Event())
    progress = ProgressWatcher()
    discovery = exchange.discover(list(TASKS), wait_s=0.3, waiting_for=progress.waiting_for)
    return Federation(
        run="run",
        config=config,
        discovery=discovery,
        exchange=exchange,
        strategy=STRATEGIES.get(config.federation.strategy)(config),
        evaluator=lambda _arrays, server_round: Score(scores(server_round)),
        tracker=TrackingWatcher(),
        progress=progress,
        files=ModelFiles(out),
    )


def run_whole(made: Federation[Score], begin: Checkpoint) -> Checkpoint:
    return run_rounds(made, begin, untrained=measure_untrained(made.evaluator, begin.model))


def reports(made: Federation[Score]) -> list[RoundReport[Score]]:
    assert isinstance(made.tracker, TrackingWatcher)
    return made.tracker.reports


def outcomes(report: RoundReport[Score]) -> dict[str, tuple[Outcome, str]]:
    return {site.site: (site.outcome, site.reason) for site in report.sites}


@pytest.fixture
def everyone() -> list[SummingSite]:
    return [SummingSite(name) for name in TASKS]


def test_trunk_and_heads_follow_the_weighted_means(
    everyone: list[SummingSite], tmp_path: Path
) -> None:
    config = run_config("federation.rounds=1")

    last = run_whole(federation(config, everyone, tmp_path), start(config))

    trunk = (10 * 1 + 30 * 2 + 20 * 3 + 40 * 4) / 100
    np.testing.assert_allclose(last.model["trunk.w"], trunk)
    np.testing.assert_allclose(last.model["heads.chestx.w"], (10 * 1 + 30 * 2) / 40)
    np.testing.assert_allclose(last.model["heads.retina.w"], 3)
    np.testing.assert_allclose(last.model["heads.pathoscan.w"], 4)


def test_a_site_is_sent_the_trunk_and_its_own_head_and_its_place_in_the_schedule(
    everyone: list[SummingSite], tmp_path: Path
) -> None:
    config = run_config("train.batch_size=4", "train.epochs=2")

    run_whole(federation(config, everyone, tmp_path), start(config))

    sent = everyone[0].requests[1]
    assert set(sent.arrays) == {"trunk.w", "heads.chestx.w"}
    assert (sent.global_step, sent.total_steps) == (6, 18)  # 10 pictures: 3 steps, twice a round


def test_a_crashing_site_is_named_and_the_round_goes_on(tmp_path: Path) -> None:
    config = run_config("federation.rounds=1")
    sites = [CrashingSite("north"), *(SummingSite(name) for name in list(TASKS)[1:])]
    made = federation(config, sites, tmp_path)

    last = run_whole(made, start(config))

    assert outcomes(reports(made)[1])["north"] == (
        Outcome.FAILED,
        "MemoryError; the site's log says more",
    )
    judged = verdict(last.participation, sites=list(TASKS), required_sites=[])
    assert judged.status is Status.PARTIAL
    assert judged.reasons == (
        "site north failed in round 1: MemoryError; the site's log says more.",
    )
    np.testing.assert_allclose(last.model["heads.chestx.w"], 2)


def test_an_update_with_nan_is_refused_by_name_and_the_round_goes_on(tmp_path: Path) -> None:
    config = run_config("federation.rounds=1")
    sites = [NanSite("north"), *(SummingSite(name) for name in list(TASKS)[1:])]
    made = federation(config, sites, tmp_path)

    last = run_whole(made, start(config))

    outcome, reason = outcomes(reports(made)[1])["north"]
    assert outcome is Outcome.REJECTED
    assert reason == "array 'trunk.w' holds non-finite values"
    assert all(np.isfinite(array).all() for array in last.model.values())


def test_a_refusal_is_a_result(tmp_path: Path) -> None:
    config = run_config("federation.rounds=1")
    sites = [EmptySite("north"), *(SummingSite(name) for name in list(TASKS)[1:])]
    made = federation(config, sites, tmp_path)

    run_whole(made, start(config))

    assert outcomes(reports(made)[1])["north"] == (Outcome.REFUSED, "no training pictures")


def test_an_answer_of_another_round_is_not_used(tmp_path: Path) -> None:
    config = run_config("federation.rounds=1")
    sites = [LateSite("north"), *(SummingSite(name) for name in list(TASKS)[1:])]
    made = federation(config, sites, tmp_path)

    run_whole(made, start(config))

    assert outcomes(reports(made)[1])["north"][0] is Outcome.REJECTED


def test_a_silent_site_is_waited_for_by_name_and_then_reported_missing(tmp_path: Path) -> None:
    config = run_config("federation.rounds=1")
    everyone = [SummingSite(name) for name in TASKS]
    made = federation(config, everyone, tmp_path, mute=["coast"])

    run_whole(made, start(config))

    assert isinstance(made.progress, ProgressWatcher)
    assert made.progress.waited_for == [list(TASKS), ["coast"]]
    assert outcomes(reports(made)[1])["coast"][0] is Outcome.MISSING


def test_too_few_updates_leave_the_model_as_it_is(tmp_path: Path) -> None:
    config = run_config("federation.rounds=1", "federation.min_sites=4")
    sites = [EmptySite("north"), *(SummingSite(name) for name in list(TASKS)[1:])]
    made = federation(config, sites, tmp_path)

    last = run_whole(made, start(config))

    assert not reports(made)[1].changed_model
    assert not last.model["trunk.w"].any()


def test_local_layers_are_neither_expected_nor_merged(tmp_path: Path) -> None:
    class KeepingSite(SummingSite):
        def train(self, request: TrainRequest) -> Update | Refusal:
            answer = super().train(request)
            assert isinstance(answer, Update)
            return self.update(request, {"trunk.w": answer.arrays["trunk.w"]})

    config = run_config("federation.rounds=1", "federation.local_layers=[heads]")
    made = federation(config, [KeepingSite(name) for name in TASKS], tmp_path)

    last = run_whole(made, start(config))

    assert {outcome for outcome, _ in outcomes(reports(made)[1]).values()} == {Outcome.ANSWERED}
    assert last.model["trunk.w"].all()
    assert not last.model["heads.chestx.w"].any()


def test_a_layer_that_should_stay_local_is_refused(
    everyone: list[SummingSite], tmp_path: Path
) -> None:
    config = run_config("federation.rounds=1", "federation.local_layers=[heads.chestx]")
    made = federation(config, everyone, tmp_path)

    run_whole(made, start(config))

    assert "'heads.chestx.w' was not asked for" in outcomes(reports(made)[1])["north"][1]


def test_sites_evaluate_on_their_own_beside_the_coordinator(
    everyone: list[SummingSite], tmp_path: Path
) -> None:
    config = run_config("federation.rounds=1")
    made = federation(config, everyone, tmp_path)

    run_whole(made, start(config))

    evaluations = {site.site: site.evaluation for site in reports(made)[1].sites}
    assert evaluations["valley"] == {"mean": pytest.approx((2.9 + 3.0) / 2)}


def test_the_model_is_measured_before_training_and_always_after_the_last_round(
    everyone: list[SummingSite], tmp_path: Path
) -> None:
    config = run_config("federation.rounds=5", "evaluation.every_rounds=2")
    made = federation(config, everyone, tmp_path)

    run_whole(made, start(config))

    measured = [report.server_round for report in reports(made) if report.central is not None]
    assert measured == [0, 2, 4, 5]


def test_the_run_stops_when_the_score_no_longer_improves_and_keeps_the_best_model(
    everyone: list[SummingSite], tmp_path: Path
) -> None:
    config = run_config("federation.rounds=9", "federation.patience=2")
    scores = {0: 0.5, 1: 0.7, 2: 0.8, 3: 0.8, 4: None}
    made = federation(config, everyone, tmp_path, scores=scores.__getitem__)

    last = run_whole(made, start(config))

    best = load_arrays(made.files.best)
    assert last.server_round == 4
    assert last.progression.best_round == 2
    np.testing.assert_array_equal(best["trunk.w"], reports(made)[2].model["trunk.w"])
    np.testing.assert_array_equal(load_arrays(made.files.last)["trunk.w"], last.model["trunk.w"])


@pytest.mark.parametrize("strategy", ["fedavg", "fedadam"])
def test_a_run_continued_from_its_checkpoint_has_the_bits_of_an_undisturbed_one(
    strategy: str, everyone: list[SummingSite], tmp_path: Path
) -> None:
    config = run_config("federation.rounds=4", f"federation.strategy={strategy}")
    undisturbed = run_whole(federation(config, everyone, tmp_path / "whole"), start(config))

    class StoppedError(Exception):
        pass

    def stops(server_round: int) -> float:
        if server_round == 3:
            raise StoppedError
        return float(server_round)

    broken = federation(config, everyone, tmp_path / "broken", scores=stops)
    with pytest.raises(StoppedError):
        run_whole(broken, start(config))
    kept = load_checkpoint(broken.files.checkpoint, config_digest=config_digest(config))
    continued = run_rounds(federation(config, everyone, tmp_path / "broken"), kept, untrained=None)

    assert kept.server_round == 2
    assert continued.server_round == undisturbed.server_round
    assert continued.participation == undisturbed.participation
    assert continued.progression == undisturbed.progression
    for name, array in undisturbed.model.items():
        assert continued.model[name].tobytes() == array.tobytes()


def test_a_checkpoint_of_another_configuration_is_refused(
    everyone: list[SummingSite], tmp_path: Path
) -> None:
    config = run_config("federation.rounds=1")
    made = federation(config, everyone, tmp_path)
    run_whole(made, start(config))

    with pytest.raises(RunError, match="another configuration"):
        load_checkpoint(made.files.checkpoint, config_digest="another")


def test_two_nodes_of_one_name_are_refused() -> None:
    twins = [SummingSite("north"), SummingSite("north")]
    exchange = Exchange(GridInThisProcess(twins), run="run", stop=threading.Event())

    with pytest.raises(RunError, match="two nodes say they are site north"):
        exchange.discover(["north"], wait_s=1.0, waiting_for=lambda _: None)


def test_a_site_that_is_not_of_the_run_is_left_out() -> None:
    sites = [SummingSite("north"), SummingSite("coast")]
    exchange = Exchange(GridInThisProcess(sites), run="run", stop=threading.Event())

    found: Discovery = exchange.discover(["north"], wait_s=1.0, waiting_for=lambda _: None)

    assert set(found.cards) == {"north"}


def test_waiting_ends_when_the_run_is_stopped() -> None:
    stop = threading.Event()
    stop.set()
    exchange = Exchange(GridInThisProcess([]), run="run", stop=stop)

    with pytest.raises(RunError, match="stopped"):
        exchange.discover(["north"], wait_s=60.0, waiting_for=lambda _: None)


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(path)
