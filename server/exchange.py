"""Asks sites over Flower's grid and says by name what came of each.

Nothing here waits without a limit, and no reply is lost: an answer, a refusal, a failure or
silence, each belongs to a site.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from flwr.app import Message, MessageType
from flwr.serverapp import Grid

from common.datasets.card import card_from_dict
from common.errors import DataError, RunError, WireError
from common.wire import (
    AnswerT,
    EvaluateRequest,
    Evaluation,
    QueryRequest,
    Refusal,
    Request,
    SiteCard,
    TrainRequest,
    Update,
    decode_answer,
    encode,
)
from server.participation import Outcome

log = logging.getLogger(__name__)

POLL_S = 0.05  # how often to look for replies; Flower pushes none
PRESENCE_S = 1.0  # how often to ask which of the awaited nodes are still connected
_FLOWER_SAYS = "Exception ClientAppException occurred. Message: "
TTL_MARGIN_S = 60.0  # a message outlives our patience, so that lateness is told from failure


@dataclass(frozen=True)
class NoAnswer:
    """A site of which nothing usable came."""

    site: str
    outcome: Outcome  # FAILED, REJECTED or MISSING
    reason: str


@dataclass(frozen=True)
class Discovery:
    """Who is there, and who is not and why."""

    cards: dict[str, SiteCard]
    absent: dict[str, Refusal | NoAnswer]


Answered = Callable[[str], None]  # told a site's name as soon as anything came from it


class Exchange:
    """The coordinator's side of every conversation."""

    def __init__(self, grid: Grid, *, run: str, stop: threading.Event) -> None:
        """Speak over a grid in the name of a run, until ``stop`` is set."""
        self._grid = grid
        self._run = run
        self._stop = stop
        self._nodes: dict[str, int] = {}  # site → node

    def discover(
        self, sites: Sequence[str], *, wait_s: float, waiting_for: Callable[[Sequence[str]], None]
    ) -> Discovery:
        """Wait until every site has said who it is, but no longer than ``wait_s``.

        Raises RunError when two nodes claim to be one site.
        """
        deadline = time.monotonic() + wait_s
        cards: dict[str, SiteCard] = {}
        absent: dict[str, Refusal | NoAnswer] = {}
        asked: set[int] = set()
        waiting: dict[str, int] = {}  # message → node, whenever it was asked
        last_told: list[str] = []
        while pending := [site for site in sites if site not in cards and site not in absent]:
            remaining = deadline - time.monotonic()
            present = set(self._grid.get_node_ids())
            all_have_spoken = len(asked) >= len(sites) and not waiting and present <= asked
            if remaining <= 0 or all_have_spoken:
                break
            if pending != last_told:
                waiting_for(pending)
                last_told = pending
            new = sorted(present - asked)
            asked.update(new)
            requests = dict.fromkeys(new, QueryRequest(run=self._run))
            waiting |= self._send(requests, MessageType.QUERY, timeout_s=remaining)
            replies = self._replies(waiting)
            for node, reply in replies:
                answer = _read(reply, f"node {node}", SiteCard)
                self._introduce(node, answer, sites, cards, absent)
            if not replies:
                self._pause(POLL_S)
        for site in sites:
            if site not in cards and site not in absent:
                absent[site] = NoAnswer(site, Outcome.MISSING, "it never said that it is there")
        return Discovery(cards=cards, absent=absent)

    def train(
        self, requests: Mapping[str, TrainRequest], *, timeout_s: float, answered: Answered
    ) -> dict[str, Update | Refusal | NoAnswer]:
        """Ask sites to train, by name; return what came of each."""
        return self._ask(requests, MessageType.TRAIN, Update, timeout_s, answered)

    def evaluate(
        self, requests: Mapping[str, EvaluateRequest], *, timeout_s: float, answered: Answered
    ) -> dict[str, Evaluation | Refusal | NoAnswer]:
        """Ask sites to evaluate, by name; return what came of each."""
        return self._ask(requests, MessageType.EVALUATE, Evaluation, timeout_s, answered)

    def _introduce(
        self,
        node: int,
        answer: SiteCard | Refusal | NoAnswer,
        sites: Sequence[str],
        cards: dict[str, SiteCard],
        absent: dict[str, Refusal | NoAnswer],
    ) -> None:
        if answer.site not in sites:
            reason = "it is not of this run" if isinstance(answer, SiteCard) else answer.reason
            log.warning(
                "node left out",
                extra={"action": "node_left_out", "site": answer.site, "reason": reason},
            )
        elif answer.site in self._nodes or answer.site in absent:
            raise RunError(
                f"two nodes say they are site {answer.site}. Every site must run under a name of "
                "its own; correct the site's own configuration."
            )
        elif isinstance(answer, SiteCard):
            self._nodes[answer.site] = node
            objection = _objection_to_card(answer)
            if objection is None:
                cards[answer.site] = answer
            else:
                absent[answer.site] = NoAnswer(answer.site, Outcome.REJECTED, objection)
        else:
            absent[answer.site] = answer

    def _ask(
        self,
        requests: Mapping[str, Request],
        message_type: str,
        kind: type[AnswerT],
        timeout_s: float,
        answered: Answered,
    ) -> dict[str, AnswerT | Refusal | NoAnswer]:
        names = {self._nodes[site]: site for site in requests}
        by_node = {node: requests[site] for node, site in names.items()}
        answers = self._converse(
            names, by_node, message_type, kind, timeout_s=timeout_s, answered=answered
        )
        return {names[node]: answer for node, answer in answers.items()}

    def _converse(
        self,
        names: Mapping[int, str],
        requests: Mapping[int, Request],
        message_type: str,
        kind: type[AnswerT],
        *,
        timeout_s: float,
        answered: Answered,
    ) -> dict[int, AnswerT | Refusal | NoAnswer]:
        """Send one request per node and collect the answers until the time is up.

        Replies are matched by the message they reply to: an error reply may come from the
        SuperLink, whose node id says nothing about the site.
        """
        deadline = time.monotonic() + timeout_s
        waiting = self._send(requests, message_type, timeout_s=timeout_s)
        reasons = dict.fromkeys(set(requests) - set(waiting.values()), "its node is not connected")
        answers: dict[int, AnswerT | Refusal | NoAnswer] = {}
        look_at = time.monotonic()
        while waiting and time.monotonic() < deadline:
            present = set(waiting.values())
            if time.monotonic() >= look_at:
                # Before the replies are pulled: what a node sent before it left is not lost.
                present = set(self._grid.get_node_ids())
                look_at = time.monotonic() + PRESENCE_S
            replies = self._replies(waiting)
            for node, reply in replies:
                answers[node] = _read(reply, names[node], kind)
                answered(names[node])
            for message in [message for message, node in waiting.items() if node not in present]:
                reasons[waiting.pop(message)] = "its node left before it answered"
            if waiting and not replies:
                self._pause(POLL_S)
        for node in requests:
            if node not in answers:
                reason = reasons.get(node, f"no answer within {timeout_s:g} s")
                answers[node] = NoAnswer(names[node], Outcome.MISSING, reason)
        return answers

    def _send(
        self, requests: Mapping[int, Request], message_type: str, *, timeout_s: float
    ) -> dict[str, int]:
        """Send one request per node; return the nodes by message, without those out of reach."""
        messages = [
            Message(encode(request), node, message_type, ttl=timeout_s + TTL_MARGIN_S)
            for node, request in requests.items()
        ]
        # No message is kept here: the grid holds what it still needs, and models are large.
        sent = self._grid.push_messages(messages) if messages else []
        return {message: node for message, node in zip(sent, requests, strict=False) if message}

    def _replies(self, waiting: dict[str, int]) -> list[tuple[int, Message]]:
        """Take what has come out of what is waited for, each with the node that was asked."""
        replies = list(self._grid.pull_messages(list(waiting))) if waiting else []
        return [(waiting.pop(reply.metadata.reply_to_message_id), reply) for reply in replies]

    def _pause(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise RunError("the run was stopped.")


def _read(reply: Message, site: str, kind: type[AnswerT]) -> AnswerT | Refusal | NoAnswer:
    if reply.has_error():
        return NoAnswer(site, Outcome.FAILED, _last_line(reply.error.reason))
    try:
        answer = decode_answer(reply.content, kind)
    except WireError as error:
        return NoAnswer(site, Outcome.REJECTED, str(error))
    if kind is not SiteCard and isinstance(answer, Refusal):
        return Refusal(site, answer.reason)  # a site that cannot tell its name still has a reason
    if kind is not SiteCard and answer.site != site:
        return NoAnswer(site, Outcome.REJECTED, f"it answered in the name of {answer.site!r}")
    return answer


def _objection_to_card(card: SiteCard) -> str | None:
    """Return why a site's data card cannot be recorded, or None when it can."""
    try:
        data_card = card_from_dict(json.loads(card.data_card_json))
    except DataError as error:
        return f"its data card cannot be read: {error}"
    if data_card.task != card.task:
        return f"its data card is of task {data_card.task!r}, the site's is {card.task!r}"
    if len({tuple(count.name for count in part.classes) for part in data_card.parts}) > 1:
        return "its data card does not count the same classes in every part"
    return None


def _last_line(reason: str | None) -> str:
    """Return what a traceback ends with; the rest is for the site's own log."""
    lines = [line.strip() for line in (reason or "").splitlines() if line.strip()]
    if not lines:
        return "its process gave no reason"
    return lines[-1].rstrip("'>").removeprefix(_FLOWER_SAYS)
