"""Sites that come, go, refuse for a while, answer twice or lie, over a grid in this process."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from uuid import uuid4

import numpy as np
import pytest
from flwr.app import Error, Message
from flwr.common.constant import ErrorCode
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from common.datasets.card import DataCard, PixelRange
from common.datasets.card import DuplicateCount as Duplicates
from common.messages.envelope import decode_signed_request, encode_signed_answer
from common.messages.kinds import (
    Answer,
    Keys,
    KeysRequest,
    MaskedUpdate,
    QueryRequest,
    Refusal,
    RefusalCode,
    Shares,
    SiteCard,
    TrainRequest,
    UnmaskRequest,
    Update,
)
from common.messages.manifest import SignedManifest
from common.messages.signing import PrivateKey
from common.messages.wire import decode_any_request, encode
from server.exchange.awaited import NoAnswer
from server.exchange.exchange import Discovery, Exchange
from server.exchange.participation import Outcome
from server.exchange.post import Letter, Post
from server.exchange.sealing import Sealing, Signed, Unsealed

TASKS = {"north": "chestx", "valley": "retina"}
NODES = {"north": 100, "valley": 101}
STRANGER = 999  # a node of the federation that is not of the run


def card(site: str) -> SiteCard:
    sides = PixelRange(smallest=64, median=64, largest=64)
    nothing = Duplicates(
        exact=0, near=0, shared_pictures=0, straddling_pictures=0, straddling_patients=0,
        conflicts=0,
    )  # fmt: skip
    data_card = DataCard(
        task=TASKS[site], image_size_px=64, pictures=4, patients=4, parts=(), regions=(),
        width_px=sides, height_px=sides, exclusions={}, duplicates=nothing, notes=(),
    )  # fmt: skip
    return SiteCard(site, TASKS[site], 3, 1, data_card.as_json())


def update(request: TrainRequest, site: str) -> Update:
    return Update(
        request.run, request.server_round, site, TASKS[site], 3, 1, {}, {}, request.arrays
    )


def train_request() -> TrainRequest:
    arrays = {"trunk.w": np.ones(3, np.float32)}
    return TrainRequest("run", 2, 0, 9, 0.0, False, "{}", arrays)


def unavailable(site: str) -> Refusal:
    return Refusal(site, RefusalCode.UNAVAILABLE, "its trainer is away")


Reply = Answer | Error | None  # None: silence
Behave = Callable[[object, int], Reply]  # request, how often this node was asked → reply


def obliging(site: str) -> Behave:
    def behave(request: object, _times: int) -> Reply:
        return update(request, site) if isinstance(request, TrainRequest) else card(site)

    return behave


@dataclass
class ScriptedGrid(Grid):
    """Nodes that are there or not, and answer as they are told to."""

    behaviour: dict[int, Behave]
    connected: dict[int, str] = field(default_factory=dict)  # node → since when
    sent: list[tuple[int, object]] = field(default_factory=list)
    replies: dict[str, Message] = field(default_factory=dict)
    pulls: list[float] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)

    def __post_init__(self) -> None:
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
        self.connected = dict.fromkeys([*self.behaviour, STRANGER], "first")

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
        return list(self.connected)

    def get_nodes(self) -> Iterable[NodeInfo]:
        return [NodeInfo(node_id=n, last_activated_at=at) for n, at in self.connected.items()]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return [self._push(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        self.pulls.append(time.monotonic())
        came = [self._pull(identity) for identity in message_ids]
        return [reply for reply in came if reply is not None]

    def answer_late(self, node: int, answer: Answer, *, which: int = 0) -> None:
        """Let a node answer one of the things that it was sent."""
        message = [m for m in self.messages if m.metadata.dst_node_id == node][which]
        self.replies[message.metadata.message_id] = self.reply(message, node, answer)

    def asked(self, node: int) -> list[object]:
        return [request for to, request in self.sent if to == node]

    def _push(self, message: Message) -> str:
        node, identity = message.metadata.dst_node_id, str(uuid4())
        message.metadata.__dict__["_message_id"] = identity
        request = self.read(message)
        self.sent.append((node, request))
        self.messages.append(message)
        reply = self.behaviour[node](request, len(self.asked(node)))
        if reply is not None:
            self.replies[identity] = self.reply(message, node, reply)
        return identity

    def _pull(self, identity: str) -> Message | None:
        (message,) = [m for m in self.messages if m.metadata.message_id == identity]
        reply = self.replies.pop(identity, None)
        if message.metadata.dst_node_id in self.connected:
            return reply
        # As Flower does: what the node had sent is lost with the question.
        error = Error(code=ErrorCode.NODE_UNAVAILABLE, reason="node unavailable")
        return Message(error, reply_to=message)

    def read(self, message: Message) -> object:
        return decode_any_request(message.content)

    def reply(self, message: Message, node: int, reply: Answer | Error) -> Message:
        content = reply if isinstance(reply, Error) else encode(reply)
        return Message(content, reply_to=message)


def exchange_over(
    grid: Grid,
    *,
    grace_s: float = 5.0,
    nodes: Mapping[str, int] = NODES,
    sealing: Sealing | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Exchange:
    return Exchange(
        grid,
        run="run",
        tasks=TASKS,
        nodes=nodes,
        sealing=sealing or Unsealed(),
        stop=stop,
        return_grace_s=grace_s,
    )


def discover(exchange: Exchange, *, wait_s: float = 5.0) -> Discovery:
    return exchange.discover(wait_s=wait_s, waiting_for=lambda _: None)


def train(
    exchange: Exchange, *sites: str, timeout_s: float = 20.0
) -> dict[str, Update | Refusal | NoAnswer]:
    requests = {site: train_request() for site in sites or TASKS}
    return exchange.train(requests, timeout_s=timeout_s, answered=lambda _: None)


@pytest.fixture
def grid() -> ScriptedGrid:
    return ScriptedGrid({node: obliging(site) for site, node in NODES.items()})


def later(seconds: float, act: Callable[[], object]) -> None:
    threading.Timer(seconds, act).start()


def test_only_the_named_nodes_are_ever_sent_anything(grid: ScriptedGrid) -> None:
    exchange = exchange_over(grid, nodes={"north": NODES["north"]})

    found = discover(exchange)
    exchange.look_again(found)
    train(exchange, "north")

    assert {node for node, _ in grid.sent} == {NODES["north"]}
    assert set(found.cards) == {"north"}
    reason = "it has no node: not admitted, or retired"
    assert found.absent["valley"] == NoAnswer("valley", Outcome.MISSING, reason)


def test_a_node_that_answers_in_another_s_name_is_not_believed(grid: ScriptedGrid) -> None:
    grid.behaviour[NODES["valley"]] = obliging("north")
    exchange = exchange_over(grid)

    found, trained = discover(exchange), train(exchange)

    lie = NoAnswer("valley", Outcome.REJECTED, "it answered in the name of 'north'")
    assert found.absent == {"valley": lie}
    assert trained["valley"] == lie
    assert isinstance(trained["north"], Update)


def test_a_node_that_left_and_came_back_is_asked_again_in_the_same_words(
    grid: ScriptedGrid,
) -> None:
    node = NODES["valley"]

    def leaves_once(request: object, times: int) -> Reply:
        if times > 1:
            return obliging("valley")(request, times)
        del grid.connected[node]
        later(1.2, lambda: grid.connected.update({node: "second"}))
        return None

    grid.behaviour[node] = leaves_once

    answers = train(exchange_over(grid))

    first, second = grid.asked(node)
    assert isinstance(answers["valley"], Update)
    assert isinstance(first, TrainRequest)
    assert isinstance(second, TrainRequest)
    assert encode(first)["fovea"] == encode(second)["fovea"]


def test_a_node_that_does_not_come_back_is_named_with_the_grace_it_had(
    grid: ScriptedGrid,
) -> None:
    node = NODES["valley"]

    def leaves(request: object, _times: int) -> Reply:
        grid.connected.pop(node, None)
        return None

    grid.behaviour[node] = leaves
    exchange = exchange_over(grid, grace_s=0.5)

    first = train(exchange)
    begun = time.monotonic()
    second = train(exchange)

    assert first["valley"] == NoAnswer(
        "valley", Outcome.MISSING, "its node left and did not come back within 0.5 s"
    )
    # It had its grace: the next round is not held up by it.
    assert time.monotonic() - begun < 0.5
    assert second["valley"] == NoAnswer("valley", Outcome.MISSING, "its node was not connected")


def test_what_a_node_sent_before_it_left_is_not_thrown_away(grid: ScriptedGrid) -> None:
    post, node = Post(grid, Unsealed()), NODES["valley"]
    post.send([Letter("valley", node, train_request(), "train", Update)], timeout_s=5.0)
    del grid.connected[node]
    while_away = post.collect(post.present())

    grid.connected[node] = "second"
    (came,) = post.collect(post.present())

    assert while_away == []
    assert came[0].site == "valley"
    assert not came[1].has_error()


def test_a_second_answer_to_the_same_request_is_counted_and_left_unused(
    grid: ScriptedGrid, caplog: pytest.LogCaptureFixture
) -> None:
    node = NODES["valley"]

    def slow_and_reconnecting(request: object, times: int) -> Reply:
        if times == 1:
            grid.connected[node] = "second"
            return None
        return obliging("valley")(request, times)

    grid.behaviour[node] = slow_and_reconnecting
    exchange = exchange_over(grid)
    answers = train(exchange, "valley")
    grid.answer_late(node, update(train_request(), "valley"))

    with caplog.at_level(logging.WARNING, logger="server.exchange.post"):
        train(exchange, "north")

    assert isinstance(answers["valley"], Update)
    assert exchange.late_replies == 1
    (event,) = caplog.records
    assert (event.__dict__["action"], event.__dict__["site"]) == ("late_reply", "valley")


def test_an_answer_after_the_deadline_is_counted_in_a_later_round_and_not_used(
    grid: ScriptedGrid,
) -> None:
    node = NODES["valley"]
    grid.behaviour[node] = lambda _request, _times: None
    exchange = exchange_over(grid)
    missing = train(exchange, timeout_s=0.3)
    grid.answer_late(node, update(train_request(), "valley"))

    answers = train(exchange, "north")

    assert missing["valley"] == NoAnswer("valley", Outcome.MISSING, "no answer within 0.3 s")
    assert set(answers) == {"north"}
    assert exchange.late_replies == 1


def test_a_trainer_that_is_away_for_a_moment_is_asked_again(grid: ScriptedGrid) -> None:
    node = NODES["valley"]
    grid.behaviour[node] = lambda request, times: (
        unavailable("valley") if times == 1 else obliging("valley")(request, times)
    )

    answers = train(exchange_over(grid))

    assert isinstance(answers["valley"], Update)
    assert len(grid.asked(node)) == 2


@pytest.mark.parametrize("code", [RefusalCode.PAUSED, RefusalCode.NOT_APPROVED])
def test_a_person_s_no_is_final_for_a_round_and_waited_out_at_the_start(
    grid: ScriptedGrid, code: RefusalCode
) -> None:
    node, no = NODES["valley"], Refusal("valley", code, "not now")
    grid.behaviour[node] = lambda request, times: (
        card("valley") if isinstance(request, QueryRequest) and times > 1 else no
    )
    exchange = exchange_over(grid)

    found, trained = discover(exchange), train(exchange)

    assert set(found.cards) == set(TASKS)
    assert vars(trained["valley"]) == vars(no)
    assert len([r for r in grid.asked(node) if isinstance(r, TrainRequest)]) == 1


def test_a_process_that_died_under_a_request_is_asked_again(grid: ScriptedGrid) -> None:
    crash = Error(code=ErrorCode.CLIENT_APP_CRASHED, reason="it died")
    grid.behaviour[NODES["valley"]] = lambda request, times: (
        crash if times == 1 else obliging("valley")(request, times)
    )

    assert isinstance(train(exchange_over(grid))["valley"], Update)


def test_a_site_that_comes_later_joins_and_one_that_stays_away_holds_nothing_up(
    grid: ScriptedGrid,
) -> None:
    node = NODES["valley"]
    del grid.connected[node]
    exchange = exchange_over(grid)
    found = discover(exchange, wait_s=0.2)
    begun = time.monotonic()
    still = exchange.look_again(found)
    held_up_s = time.monotonic() - begun

    grid.connected[node] = "late"
    joined = exchange.look_again(still)

    assert found.absent["valley"] == NoAnswer(
        "valley", Outcome.MISSING, "its node was not connected"
    )
    assert held_up_s < 0.2
    assert set(still.cards) == {"north"}
    assert set(joined.cards) == set(TASKS)
    assert joined.absent == {}
    assert isinstance(train(exchange)["valley"], Update)


def test_a_silent_site_is_asked_once_aside_and_heard_when_it_speaks(
    grid: ScriptedGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.exchange.exchange.LATECOMER_S", 0.2)
    node = NODES["valley"]
    grid.behaviour[node] = lambda _request, _times: None
    exchange = exchange_over(grid)
    found = discover(exchange, wait_s=0.2)
    for _ in range(3):
        found = exchange.look_again(found)
    asked = len(grid.asked(node))
    grid.answer_late(node, card("valley"), which=1)

    assert set(exchange.look_again(found).cards) == set(TASKS)
    assert asked == 2  # once at the start, once aside


def test_a_stop_keeps_the_answers_that_are_there(grid: ScriptedGrid) -> None:
    grid.behaviour[NODES["valley"]] = lambda _request, _times: None
    stopped = threading.Event()
    exchange = exchange_over(grid, stop=stopped.is_set)
    later(0.4, stopped.set)

    begun = time.monotonic()
    answers = train(exchange)

    assert set(answers) == {"north"}
    assert time.monotonic() - begun < 5.0


def test_looks_for_replies_grow_rarer(grid: ScriptedGrid) -> None:
    grid.behaviour[NODES["valley"]] = lambda _request, _times: None

    train(exchange_over(grid), "valley", timeout_s=1.5)

    pauses = np.diff(grid.pulls)
    assert pauses[0] < 0.15
    assert len(pauses) < 20  # every 0.05 s it would be 30
    assert pauses[-1] > 2 * pauses[0]


# Light messages of the secure sum


def keys_request() -> KeysRequest:
    return KeysRequest("run", 2, "{}", "{}")


def unmask(
    exchange: Exchange, *, needed: int, timeout_s: float = 20.0
) -> dict[str, Shares | Refusal | NoAnswer]:
    requests = dict.fromkeys(TASKS, UnmaskRequest("run", 2, "{}", "{}"))
    return exchange.unmask(requests, timeout_s=timeout_s, enough=lambda came: len(came) >= needed)


def sharing(site: str) -> Behave:
    shares = Shares("run", 2, site, TASKS[site], "{}")
    return lambda _request, _times: shares


def test_keys_are_asked_for_and_a_no_belongs_to_its_site(grid: ScriptedGrid) -> None:
    no = Refusal("valley", RefusalCode.FORBIDDEN, "north is not pinned here")
    given = Keys("run", 2, "north", "chestx", "{}")
    grid.behaviour = {100: lambda _request, _times: given, 101: lambda _request, _times: no}

    requests = dict.fromkeys(TASKS, keys_request())
    answers = exchange_over(grid).keys(requests, timeout_s=5.0)

    assert vars(answers["north"]) == vars(given)
    assert vars(answers["valley"]) == vars(no)
    assert {message.metadata.message_type for message in grid.messages} == {"query"}


def test_a_masked_update_is_what_an_opened_round_is_answered_by_and_no_other(
    grid: ScriptedGrid,
) -> None:
    masked = MaskedUpdate("run", 2, "north", "chestx", "{}", {"trunk": np.ones(3, np.uint32)})
    grid.behaviour[100] = lambda _request, _times: masked
    opened = replace(train_request(), secure_json='{"keys":[]}')

    exchange = exchange_over(grid)
    answers = exchange.train(dict.fromkeys(TASKS, opened), timeout_s=5.0, answered=lambda _: None)

    assert isinstance(answers["north"], MaskedUpdate)
    bare = answers["valley"]
    assert isinstance(bare, NoAnswer)
    assert bare.outcome is Outcome.REJECTED
    assert "expected 'masked-update', got 'update'" in bare.reason


def test_nobody_is_waited_for_once_there_are_shares_enough(grid: ScriptedGrid) -> None:
    grid.behaviour = {100: sharing("north"), 101: lambda _request, _times: None}
    exchange = exchange_over(grid)
    begun = time.monotonic()

    answers = unmask(exchange, needed=1)

    assert set(answers) == {"north"}
    assert time.monotonic() - begun < 2.0
    # What the others still send is as good as asked for: it is not counted as late.
    grid.answer_late(101, Shares("run", 2, "valley", "retina", "{}"))
    train(exchange, "north")
    assert exchange.late_replies == 0


def test_a_site_that_is_away_has_its_grace_when_its_shares_are_needed(grid: ScriptedGrid) -> None:
    grid.behaviour = {100: sharing("north"), 101: sharing("valley")}
    del grid.connected[101]

    answers = unmask(exchange_over(grid, grace_s=0.3), needed=2)

    assert isinstance(answers["north"], Shares)
    assert answers["valley"] == NoAnswer("valley", Outcome.MISSING, "its node was not connected")


class SignedGrid(ScriptedGrid):
    """Nodes whose answers are signed, each with a key that may or may not be the admitted one."""

    keys: Mapping[int, PrivateKey]

    def read(self, message: Message) -> object:
        return decode_signed_request(message.content).request

    def reply(self, message: Message, node: int, reply: Answer | Error) -> Message:
        assert not isinstance(reply, Error)
        digest = decode_signed_request(message.content).digest
        signed = encode_signed_answer(reply, request_digest=digest, key=self.keys[node])
        return Message(signed, reply_to=message)


def test_an_answer_that_another_signed_is_rejected_and_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    grid = SignedGrid({node: obliging(site) for site, node in NODES.items()})
    site_keys = {site: PrivateKey.new() for site in TASKS}
    grid.keys = {100: site_keys["north"], 101: PrivateKey.new()}
    run_key = PrivateKey.new()
    sealing = Signed(
        manifest=SignedManifest("{}", run_key.sign("manifest", {})),
        run_key=run_key,
        site_keys={site: key.public for site, key in site_keys.items()},
    )

    with caplog.at_level(logging.WARNING, logger="server.exchange.correspondence"):
        answers = train(exchange_over(grid, sealing=sealing))

    assert isinstance(answers["north"], Update)
    forged = answers["valley"]
    assert isinstance(forged, NoAnswer)
    assert forged.outcome is Outcome.REJECTED
    assert "signature is not of the pinned key" in forged.reason
    assert [record.__dict__["action"] for record in caplog.records] == ["untrusted_answer"]
