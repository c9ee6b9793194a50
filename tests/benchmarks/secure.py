"""What the secure sum costs: processor time, bytes and a round's time, against updates in the open.

Ten sites, an update of about 20 MB, everything in this process: real keys, masks and shares, real
requests and answers as the bytes that would travel. Training is not done; a round is reckoned with
a minute of it. Sites work at the same time, so a round takes that minute, what the slowest site
does beside it, and what the coordinator does. Time is the processor's, so that what else runs on
the machine does not count.

Rounds: the first one, which asks for keys by themselves; a normal one; one in which two sites drop
out while they train; and the one after it, for which keys are asked for anew.

    python tests/benchmarks/secure.py --out out/bench-secure.json
"""

import json
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from client.secure.checks import Terms
from client.secure.member import SecureMember
from common.config.reading import load_config
from common.config.run import PoolSource, RunConfig, SiteConfig
from common.messages.digests import text_digest
from common.messages.kinds import (
    NOT_SECURE,
    Answer,
    AnswerT,
    Keys,
    KeysRequest,
    MaskedUpdate,
    Refusal,
    Request,
    Shares,
    SiteCard,
    TrainRequest,
    UnmaskRequest,
    Update,
)
from common.messages.record_bytes import from_bytes, to_bytes
from common.messages.signing import PrivateKey
from common.messages.wire import decode_answer, decode_any_request, encode
from server.exchange.awaited import NoAnswer
from server.exchange.correspondence import Answered
from server.exchange.exchange import Discovery, Exchange
from server.exchange.participation import Outcome
from server.rounds.collecting import Collecting, PlainCollecting, Task
from server.rounds.secure.collecting import SecureCollecting
from server.rounds.secure.kept import KeptFile
from server.strategies import TrainPlan

LIMIT = 1.3  # of bytes, and of a round's time, against updates in the open
LEAST = 3  # sites in a sum
TRAINING_S = 60.0
SITES = tuple(f"site-{number}" for number in range(10))
DROPPED = SITES[3:5]
CONFIGS = Path(__file__).parents[2] / "configs"
SHAPES = {"trunk.deep": (1200, 2048), "trunk.wide": (1200, 2048), "heads.chestx.w": (14, 320)}
ROUNDS = {1: "first", 2: "normal", 3: "two drop out", 4: "after the dropout"}


@dataclass(frozen=True)
class Cost:
    """What one round cost, in bytes and seconds of one core; of the site that had the most."""

    site_s: float
    server_s: float
    up_bytes: int
    down_bytes: int

    @property
    def round_s(self) -> float:
        """A round's time with a minute of training."""
        return TRAINING_S + self.site_s + self.server_s


class Site:
    """Answers with a made-up update, masked where it is to be."""

    def __init__(self, name: str, folder: Path, key: PrivateKey) -> None:
        """Take a name, a folder for what must last, and a key."""
        self.name, self.key = name, key
        self.others: dict[str, PrivateKey] = {}
        self._member = SecureMember(folder / name, site=name, task="chestx", key=key)
        rng = np.random.default_rng(len(name) + ord(name[-1]))
        self._change = {
            array: rng.normal(scale=1e-3, size=shape).astype(np.float32)
            for array, shape in SHAPES.items()
        }

    def answer(self, request: Request) -> Answer:
        """Return what is sent back."""
        if not isinstance(request, KeysRequest | UnmaskRequest | TrainRequest):
            raise TypeError(f"no answer to a {type(request).__name__}.")
        peers = {site: key.public for site, key in self.others.items()}
        terms = Terms(peers, LEAST, text_digest(request.config_json))
        if isinstance(request, KeysRequest):
            return self._member.keys(request, terms=terms)
        if isinstance(request, UnmaskRequest):
            return self._member.shares(request, terms=terms)
        update = Update(
            request.run, request.server_round, self.name, "chestx", 500, 16,
            {"total": 0.5, "seconds": TRAINING_S}, {}, self._change,
        )  # fmt: skip
        if request.secure_json == NOT_SECURE:
            return update
        no = self._member.objection(request, terms=terms)
        return no or self._member.masked(request, update, terms=terms)


class MeteredExchange(Exchange):
    """Hands bytes to sites of this process; counts them, and the sites' processor time."""

    def __init__(self, sites: Mapping[str, Site]) -> None:
        """Speak with these."""
        self._sites = dict(sites)
        self.silent: tuple[str, ...] = ()
        self.reset()

    def reset(self) -> None:
        """Begin a round."""
        self.site_s: dict[str, float] = defaultdict(float)
        self.up: dict[str, int] = defaultdict(int)
        self.down: dict[str, int] = defaultdict(int)

    def run_digest(self, config_json: str) -> str:
        """Return the configuration's."""
        return text_digest(config_json)

    def is_stopped(self) -> bool:
        """Say no."""
        return False

    def keys(
        self, requests: Mapping[str, KeysRequest], *, timeout_s: float
    ) -> dict[str, Keys | Refusal | NoAnswer]:
        """Ask for keys."""
        return {site: self._ask(site, request, Keys) for site, request in requests.items()}

    def train(
        self, requests: Mapping[str, TrainRequest], *, timeout_s: float, answered: Answered
    ) -> dict[str, Update | MaskedUpdate | Refusal | NoAnswer]:
        """Ask for updates."""
        found: dict[str, Update | MaskedUpdate | Refusal | NoAnswer] = {}
        for site, request in requests.items():
            if site in self.silent:
                found[site] = NoAnswer(site, Outcome.MISSING, "it dropped out")
            elif request.secure_json == NOT_SECURE:
                found[site] = self._ask(site, request, Update)
            else:
                found[site] = self._ask(site, request, MaskedUpdate)
        return found

    def unmask(
        self,
        requests: Mapping[str, UnmaskRequest],
        *,
        timeout_s: float,
        enough: Callable[[Mapping[str, Shares]], bool],
    ) -> dict[str, Shares | Refusal | NoAnswer]:
        """Ask for shares, of all: which come first is not known."""
        found = {site: self._ask(site, request, Shares) for site, request in requests.items()}
        enough({site: answer for site, answer in found.items() if isinstance(answer, Shares)})
        return dict(found)

    def _ask(self, site: str, request: Request, kind: type[AnswerT]) -> AnswerT | Refusal:
        sent = to_bytes(encode(request))
        begun = time.process_time()
        reply = to_bytes(encode(self._sites[site].answer(decode_any_request(from_bytes(sent)))))
        self.site_s[site] += time.process_time() - begun
        self.down[site] += len(sent)
        self.up[site] += len(reply)
        return decode_answer(from_bytes(reply), kind)


class Unwatched:
    """A progress that nobody watches."""

    def waiting_for(self, sites: object) -> None: ...
    def round_started(self, server_round: int, *, rounds: int, sites: object) -> None: ...
    def site_answered(self, site: str) -> None: ...
    def evaluating(self, server_round: int, *, sites: object) -> None: ...
    def round_finished(self, server_round: int, *, replies: object) -> None: ...


def ten_sites(*, is_summed: bool) -> RunConfig:
    """Return the run's configuration."""
    switch = f"secure_aggregation.enabled={str(is_summed).lower()}"
    config = load_config(CONFIGS / "default.yaml", ["federation.rounds=9", switch]).run
    source = PoolSource(kind="pool", pool="none", share=1.0)
    sites = tuple(SiteConfig(name=site, task="chestx", source=source) for site in SITES)
    return config.model_copy(update={"sites": sites})


def measured(*, is_summed: bool, folder: Path) -> dict[str, Cost]:
    """Run the rounds one way; return what each cost. Raises RuntimeError when one goes wrong."""
    sites = {name: Site(name, folder, PrivateKey.new()) for name in SITES}
    for site in sites.values():
        site.others = {name: other.key for name, other in sites.items() if name != site.name}
    exchange = MeteredExchange(sites)
    config = ten_sites(is_summed=is_summed)
    collecting: Collecting = PlainCollecting(run="run", config=config, exchange=exchange)
    if is_summed:
        collecting = SecureCollecting(
            run="run",
            config=config,
            exchange=exchange,
            site_keys={name: site.key.public for name, site in sites.items()},
            kept=KeptFile(folder / "round.json", run="run"),
        )
    model: dict[str, NDArray[np.float32]] = {
        name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()
    }
    costs = {}
    for number, name in ROUNDS.items():
        exchange.reset()
        exchange.silent = DROPPED if name == "two drop out" else ()
        cards = {site: SiteCard(site, "chestx", 500, 50, "{}") for site in SITES}
        plans = dict.fromkeys(SITES, TrainPlan(proximal_mu=0.0))
        begun = time.process_time()
        done = collecting.collect(Task(number, model, plans, Discovery(cards), ()), Unwatched())
        all_s = time.process_time() - begun
        if done.reason is not None:
            raise RuntimeError(f"round {number}: {done.reason}")
        costs[name] = Cost(
            site_s=max(exchange.site_s.values()),
            server_s=all_s - sum(exchange.site_s.values()),
            up_bytes=max(exchange.up.values()),
            down_bytes=max(exchange.down.values()),
        )
    return costs


def ratios(secure: Mapping[str, Cost], plain: Mapping[str, Cost]) -> dict[str, dict[str, float]]:
    """Return for every kind of round how much more it takes under masks."""
    return {
        name: {
            "up": cost.up_bytes / plain[name].up_bytes,
            "down": cost.down_bytes / plain[name].down_bytes,
            "round": cost.round_s / plain[name].round_s,
        }
        for name, cost in secure.items()
    }


def table_of(secure: Mapping[str, Cost], plain: Mapping[str, Cost]) -> Table:
    """Return the figures as a table."""
    table = Table(title="ten sites, 20 MB updates: under masks against in the open")
    for column in ("round", "", "site s", "server s", "up MB", "down MB", "round s"):
        table.add_column(column, justify="right" if column not in ("round", "") else "left")
    for name in ROUNDS.values():
        for how, costs in (("masks", secure), ("open", plain)):
            cost = costs[name]
            table.add_row(
                name if how == "masks" else "",
                how,
                f"{cost.site_s:.2f}",
                f"{cost.server_s:.2f}",
                f"{cost.up_bytes / 1e6:.2f}",
                f"{cost.down_bytes / 1e6:.2f}",
                f"{cost.round_s:.1f}",
            )
    return table


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("out/bench-secure.json"))
def main(*, out: Path) -> None:
    """Measure, show, write; exit 1 when anything is above its limit."""
    console = Console(width=140 if not sys.stdout.isatty() else None)
    folder = Path(tempfile.mkdtemp(prefix="fovea-secure-"))
    try:
        plain = measured(is_summed=False, folder=folder / "open")
        secure = measured(is_summed=True, folder=folder / "masks")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    found = ratios(secure, plain)
    worst = max(value for kinds in found.values() for value in kinds.values())
    console.print(table_of(secure, plain))
    console.print(f"the largest ratio is {worst:.3f}, limit {LIMIT}")
    out.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "limit": LIMIT,
        "training_s": TRAINING_S,
        "ratios": found,
        "secure": {name: asdict(cost) for name, cost in secure.items()},
        "plain": {name: asdict(cost) for name, cost in plain.items()},
    }
    out.write_text(json.dumps(report, indent=1) + "\n")
    console.print(f"written to {out}")
    if worst > LIMIT:
        sys.exit(1)


if __name__ == "__main__":
    main()
