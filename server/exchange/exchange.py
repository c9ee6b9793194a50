"""The coordinator's side of every conversation: who is there, who trains, who measures.

Nothing here waits without a limit, and no reply is lost: an answer, a refusal, a failure or
silence, each belongs to a site.
"""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from flwr.app import MessageType
from flwr.serverapp import Grid

from common.datasets.card import card_from_dict
from common.errors import DataError, RunError
from common.messages.kinds import (
    NOT_SECURE,
    PASSING_REFUSALS,
    EvaluateRequest,
    Evaluation,
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
from server.exchange.awaited import NoAnswer, Patience
from server.exchange.correspondence import FIRST_POLL_S, Answered, Came, Correspondence
from server.exchange.participation import Outcome
from server.exchange.post import Letter
from server.exchange.sealing import Sealing
from server.exchange.traffic import Traffic

log = logging.getLogger(__name__)

LATECOMER_S = 5.0  # how long a round's start waits for a site that has come since the last one
LATECOMER_LASTING_S = 600.0  # so long its answer is taken up at the start of a later round


@dataclass(frozen=True)
class Discovery:
    """Who is there, and who is not and why."""

    cards: dict[str, SiteCard] = field(default_factory=dict)
    absent: dict[str, Refusal | NoAnswer] = field(default_factory=dict)


class Exchange:
    """Asks the sites of one run."""

    def __init__(
        self,
        grid: Grid,
        *,
        run: str,
        tasks: Mapping[str, str],
        nodes: Mapping[str, int] | None,
        sealing: Sealing,
        stop: Callable[[], bool],
        return_grace_s: float,
    ) -> None:
        """Speak over a grid in the name of a run.

        Args:
            grid: Flower's.
            run: Its name, in every request.
            tasks: The run's sites, each with its task.
            nodes: The sites' nodes: no other is ever sent anything. None on a machine whose nodes
                are all the run's own: each is asked which site it is.
            sealing: Closes requests and opens answers.
            stop: Asked between two looks for replies; what has come until then is kept.
            return_grace_s: How long a node that left, or a site that cannot train just now, is
                waited for within a round.
        """
        self._run = run
        self._tasks = dict(tasks)
        self._is_named = nodes is not None
        self._nodes = {site: node for site, node in (nodes or {}).items() if site in tasks}
        self._sealing = sealing
        self._correspondence = Correspondence(grid, sealing, stop=stop)
        self._stop = stop
        self._return_grace_s = return_grace_s

    @property
    def late_replies(self) -> int:
        """How many answers came when they were no longer wanted."""
        return self._correspondence.late_replies

    @property
    def traffic(self) -> Traffic:
        """How much went out and came in so far."""
        return self._correspondence.traffic

    def run_digest(self, config_json: str) -> str:
        """Return the digest by which the sites of a secure sum know that all are in one run."""
        return self._sealing.run_digest(config_json)

    def is_stopped(self) -> bool:
        """Say whether the run is to end."""
        return self._stop()

    def discover(self, *, wait_s: float, waiting_for: Callable[[Sequence[str]], None]) -> Discovery:
        """Wait until every site has said who it is, but no longer than ``wait_s``.

        A site that waits for a person's approval, is paused or cannot just now is asked again
        until then. Raises RunError when two nodes claim to be one site.
        """
        if not self._is_named:
            return self._meet(wait_s=wait_s, waiting_for=waiting_for)
        discovery, left = Discovery(), list(self._nodes)
        for site in self._tasks:
            if site not in self._nodes:
                reason = "it has no node: not admitted, or retired"
                discovery.absent[site] = NoAnswer(site, Outcome.MISSING, reason)

        def came(site: str) -> None:
            left.remove(site)
            if left:
                waiting_for(tuple(left))

        if left:
            waiting_for(tuple(left))
        patience = Patience(timeout_s=wait_s, grace_s=wait_s, passing=PASSING_REFUSALS)
        letters = [self._query(site, node) for site, node in self._nodes.items()]
        for site, answer in self._correspondence.converse(letters, patience, came).items():
            self._enter(discovery, site, answer)
        for site in left:  # only when it was stopped
            discovery.absent[site] = NoAnswer(site, Outcome.MISSING, "the run was stopped")
        return discovery

    def look_again(self, discovery: Discovery) -> Discovery:
        """Return who is there now; the sites that were absent are asked once more.

        Only sites whose nodes are connected are waited for, for moments. What comes later counts
        at the start of a later round.
        """
        absent = [site for site in self._nodes if site not in discovery.cards]
        if self._is_named and absent:
            connections = self._correspondence.connections()
            asked = [
                site
                for site in absent
                if self._nodes[site] in connections
                and not self._correspondence.is_asked_aside(site)
            ]
            letters = [self._query(site, self._nodes[site]) for site in asked]
            self._correspondence.ask_aside(letters, lasting_s=LATECOMER_LASTING_S)
            self._correspondence.wait_aside(asked, wait_s=LATECOMER_S)
        following = Discovery(dict(discovery.cards), dict(discovery.absent))
        for letter, answer in self._correspondence.came_aside():
            if self._is_named:
                self._enter(following, letter.site, answer)
            elif isinstance(answer, SiteCard) and answer.site not in self._nodes:
                self._introduce(letter.node, answer, following)
        return following

    def train(
        self, requests: Mapping[str, TrainRequest], *, timeout_s: float, answered: Answered
    ) -> dict[str, Update | MaskedUpdate | Refusal | NoAnswer]:
        """Ask sites to train, by name; return what came of each, or of fewer when it is stopped.

        A request that opens a round of the secure sum is answered by a masked update only.
        """
        letters = [
            Letter(site, self._nodes[site], request, MessageType.TRAIN, _kind_of_update(request))
            for site, request in requests.items()
        ]
        found = self._correspondence.converse(letters, self._patience(timeout_s), answered)
        kept = Update | MaskedUpdate | Refusal | NoAnswer
        return {site: answer for site, answer in found.items() if isinstance(answer, kept)}

    def keys(
        self, requests: Mapping[str, KeysRequest], *, timeout_s: float
    ) -> dict[str, Keys | Refusal | NoAnswer]:
        """Ask sites for keys of the secure sum, by name; return as :meth:`train` does."""
        letters = [
            Letter(site, self._nodes[site], request, MessageType.QUERY, Keys)
            for site, request in requests.items()
        ]
        found = self._correspondence.converse(letters, self._patience(timeout_s), _nobody_watches)
        return {s: a for s, a in found.items() if isinstance(a, Keys | Refusal | NoAnswer)}

    def unmask(
        self,
        requests: Mapping[str, UnmaskRequest],
        *,
        timeout_s: float,
        enough: Callable[[Mapping[str, Shares]], bool],
    ) -> dict[str, Shares | Refusal | NoAnswer]:
        """Ask sites to help open the sums of a round; return what came until it was ``enough``."""
        letters = [
            Letter(site, self._nodes[site], request, MessageType.QUERY, Shares)
            for site, request in requests.items()
        ]
        found = self._correspondence.converse(
            letters,
            self._patience(timeout_s),
            _nobody_watches,
            enough=lambda came: enough({s: a for s, a in came.items() if isinstance(a, Shares)}),
        )
        return {s: a for s, a in found.items() if isinstance(a, Shares | Refusal | NoAnswer)}

    def evaluate(
        self, requests: Mapping[str, EvaluateRequest], *, timeout_s: float, answered: Answered
    ) -> dict[str, Evaluation | Refusal | NoAnswer]:
        """Ask sites to measure, by name; return what came of each, as :meth:`train` does."""
        letters = [
            Letter(site, self._nodes[site], request, MessageType.EVALUATE, Evaluation)
            for site, request in requests.items()
        ]
        found = self._correspondence.converse(letters, self._patience(timeout_s), answered)
        return {s: a for s, a in found.items() if isinstance(a, Evaluation | Refusal | NoAnswer)}

    def _patience(self, timeout_s: float) -> Patience:
        passing = frozenset({RefusalCode.UNAVAILABLE})
        return Patience(timeout_s=timeout_s, grace_s=self._return_grace_s, passing=passing)

    def _query(self, site: str, node: int) -> Letter:
        return Letter(site, node, QueryRequest(run=self._run), MessageType.QUERY, SiteCard)

    def _enter(self, discovery: Discovery, site: str, answer: Came) -> None:
        """Write down what is known of a site now."""
        discovery.cards.pop(site, None)
        discovery.absent.pop(site, None)
        if isinstance(answer, Refusal | NoAnswer):
            discovery.absent[site] = answer
            return
        objection = "it sent no card"
        if isinstance(answer, SiteCard):
            objection = _objection_to_card(answer, task=self._tasks[site])
            if not objection:
                discovery.cards[site] = answer
                return
        discovery.absent[site] = NoAnswer(site, Outcome.REJECTED, objection)

    def _meet(self, *, wait_s: float, waiting_for: Callable[[Sequence[str]], None]) -> Discovery:
        """Ask every node which site it is, whenever it appears."""
        deadline = time.monotonic() + wait_s
        discovery, asked, spoken = Discovery(), set[int](), set[int]()
        last_told: list[str] = []
        while pending := [site for site in self._tasks if site not in self._nodes]:
            remaining = deadline - time.monotonic()
            present = set(self._correspondence.connections())
            all_have_spoken = len(spoken) >= len(self._tasks) and present <= spoken
            if remaining <= 0 or all_have_spoken or self._stop():
                break
            if pending != last_told:
                waiting_for(pending)
                last_told = pending
            new = [self._query_of_stranger(node) for node in sorted(present - asked)]
            asked |= present
            self._correspondence.ask_aside(new, lasting_s=remaining)
            came = self._correspondence.came_aside()
            for letter, answer in came:
                spoken.add(letter.node)
                self._introduce(letter.node, answer, discovery)
            if not came:
                time.sleep(FIRST_POLL_S)
        for site in self._tasks:
            if site not in discovery.cards and site not in discovery.absent:
                reason = "it never said that it is there"
                discovery.absent[site] = NoAnswer(site, Outcome.MISSING, reason)
        return discovery

    def _query_of_stranger(self, node: int) -> Letter:
        letter = self._query(f"node {node}", node)
        return Letter(letter.site, node, letter.request, letter.message_type, SiteCard, False)

    def _introduce(self, node: int, answer: Came, discovery: Discovery) -> None:
        site = answer.site
        if site not in self._tasks:
            reason = "it is not of this run"
            if isinstance(answer, Refusal | NoAnswer):
                reason = answer.reason
            log.warning(
                "node left out",
                extra={"action": "node_left_out", "site": site, "reason": reason},
            )
            return
        if self._nodes.setdefault(site, node) != node:
            raise RunError(
                f"two nodes say they are site {site}. Every site must run under a name of its "
                "own; correct the site's own configuration."
            )
        self._enter(discovery, site, answer)


def _kind_of_update(request: TrainRequest) -> type[Update] | type[MaskedUpdate]:
    return Update if request.secure_json == NOT_SECURE else MaskedUpdate


def _nobody_watches(site: str) -> None:
    """Progress is of training; the light messages around it take moments."""
    del site


def _objection_to_card(card: SiteCard, *, task: str) -> str:
    """Return why a site cannot take part with this card, nothing when it can."""
    if card.task != task:
        return f"it holds task {card.task}, the configuration says {task}"
    try:
        data_card = card_from_dict(json.loads(card.data_card_json))
    except DataError as error:
        return f"its data card cannot be read: {error}"
    if data_card.task != card.task:
        return f"its data card is of task {data_card.task!r}, the site's is {card.task!r}"
    if len({tuple(count.name for count in part.classes) for part in data_card.parts}) > 1:
        return "its data card does not count the same classes in every part"
    return ""
