"""Whole runs over a grid that lives in this process, with sites that do simple sums."""

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from client.app import client_app
from client.training.state import LocalState
from common.config import RunConfig
from common.config_file import canonical_json, config_digest, load_config
from common.datasets.card import DataCard, DuplicateCount, PartCount, PixelRange
from common.errors import ConfigError, RunError
from common.evaluate import TaskReport
from common.wire import (
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
from server.exchange.exchange import Discovery, Exchange
from server.exchange.participation import Outcome, Reply, Status, verdict
from server.exchange.requests import train_requests
from server.exchange.sealing import Unsealed
from server.exchange.site_config import told
from server.journal.journal import Journal
from server.journal.kept_rounds import KeptRounds
from server.journal.tracking import connect, continue_tracking, start_tracking
from server.measuring.explanation_watch import WatchReport
from server.measuring.overlays import OverlayCase, OverlayMap
from server.record.checkpoint import NOTHING_EVALUATED, Checkpoint, ModelFiles, load_checkpoint
from server.record.summary import RoundEntry
from server.rounds.coordinate import Instruments, RunResult, coordinate
from server.rounds.round_report import NOTHING_BESIDE, Beside, RoundReport
from server.rounds.rounds import Federation, measure_untrained, run_rounds
from server.strategies import STRATEGIES, TrainPlan

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

    def get_nodes(self) -> Iterable[NodeInfo]:
        return [NodeInfo(node_id=node) for node in self._apps]

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
            code = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
            reply = Message(Error(code=code, reason=f"Traceback\n  {error}"), reply_to=message)
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
    exchange = an_exchange(grid or GridInThisProcess(sites, mute=mute), tasks=TASKS, stop=stop)
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


def test_private_training_counts_its_steps_from_the_configuration_and_no_pictures(
    everyone: list[SummingSite], tmp_path: Path
) -> None:
    config = run_config("privacy.enabled=true", "privacy.steps_per_round=7")

    run_whole(federation(config, everyone, tmp_path), start(config))

    places = {(s.requests[1].global_step, s.requests[1].total_steps) for s in everyone}
    assert places == {(7, 21)}


def test_sites_that_give_no_keys_for_the_secure_sum_leave_the_model_as_it_is(
    everyone: list[SummingSite], tmp_path: Path
) -> None:
    config = run_config("federation.rounds=1", "secure_aggregation.enabled=true")
    made = federation(config, everyone, tmp_path)

    last = run_whole(made, start(config))

    assert outcomes(reports(made)[1])["north"] == (Outcome.REFUSED, "no keys for round 0")
    assert not last.model["trunk.w"].any()
    summed = reports(made)[1].summed
    assert summed is not None
    assert summed.reason == "0 sites gave keys for the secure sum, 3 are needed"
    # Nobody was asked to train, nor for a measurement that would be one site's own.
    assert not everyone[0].requests
    assert not everyone[0].evaluated


def test_a_secure_sum_needs_the_key_that_every_site_signs_with(tmp_path: Path) -> None:
    config = run_config("secure_aggregation.enabled=true")

    with pytest.raises(ConfigError, match="the key that site"):
        coordinated(config, tmp_path, resume=start(config))


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
    config = run_config("federation.rounds=2")
    made = federation(config, everyone, tmp_path)

    run_whole(made, start(config))

    found = {number: by_site["valley"]["mean"] for number, by_site in measured(made).items()}
    assert found == {0: 0.0, 1: pytest.approx((2.9 + 3.0) / 2), 2: pytest.approx(3 * 2.95)}
    # The model of a round comes with the next one's request; only the last is asked for alone.
    assert everyone[2].evaluated == [2]


def test_sites_measure_only_the_rounds_that_are_measured(
    everyone: list[SummingSite], tmp_path: Path
) -> None:
    config = run_config("federation.rounds=5", "evaluation.every_rounds=2")
    made = federation(config, everyone, tmp_path)

    run_whole(made, start(config))

    assert [request.evaluates for request in everyone[0].requests] == [
        True, False, True, False, True,
    ]  # fmt: skip
    assert [number for number, by_site in measured(made).items() if by_site] == [0, 2, 4, 5]


def test_sites_measure_nothing_when_they_are_not_to(
    everyone: list[SummingSite], tmp_path: Path
) -> None:
    config = run_config("federation.rounds=2", "evaluation.federated=false")
    made = federation(config, everyone, tmp_path)

    run_whole(made, start(config))

    assert not any(measured(made).values())
    assert everyone[0].evaluated == []


def test_an_early_stop_also_has_its_last_model_measured_at_the_sites(
    everyone: list[SummingSite], tmp_path: Path
) -> None:
    config = run_config("federation.rounds=9", "federation.patience=2")
    made = federation(config, everyone, tmp_path, scores=lambda _round: 0.5)

    run_whole(made, start(config))

    assert everyone[0].evaluated == [2]


def test_sites_of_one_task_share_the_arrays_they_are_sent(
    everyone: list[SummingSite], tmp_path: Path
) -> None:
    config = run_config()
    cards = {site.name: site.describe() for site in everyone}
    plans = dict.fromkeys(TASKS, TrainPlan(proximal_mu=0.0))

    requests = train_requests(
        plans, cards, config, run="run", server_round=1, model=model(), evaluating=["north"]
    )

    assert requests["north"].arrays is requests["harbour"].arrays
    assert [site for site, request in requests.items() if request.evaluates] == ["north"]


def test_every_site_is_told_the_same_and_nothing_of_where_pictures_lie(
    everyone: list[SummingSite], tmp_path: Path
) -> None:
    config = run_config("federation.rounds=1", "tracking.uri=https://ann:secret@example.org/mlflow")

    run_whole(federation(config, everyone, tmp_path), start(config))

    heard = {site.requests[0].config_json for site in everyone}
    assert heard == {canonical_json(told(config))}
    (text,) = heard
    assert "secret" not in text
    assert "phantom" not in text
    told_config = RunConfig.model_validate_json(text)
    assert {site.name: site.task for site in told_config.sites} == TASKS
    assert told_config.federation == config.federation


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
    exchange = an_exchange(GridInThisProcess(twins), tasks=TASKS)

    with pytest.raises(RunError, match="two nodes say they are site north"):
        exchange.discover(wait_s=1.0, waiting_for=lambda _: None)


def test_a_site_that_is_not_of_the_run_is_left_out() -> None:
    sites = [SummingSite("north"), SummingSite("coast")]
    exchange = an_exchange(GridInThisProcess(sites), tasks={"north": "chestx"})

    found: Discovery = exchange.discover(wait_s=1.0, waiting_for=lambda _: None)

    assert set(found.cards) == {"north"}


def test_waiting_ends_when_the_run_is_stopped() -> None:
    exchange = an_exchange(GridInThisProcess([]), tasks=TASKS, stop=lambda: True)

    found = exchange.discover(wait_s=60.0, waiting_for=lambda _: None)

    assert set(found.absent) == set(TASKS)


# What is looked at beside the model


@dataclass
class Looking:
    """An evaluator that keeps what it is shown beside the model."""

    shown: dict[int, Beside] = field(default_factory=dict)

    def __call__(
        self, arrays: Arrays, server_round: int, beside: Beside = NOTHING_BESIDE, /
    ) -> Score:
        self.shown[server_round] = beside
        return Score(1.0 - 0.1 * server_round)  # it only ever gets worse


def looked_at(out: Path, *overrides: str) -> dict[int, Beside]:
    config, looking = run_config(*overrides), Looking()
    made = federation(config, [SummingSite(name) for name in TASKS], out)
    run_whole(replace(made, evaluator=looking), start(config))
    return looking.shown


def test_sites_changes_are_shown_in_turn_with_the_model_they_started_from(tmp_path: Path) -> None:
    order = [site.name for site in run_config().sites]
    shown = looked_at(tmp_path, "evaluation.explanation_sites=1")
    assert [sorted(shown[n].changes) for n in (0, 1, 2)] == [[], order[:1], order[1:2]]
    assert sorted(shown[3].changes) == sorted(order)  # the last round: every site
    site = order[1]
    constant = 1 + list(TASKS).index(site)
    assert all((change == 2 * constant).all() for change in shown[2].changes[site].values())
    assert all((array == 0).all() for array in shown[1].start.values())


def test_no_site_s_change_is_kept_where_none_is_wanted(tmp_path: Path) -> None:
    shown = looked_at(tmp_path, "evaluation.explanation_sites=0")
    assert [dict(beside.changes) for beside in shown.values()] == [{}, {}, {}, {}]


def test_a_round_says_that_it_may_be_the_last(tmp_path: Path) -> None:
    shown = looked_at(tmp_path, "federation.rounds=9", "federation.patience=2")
    assert {n: beside.may_be_last for n, beside in shown.items()} == {0: False, 1: False, 2: True}


# Runs that break off and are continued


class CrashError(BaseException):
    """Stands for the end of the process: nothing of ours may catch it."""


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


class CrashingProgress(ProgressWatcher):
    """Breaks off when the second site of a round has answered."""

    crash_in, now, answers = 0, -1, 0

    def round_started(self, server_round: int, *, rounds: int, sites: Sequence[str]) -> None:
        self.now, self.answers = server_round, 0

    def site_answered(self, site: str) -> None:
        self.answers += 1
        if (self.now, self.answers) == (self.crash_in, 2):
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


class SiteWithItsOwnHead(SummingSite):
    """Keeps its head to itself; what it sends depends on all rounds that the head has seen."""

    folder = Path()

    def train(self, request: TrainRequest) -> Update | Refusal:
        answer = super().train(request)
        assert isinstance(answer, Update)
        own = LocalState(self.folder, site=self.name, run=request.run)
        head = f"heads.{TASKS[self.name]}.w"
        before = own.load(before=request.server_round).get(head, request.arrays[head])
        after = before / 2 + answer.arrays[head]
        own.save({head: after}, server_round=request.server_round)
        return self.update(request, {"trunk.w": answer.arrays["trunk.w"] + after})


class CoastComesInRoundTwo(GridInThisProcess):
    """Keeps back what coast says until north has trained once."""

    def __init__(self, sites: Sequence[SummingSite], *, mute: Sequence[str] = ()) -> None:
        super().__init__(sites, mute=mute)
        self._north, self._coast = sites[0], 100 + [site.name for site in sites].index("coast")

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        known = ((i, self._replies[i]) for i in message_ids if i in self._replies)
        return super().pull_messages(
            [i for i, reply in known if self._north.requests or self._of(reply) != self._coast]
        )

    def _of(self, reply: Message) -> int:
        return reply.metadata.src_node_id


@dataclass(frozen=True)
class Mode:
    """A way to run rounds in which something outlasts a round."""

    overrides: tuple[str, ...]
    site: type[SummingSite] = SummingSite
    grid: type[GridInThisProcess] = GridInThisProcess
    scores: Callable[[int], float | None] = float
    ends_after: int = 4


NO_BETTER_AFTER_TWO = {0: 0.5, 1: 0.7, 2: 0.8, 3: 0.8, 4: None}.__getitem__
MODES = {
    "weighted mean": Mode(()),
    "adaptive steps": Mode(("federation.strategy=fedadam",)),
    "every other round measured": Mode(
        ("federation.rounds=5", "evaluation.every_rounds=2"), ends_after=5
    ),
    "early stop": Mode(
        ("federation.rounds=9", "federation.patience=2"), scores=NO_BETTER_AFTER_TWO
    ),
    "local heads": Mode(("federation.local_layers=[heads]",), site=SiteWithItsOwnHead),
    "a latecomer": Mode((), grid=CoastComesInRoundTwo),
}


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_a_run_that_breaks_off_within_round_three_ends_with_the_bits_of_an_undisturbed_one(
    mode: Mode, tmp_path: Path
) -> None:
    config = run_config("federation.rounds=4", *mode.overrides)

    def made(name: str, sites: Sequence[SummingSite]) -> Federation[Score]:
        for site in sites:
            if isinstance(site, SiteWithItsOwnHead):
                site.folder = tmp_path / name / "sites"
        return federation(config, sites, tmp_path / name, scores=mode.scores, grid=mode.grid(sites))

    whole = made("whole", [mode.site(name) for name in TASKS])
    undisturbed = run_whole(whole, start(config))
    sites = [mode.site(name) for name in TASKS]
    broken = replace(made("broken", sites), progress=CrashingProgress())
    broken.progress.crash_in = 3
    with pytest.raises(CrashError):
        run_whole(broken, start(config))
    kept = load_checkpoint(broken.files.checkpoint, config_digest=config_digest(config))
    again = made("broken", sites)
    continued = run_rounds(again, kept, untrained=None).state

    assert kept.server_round == 2
    assert continued.server_round == undisturbed.server_round == mode.ends_after
    assert continued.participation == undisturbed.participation
    assert continued.progression == undisturbed.progression
    for name, array in undisturbed.model.items():
        assert continued.model[name].tobytes() == array.tobytes()
    assert measured(again)[mode.ends_after] == measured(whole)[mode.ends_after]
    coast = [reply.site for reply in undisturbed.participation[0].replies if reply.reason]
    assert coast == (["coast"] if mode.grid is CoastComesInRoundTwo else [])
    assert len(undisturbed.participation[1].answered()) == len(TASKS)


def test_the_layers_that_stay_at_the_sites_matter_to_what_they_send(tmp_path: Path) -> None:
    config = run_config("federation.rounds=2", "federation.local_layers=[heads]")
    models = []
    for forgets in (False, True):
        sites = [SiteWithItsOwnHead(name) for name in TASKS]
        for site in sites:
            site.folder = tmp_path / str(forgets) / "sites"
        made = federation(config, sites, tmp_path / str(forgets))
        first = run_whole(replace(made, config=run_config("federation.rounds=1")), start(config))
        if forgets:
            shutil.rmtree(tmp_path / "True" / "sites")
        models.append(run_rounds(made, first, untrained=None).state.model["trunk.w"])

    assert not np.array_equal(*models)


UNKEPT = ("before keeping", "before the checkpoint")


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's tables without a run; making them anew for every test would take seconds each."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    connect(f"sqlite:///{path}").search_experiments()
    return path


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


def coordinated(config: RunConfig, out: Path, *, resume: Checkpoint) -> RunResult:
    """Go on with a run whose sites are all away."""
    watcher = ProgressWatcher()
    return coordinate(
        GridInThisProcess([]),
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


ALONE = ("federation.min_sites=4", "federation.wait_for_sites_s=0.3", "federation.return_grace_s=0")


@pytest.mark.parametrize(
    "overrides", [("federation.rounds=2",), ("federation.rounds=9", "federation.patience=2")]
)
def test_a_run_whose_rounds_are_over_needs_no_site_to_come_to_its_verdict(
    overrides: tuple[str, ...], everyone: list[SummingSite], tmp_path: Path
) -> None:
    config = run_config(*ALONE, *overrides)
    made = federation(config, everyone, tmp_path, scores=lambda _round: 0.5)
    run_whole(made, start(config))
    over = load_checkpoint(made.files.checkpoint, config_digest=config_digest(config))

    result = coordinated(config, tmp_path, resume=replace(over, late_replies=3))

    assert result.verdict.status is Status.COMPLETE
    assert (result.rounds_done, result.was_stopped) == (2, False)
    assert result.late_replies == 3


def test_a_run_that_has_rounds_left_needs_its_sites(
    everyone: list[SummingSite], tmp_path: Path
) -> None:
    config = run_config(*ALONE, "federation.rounds=2")

    with pytest.raises(RunError, match="0 of 4 sites are there"):
        coordinated(config, tmp_path, resume=replace(start(config), server_round=1))


def test_late_replies_are_counted_over_all_processes_of_a_run(
    everyone: list[SummingSite], tmp_path: Path
) -> None:
    config = run_config("federation.rounds=1")
    made = replace(federation(config, everyone, tmp_path), late_before=2)

    run_whole(made, replace(start(config), late_replies=2))

    kept = load_checkpoint(made.files.checkpoint, config_digest=config_digest(config))
    assert kept.late_replies == 2 + made.exchange.late_replies == 2


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


def test_a_stopped_run_gives_up_its_round_and_can_be_continued(
    everyone: list[SummingSite], tmp_path: Path
) -> None:
    config = run_config()
    whole = run_whole(federation(config, everyone, tmp_path / "whole"), start(config))
    stops = [False]

    class StoppingSite(SummingSite):
        def train(self, request: TrainRequest) -> Update | Refusal:
            stops[0] = request.server_round == 2
            return super().train(request)

    class SilentInRoundTwo(GridInThisProcess):
        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            came = list(super().pull_messages(message_ids))
            return came[:2] if stops[0] else came

    sites = [SummingSite("north"), *(StoppingSite(name) for name in list(TASKS)[1:])]
    made = federation(
        config, sites, tmp_path / "stopped", stop=lambda: stops[0], grid=SilentInRoundTwo(sites)
    )

    stopped = run_rounds(made, start(config), untrained=measure_untrained(made.evaluator, model()))

    assert stopped.was_stopped
    assert stopped.state.server_round == 1
    assert len(measured(made)[1]) == 2  # of the two that had answered
    judged = verdict(
        stopped.state.participation, sites=list(TASKS), required_sites=[], stopped_after=1
    )
    assert judged.status is Status.PARTIAL
    assert judged.reasons == ("stopped by the coordinator after round 1.",)
    kept = load_checkpoint(made.files.checkpoint, config_digest=config_digest(config))
    stops[0] = False
    again = federation(config, everyone, tmp_path / "stopped")
    continued = run_rounds(again, kept, untrained=None)
    assert not continued.was_stopped
    assert all(np.array_equal(continued.state.model[n], a) for n, a in whole.model.items())


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(path)
