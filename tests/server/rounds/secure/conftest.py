"""Nine sites of three tasks with real keys, real masks and updates drawn at random; no network."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from client.secure.checks import Terms
from client.secure.member import SecureMember
from common.config.reading import load_config
from common.config.run import PoolSource, RunConfig, SiteConfig
from common.messages.digests import message_digest, text_digest
from common.messages.kinds import (
    Keys,
    KeysRequest,
    MaskedUpdate,
    Refusal,
    Shares,
    SiteCard,
    TrainRequest,
    UnmaskRequest,
    Update,
)
from common.messages.signing import PrivateKey, PublicKey
from server.exchange.awaited import NoAnswer
from server.exchange.correspondence import Answered
from server.exchange.exchange import Discovery, Exchange
from server.exchange.participation import Outcome
from server.rounds.collecting import Collected, Task
from server.rounds.secure.collecting import SecureCollecting
from server.rounds.secure.kept import KeptFile
from server.strategies import TrainPlan

CONFIGS = Path(__file__).parents[4] / "configs"
TASKS = {
    "bay": "chestx", "cape": "chestx", "dale": "chestx", "elm": "chestx",
    "fen": "retina", "glen": "retina", "hill": "retina",
    "isle": "pathoscan", "lake": "pathoscan",
}  # fmt: skip
EXAMPLES = {site: 10 * number for number, site in enumerate(TASKS, start=1)}
SHAPES = {
    "trunk.w": (5, 3),
    "trunk.b": (4,),
    "heads.chestx.w": (3,),
    "heads.retina.w": (2, 2),
    "heads.pathoscan.w": (2,),
}
LOSS = 0.5


def nine_sites(*overrides: str) -> RunConfig:
    settings = ["federation.rounds=4", "secure_aggregation.enabled=true", *overrides]
    config = load_config(CONFIGS / "default.yaml", settings).run
    source = PoolSource(kind="pool", pool="none", share=1.0)
    sites = tuple(SiteConfig(name=site, task=task, source=source) for site, task in TASKS.items())
    return config.model_copy(update={"sites": sites})


class Site:
    """Trains by drawing numbers, and keeps what it answered as a desk does."""

    def __init__(self, name: str, folder: Path, key: PrivateKey) -> None:
        self.name, self.task, self.key = name, TASKS[name], key
        self.member = SecureMember(folder / name, site=name, task=self.task, key=key)
        self.peers: dict[str, PublicKey] = {}
        self.least = 3
        self.given: dict[int, Update] = {}  # by round
        self.asked: list[str] = []  # digests of the train requests
        self._stored: dict[str, MaskedUpdate | Refusal] = {}

    def terms(self, request: KeysRequest | TrainRequest | UnmaskRequest) -> Terms:
        return Terms(self.peers, self.least, text_digest(request.config_json))

    def keys(self, request: KeysRequest) -> Keys | Refusal:
        return self.member.keys(request, terms=self.terms(request))

    def train(self, request: TrainRequest) -> MaskedUpdate | Refusal:
        digest = message_digest(request)
        self.asked.append(digest)
        if digest not in self._stored:
            self._stored[digest] = self._trained(request)
        return self._stored[digest]

    def _trained(self, request: TrainRequest) -> MaskedUpdate | Refusal:
        no = self.member.objection(request, terms=self.terms(request))
        if no is not None:
            return no
        rng = np.random.default_rng([EXAMPLES[self.name], request.server_round])
        update = Update(
            request.run, request.server_round, self.name, self.task, EXAMPLES[self.name], 1,
            {"total": LOSS, "seconds": 1.0}, {"auroc": 0.75} if request.evaluates else {},
            {n: rng.normal(size=a.shape).astype(np.float32) for n, a in request.arrays.items()},
        )  # fmt: skip
        self.given[request.server_round] = update
        return self.member.masked(request, update, terms=self.terms(request))

    def unmask(self, request: UnmaskRequest) -> Shares | Refusal:
        return self.member.shares(request, terms=self.terms(request))


Silent = Callable[[str, str, int], bool]  # kind of exchange, site, round → is it silent?
Alter = Callable[[object], object]  # an answer on its way
Request = KeysRequest | TrainRequest | UnmaskRequest


class InMemoryExchange(Exchange):
    """Asks sites of this process; says what was asked, in what order."""

    def __init__(self, sites: Mapping[str, Site]) -> None:
        self.sites = dict(sites)
        self.exchanges: list[tuple[str, int]] = []  # kind and round
        self.silent: Silent = lambda _kind, _site, _round: False
        self.alter: Alter = lambda answer: answer
        self.breaks_at: tuple[str, int] | None = None
        self.is_over = False

    def run_digest(self, config_json: str) -> str:
        return text_digest(config_json)

    def is_stopped(self) -> bool:
        return self.is_over

    def keys(
        self, requests: Mapping[str, KeysRequest], *, timeout_s: float
    ) -> dict[str, Keys | Refusal | NoAnswer]:
        self._note("keys", requests)
        came = {site: self._ask("keys", site, request) for site, request in requests.items()}
        return {s: a for s, a in came.items() if isinstance(a, Keys | Refusal | NoAnswer)}

    def train(
        self, requests: Mapping[str, TrainRequest], *, timeout_s: float, answered: Answered
    ) -> dict[str, Update | MaskedUpdate | Refusal | NoAnswer]:
        self._note("train", requests)
        came = {site: self._ask("train", site, request) for site, request in requests.items()}
        return {s: a for s, a in came.items() if isinstance(a, MaskedUpdate | Refusal | NoAnswer)}

    def unmask(
        self,
        requests: Mapping[str, UnmaskRequest],
        *,
        timeout_s: float,
        enough: Callable[[Mapping[str, Shares]], bool],
    ) -> dict[str, Shares | Refusal | NoAnswer]:
        self._note("unmask", requests)
        found: dict[str, Shares | Refusal | NoAnswer] = {}
        for site, request in requests.items():
            came = self._ask("unmask", site, request)
            assert isinstance(came, Shares | Refusal | NoAnswer)
            found[site] = came
            if enough({s: a for s, a in found.items() if isinstance(a, Shares)}):
                break
        return found

    def _ask(self, kind: str, site: str, request: Request) -> object:
        if self.silent(kind, site, request.server_round):
            return NoAnswer(site, Outcome.MISSING, f"no answer to {kind}")
        return self.alter(getattr(self.sites[site], kind)(request))

    def _note(self, kind: str, requests: Mapping[str, Request]) -> None:
        (server_round,) = {request.server_round for request in requests.values()}
        if self.breaks_at == (kind, server_round):
            raise KeyboardInterrupt  # stands for the end of the coordinator's process
        self.exchanges.append((kind, server_round))


class Quiet:
    """A progress that nobody watches."""

    def waiting_for(self, sites: object) -> None: ...
    def round_started(self, server_round: int, *, rounds: int, sites: object) -> None: ...
    def site_answered(self, site: str) -> None: ...
    def evaluating(self, server_round: int, *, sites: object) -> None: ...
    def round_finished(self, server_round: int, *, replies: object) -> None: ...


@dataclass
class World:
    """A run under way: its sites, what goes between, and the coordinator's side."""

    config: RunConfig
    sites: dict[str, Site]
    exchange: InMemoryExchange
    path: Path
    collecting: SecureCollecting = field(init=False)
    model: dict[str, NDArray[np.float32]] = field(init=False)

    def __post_init__(self) -> None:
        self.model = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
        self.begin()

    def begin(self) -> None:
        """Start the coordinator, or start it again with what it kept."""
        self.collecting = SecureCollecting(
            run="run",
            config=self.config,
            exchange=self.exchange,
            site_keys={name: site.key.public for name, site in self.sites.items()},
            kept=KeptFile(self.path, run="run"),
        )

    def round(
        self,
        server_round: int = 1,
        *,
        sites: Collection[str] = tuple(TASKS),
        evaluating: Collection[str] | None = None,
        weights: Mapping[str, float] | None = None,
    ) -> Collected:
        """Run one round with these sites."""
        cards = {s: SiteCard(s, TASKS[s], EXAMPLES[s], 2, "{}") for s in sites}
        task = Task(
            server_round=server_round,
            model=self.model,
            plans={s: TrainPlan(proximal_mu=(weights or {}).get(s, 0.0)) for s in sites},
            discovery=Discovery(cards),
            evaluating=tuple(sites) if evaluating is None else evaluating,
        )
        return self.collecting.collect(task, Quiet())

    def mean(self, name: str, sites: Collection[str], server_round: int = 1) -> NDArray[np.float64]:
        """Return the weighted mean of what these sites gave, which are all below the clip norm."""
        holders = [s for s in sites if name in self.sites[s].given[server_round].arrays]
        total = sum(EXAMPLES[site] for site in holders)
        parts = [self.sites[s].given[server_round].arrays[name].astype(float) for s in holders]
        weights = [EXAMPLES[site] / total for site in holders]
        return np.average(parts, axis=0, weights=weights)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., World]:
    """Return a function: nine sites that know each other's keys, and a coordinator."""

    def make(*overrides: str) -> World:
        folder = tmp_path_factory.mktemp("world")
        sites = {name: Site(name, folder / "sites", PrivateKey.new()) for name in TASKS}
        for site in sites.values():
            site.peers = {n: s.key.public for n, s in sites.items() if n != site.name}
        exchange = InMemoryExchange(sites)
        return World(nine_sites(*overrides), sites, exchange, folder / "model" / "round.json")

    return make
