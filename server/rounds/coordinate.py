"""The coordinator of a run: configuration → model → sites → rounds → verdict."""

import logging
import secrets
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from common.config.reading import config_digest
from common.config.run import RunConfig
from common.errors import ConfigError, RunError
from common.messages.kinds import Arrays, SiteCard
from common.messages.signing import PublicKey
from common.model.layers import unmatched_prefixes
from server.aggregate import AGGREGATIONS
from server.exchange.exchange import LATECOMER_S, Discovery, Exchange
from server.exchange.participation import Participation, Verdict, verdict
from server.exchange.sealing import Sealing, Unsealed
from server.record.checkpoint import NOTHING_EVALUATED, Checkpoint, ModelFiles
from server.rounds.round_report import CentralEvaluator, Progress, ResultT, Tracker
from server.rounds.rounds import Federation, measure_untrained, run_rounds
from server.strategies import STRATEGIES, Strategy

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Instruments(Generic[ResultT]):
    """What measures, records and shows a run, and where its model goes."""

    evaluator: CentralEvaluator[ResultT]
    tracker: Tracker[ResultT]
    progress: Progress
    files: ModelFiles


@dataclass(frozen=True, eq=False)
class RunResult:
    """A run from its first to its last round."""

    run: str
    verdict: Verdict
    cards: dict[str, SiteCard]  # of the sites that were there
    participation: tuple[Participation, ...]
    rounds_done: int
    best_round: int | None
    best_score: float | None
    was_stopped: bool  # by a person; it can be continued
    late_replies: int  # answers that came when they were no longer wanted
    files: ModelFiles  # the best and the last model
    wall_s: float


def server_app(
    config: RunConfig,
    instruments: Instruments[ResultT],
    *,
    site_keys: Mapping[str, PublicKey],
    stop: Callable[[], bool],
    finished: Callable[[RunResult], None],
) -> ServerApp:
    """Return the ServerApp of one simulated run; ``finished`` gets its result.

    ``site_keys`` are what the sites sign with, for a secure sum; none for any other run.

    Raises ConfigError for an unknown strategy or aggregation, or settings it cannot work with.
    """
    strategy = STRATEGIES.get(config.federation.strategy)(config)
    AGGREGATIONS.get(config.federation.aggregation)
    made = ServerApp()

    @made.main()
    def run(grid: Grid, context: Context) -> None:
        del context  # the configuration was read and checked before the app was made
        result = coordinate(
            grid,
            config,
            strategy,
            instruments,
            run=f"{config.name}-{secrets.token_hex(4)}",
            nodes=None,
            sealing=Unsealed(),
            site_keys=site_keys,
            stop=stop,
        )
        finished(result)

    return made


def coordinate(
    grid: Grid,
    config: RunConfig,
    strategy: Strategy,
    instruments: Instruments[ResultT],
    *,
    run: str,
    nodes: Mapping[str, int] | None,
    sealing: Sealing,
    site_keys: Mapping[str, PublicKey],
    stop: Callable[[], bool],
    resume: Checkpoint | None = None,
) -> RunResult:
    """Run a federation over Flower's grid from its first round, or a later one, to its verdict.

    Args:
        grid: Flower's.
        config: The run's.
        strategy: In its first state.
        instruments: What measures, records and shows.
        run: The run's name, in every message and file.
        nodes: The node of every site: no other node is ever sent anything. None on a machine whose
            nodes are all the run's own.
        sealing: How messages are closed and opened.
        site_keys: What each site signs with; needed where updates are summed under masks.
        stop: Says whether to end. The round that is under way is then given up, and the last one
            that is over is the result; the run can be continued from its checkpoint.
        resume: Go on after this state instead of from the beginning.

    Raises ConfigError when configuration and network do not fit, RunError when too few sites are
    there for the rounds that are left or the checkpoint is another run's, and whatever the
    instruments raise.
    """
    started = time.monotonic()
    if resume is not None and resume.run != run:
        raise RunError(f"the checkpoint is of run {resume.run}, not of {run}. Name that run.")
    if config.secure_aggregation.enabled:
        _check_keys(site_keys, config)
    exchange = Exchange(
        grid,
        run=run,
        tasks={site.name: site.task for site in config.sites},
        nodes=nodes,
        sealing=sealing,
        stop=stop,
        return_grace_s=config.federation.return_grace_s,
    )
    start = resume or _beginning(config, run)
    with ThreadPoolExecutor(max_workers=1) as aside:
        # Sites take seconds to come up; the untrained model can be measured meanwhile.
        measuring = (
            aside.submit(measure_untrained, instruments.evaluator, start.model)
            if resume is None
            else None
        )
        discovery = _sites(config, exchange, instruments.progress, is_over=start.is_last(config))
    federation = Federation(
        run=run,
        config=config,
        discovery=discovery,
        exchange=exchange,
        strategy=strategy,
        evaluator=instruments.evaluator,
        tracker=instruments.tracker,
        progress=instruments.progress,
        files=instruments.files,
        site_keys=site_keys,
        late_before=start.late_replies,
    )
    finished = run_rounds(federation, start, untrained=measuring.result() if measuring else None)
    last = finished.state
    judged = verdict(
        last.participation,
        sites=[site.name for site in config.sites],
        required_sites=config.federation.required_sites,
        stopped_after=last.server_round if finished.was_stopped else None,
    )
    return RunResult(
        run=run,
        verdict=judged,
        cards=dict(finished.cards),
        participation=last.participation,
        rounds_done=last.server_round,
        best_round=last.progression.best_round,
        best_score=last.progression.best_score,
        was_stopped=finished.was_stopped,
        late_replies=federation.late_replies(),
        files=instruments.files,
        wall_s=time.monotonic() - started,
    )


def _check_keys(site_keys: Mapping[str, PublicKey], config: RunConfig) -> None:
    if keyless := sorted({site.name for site in config.sites} - set(site_keys)):
        raise ConfigError(
            f"secure_aggregation: the key that site {keyless[0]} signs with is not known. Admit "
            "the site, or leave it out."
        )


def _beginning(config: RunConfig, run: str) -> Checkpoint:
    return Checkpoint(
        run=run,
        config_digest=config_digest(config),
        server_round=0,
        model=_initial_model(config),
        strategy={},
        participation=(),
        progression=NOTHING_EVALUATED,
    )


def _sites(
    config: RunConfig, exchange: Exchange, progress: Progress, *, is_over: bool
) -> Discovery:
    """Meet the sites. Of a run whose rounds are over only what they measure last is wanted."""
    rules = config.federation
    wait_s = rules.wait_for_sites_s
    if is_over:
        # Nobody comes back to a run that is over: its report waits a moment, and for no minimum.
        wait_s = min(wait_s, max(rules.return_grace_s, LATECOMER_S))
        return exchange.discover(wait_s=wait_s, waiting_for=progress.waiting_for)
    discovery = exchange.discover(wait_s=wait_s, waiting_for=progress.waiting_for)
    if len(discovery.cards) < rules.min_sites and not exchange.is_stopped():
        absent = "; ".join(f"{site}: {why.reason}" for site, why in discovery.absent.items())
        raise RunError(
            f"{len(discovery.cards)} of {len(config.sites)} sites are there, federation.min_sites "
            f"is {rules.min_sites}. Absent: {absent}."
        )
    return discovery


def _initial_model(config: RunConfig) -> Arrays:
    """Return the model of round 0, which ships the weights: sites never download any."""
    # Here, not above: torch takes seconds to load, a wrong configuration should show at once.
    from common.model.arrays import array_names, read_arrays  # noqa: PLC0415
    from common.model.network import build_network  # noqa: PLC0415

    network = build_network(config.model, config.task_table(), seed=config.seed)
    names = array_names(network)
    if unmatched := unmatched_prefixes(names, config.federation.local_layers):
        raise ConfigError(
            f"federation.local_layers: no array's name starts with {unmatched[0]!r}. Names look "
            f"like {names[0]!r} and {names[-1]!r}."
        )
    return read_arrays(network, names)
