"""The rounds of a run: ask, check, merge, measure, keep, tell."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic

import numpy as np
from numpy.typing import NDArray

from common.config.run import RunConfig
from common.messages.kinds import Arrays, Evaluation, Metrics, SiteCard
from common.messages.signing import PublicKey
from common.model.layers import refuse_unusable, tasks_with_local_head
from server.exchange.exchange import Discovery, Exchange
from server.exchange.participation import Outcome, Participation, Reply
from server.exchange.replies import unusable_together
from server.exchange.requests import evaluate_requests, is_measured
from server.exchange.site_config import told
from server.record.checkpoint import Checkpoint, ModelFiles, Progression, keep_state, mend_models
from server.rounds.collecting import Collecting, PlainCollecting, SiteNumbers, Task
from server.rounds.round_report import (
    Beside,
    CentralEvaluator,
    CentralResult,
    Progress,
    ResultT,
    ResultT_co,
    RoundReport,
    SiteRound,
    Tracker,
)
from server.rounds.secure.collecting import SecureCollecting
from server.rounds.secure.kept import KeptFile
from server.rounds.site_turns import compared_sites
from server.strategies import Strategy

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Federation(Generic[ResultT]):
    """Everything that stays the same from round to round."""

    run: str
    config: RunConfig
    discovery: Discovery
    exchange: Exchange
    strategy: Strategy
    evaluator: CentralEvaluator[ResultT]
    tracker: Tracker[ResultT]
    progress: Progress
    files: ModelFiles
    site_keys: Mapping[str, PublicKey] = field(default_factory=dict)  # that sign at the sites
    late_before: int = 0  # late answers that an earlier process of this run counted

    def late_replies(self) -> int:
        """Return how many answers came when they were no longer wanted, in the whole run."""
        return self.late_before + self.exchange.late_replies


@dataclass(frozen=True, eq=False)
class Untrained(Generic[ResultT_co]):
    """The measurement of the model before training."""

    central: ResultT_co
    wall_s: float


@dataclass(frozen=True, eq=False)
class Finished:
    """How the rounds ended."""

    state: Checkpoint
    cards: Mapping[str, SiteCard]  # of the sites that were there, in whichever round
    was_stopped: bool  # by a person, before the last round


def measure_untrained(evaluator: CentralEvaluator[ResultT], model: Arrays) -> Untrained[ResultT]:
    """Measure round 0. Apart from the rounds, so that it can go on while sites are waited for."""
    started = time.monotonic()
    return Untrained(evaluator(model, 0), time.monotonic() - started)


def run_rounds(
    federation: Federation[ResultT], start: Checkpoint, *, untrained: Untrained[ResultT] | None
) -> Finished:
    """Run the rounds that are left and return how they ended.

    ``untrained`` is the measurement of round 0, None for a run that is continued after ``start``.

    Ends after the configured rounds, or sooner when the central score has not improved for
    ``federation.patience`` evaluations or the exchange is stopped. Raises ConfigError when local
    layers leave nothing to train together.
    """
    rounds = federation.config.federation
    local_layers = told(federation.config).federation.local_layers
    refuse_unusable(start.model, federation.config.tasks, local_layers)
    for task in tasks_with_local_head(start.model, federation.config.tasks, local_layers):
        log.warning(
            "every array of this task's head stays at the sites: "
            "central metrics of the task measure an untrained head",
            extra={"action": "head_untrained_centrally", "task": task},
        )
    collecting = _collecting(federation)
    federation.strategy.restore(start.strategy)
    federation.tracker.run_started(federation.discovery.cards)
    if untrained is None:
        mend_models(federation.files, start)
        state = start
    else:
        state = _round_zero(federation, start, untrained)
    while not federation.exchange.is_stopped():
        if state.is_last(federation.config):
            if state.server_round < rounds.rounds:
                log.info(
                    "no improvement, stopping early",
                    extra={"action": "stopped_early", "round": state.server_round},
                )
            _measure_at_sites(federation, state)
            return Finished(state, federation.discovery.cards, was_stopped=False)
        federation = _with_latecomers(federation)
        following = _one_round(federation, collecting, state)
        if following is None:
            break
        state = following
    was_stopped = state.server_round < rounds.rounds
    log.info("stopped", extra={"action": "run_stopped", "round": state.server_round})
    return Finished(state, federation.discovery.cards, was_stopped=was_stopped)


def _collecting(federation: Federation[ResultT]) -> Collecting:
    run, config, exchange = federation.run, federation.config, federation.exchange
    if not config.secure_aggregation.enabled:
        return PlainCollecting(run=run, config=config, exchange=exchange)
    return SecureCollecting(
        run=run,
        config=config,
        exchange=exchange,
        site_keys=federation.site_keys,
        kept=KeptFile(federation.files.secure_round, run=run),
    )


def _with_latecomers(federation: Federation[ResultT]) -> Federation[ResultT]:
    """Take in the sites that have come, or come back, since the last round."""
    before = federation.discovery
    discovery = federation.exchange.look_again(before)
    if joined := {s: c for s, c in discovery.cards.items() if s not in before.cards}:
        federation.tracker.sites_joined(joined)
        log.info("sites joined", extra={"action": "sites_joined", "sites": ",".join(joined)})
    return replace(federation, discovery=discovery)


def _one_round(
    federation: Federation[ResultT], collecting: Collecting, state: Checkpoint
) -> Checkpoint | None:
    """Return the state after one more round, None when it was stopped before all had answered."""
    started, traffic_before = time.monotonic(), federation.exchange.traffic
    server_round = state.server_round + 1
    may_be_last = _may_be_last(federation, state)
    task = Task(
        server_round=server_round,
        model=state.model,
        plans=federation.strategy.configure_train(server_round, federation.discovery.cards),
        discovery=federation.discovery,
        evaluating=_evaluating(federation, state.server_round),
        compared=compared_sites(federation.config, server_round, may_be_last=may_be_last),
    )
    collected = collecting.collect(task, federation.progress)
    if not collected.is_whole:
        federation.tracker.sites_measured(state.server_round, collected.evaluations_before)
        return None
    model, replies, numbers = state.model, collected.replies, collected.numbers
    reason = collected.reason
    if collected.change:
        following_model, reason = _moved(federation, model, collected.change)
        if reason is None:
            model = following_model
        else:
            replies, numbers = unusable_together(replies, reason), {}
    changed = reason is None
    if not changed:
        log.warning(
            "the model stays as it is: %s",
            reason,
            extra={"action": "model_unchanged", "round": server_round},
        )
    beside = Beside(may_be_last=may_be_last, start=state.model, changes=collected.own_changes)
    central = _measure(federation, model, server_round, beside)
    following = replace(
        state,
        server_round=server_round,
        model=model,
        strategy=federation.strategy.state(),
        participation=(*state.participation, Participation(server_round, replies, changed)),
        progression=_progression(state, server_round, central),
        late_replies=federation.late_replies(),
    )
    report = RoundReport(
        server_round=server_round,
        sites=_site_rounds(federation, replies, numbers),
        changed_model=changed,
        central=central,
        is_best=following.progression.best_round == server_round,
        model=model,
        evaluations_before=collected.evaluations_before,
        wall_s=time.monotonic() - started,
        traffic=federation.exchange.traffic.since(traffic_before),
        summed=collected.sums,
    )
    _keep_and_tell(federation, following, report, replies)
    return following


def _moved(
    federation: Federation[ResultT], model: Arrays, change: Mapping[str, NDArray[np.float64]]
) -> tuple[Arrays, str | None]:
    """Return the next model, and why it cannot be used, or None when it can.

    Finite updates may overflow once they are merged or once the server's step is taken; the
    strategy then stands where it stood before.
    """
    strategy, before = federation.strategy, federation.strategy.state()
    with np.errstate(over="ignore", invalid="ignore"):
        moved = strategy.aggregate_train(model, change)
    for name, array in {**moved, **strategy.state()}.items():
        if not np.isfinite(array).all():
            strategy.restore(before)
            return moved, f"array {name!r} is not finite after the round's updates were merged"
    return moved, None


def _round_zero(
    federation: Federation[ResultT], start: Checkpoint, untrained: Untrained[ResultT]
) -> Checkpoint:
    state = replace(start, progression=_progression(start, 0, untrained.central))
    report = RoundReport(
        server_round=0,
        sites=(),
        changed_model=False,
        central=untrained.central,
        is_best=state.progression.best_round == 0,
        model=start.model,
        evaluations_before={},
        wall_s=untrained.wall_s,
    )
    _keep_and_tell(federation, state, report, ())
    return state


def _evaluating(federation: Federation[ResultT], server_round: int) -> Sequence[str]:
    """Return the sites that measure the model of a round."""
    config = federation.config
    if not (config.evaluation.federated and is_measured(config, server_round)):
        return ()
    return federation.strategy.configure_evaluate(server_round, federation.discovery.cards)


def _may_be_last(federation: Federation[ResultT], state: Checkpoint) -> bool:
    """Say whether the round after this state ends the run, if it should not improve the score."""
    after = state.progression.after(state.server_round + 1, None)
    following = replace(state, server_round=state.server_round + 1, progression=after)
    return following.is_last(federation.config)


def _measure(
    federation: Federation[ResultT], model: Arrays, server_round: int, beside: Beside
) -> ResultT | None:
    """Measure centrally, when this round is one that is measured."""
    if not is_measured(federation.config, server_round):
        return None
    federation.progress.evaluating(server_round, sites=())
    return federation.evaluator(model, server_round, beside)


def _measure_at_sites(federation: Federation[ResultT], state: Checkpoint) -> None:
    """Let the sites measure the last model, which no further training request brings them."""
    config, cards = federation.config, federation.discovery.cards
    sites = _evaluating(federation, state.server_round)
    if not sites:
        return
    if config.secure_aggregation.enabled:
        # An evaluation by itself would tell of one site what the sums hide.
        log.info(
            "the last model is measured centrally only: updates are summed under masks",
            extra={"action": "not_measured_at_sites", "round": state.server_round},
        )
        return
    federation.progress.evaluating(state.server_round, sites=sites)
    requests = evaluate_requests(
        {site: cards[site] for site in sites},
        config,
        run=federation.run,
        server_round=state.server_round,
        model=state.model,
    )
    answers = federation.exchange.evaluate(
        requests,
        timeout_s=config.federation.round_timeout_s,
        answered=federation.progress.site_answered,
    )
    evaluations: dict[str, Metrics] = {}
    for site, answer in sorted(answers.items()):
        if not isinstance(answer, Evaluation):
            reason = answer.reason
        elif (answer.run, answer.server_round) != (federation.run, state.server_round):
            reason = f"it answers round {answer.server_round} of run {answer.run}"
        else:
            evaluations[site] = answer.metrics
            continue
        log.warning(
            "site without an evaluation",
            extra={"action": "no_evaluation", "site": site, "reason": reason},
        )
    federation.tracker.sites_measured(state.server_round, evaluations)


def _progression(
    state: Checkpoint, server_round: int, central: CentralResult | None
) -> Progression:
    if central is None:
        return state.progression
    return state.progression.after(server_round, central.score)


def _site_rounds(
    federation: Federation[ResultT],
    replies: Sequence[Reply],
    numbers: Mapping[str, SiteNumbers],
) -> tuple[SiteRound, ...]:
    tasks = {site.name: site.task for site in federation.config.sites}
    unknown = SiteNumbers(num_examples=None, metrics={})
    return tuple(
        SiteRound(
            site=reply.site,
            task=tasks[reply.site],
            outcome=reply.outcome,
            reason=reply.reason,
            num_examples=numbers.get(reply.site, unknown).num_examples,
            metrics=numbers.get(reply.site, unknown).metrics,
        )
        for reply in replies
    )


def _keep_and_tell(
    federation: Federation[ResultT],
    state: Checkpoint,
    report: RoundReport[ResultT],
    replies: Sequence[Reply],
) -> None:
    """Make a round durable, and only then tell of it.

    The checkpoint is what makes it a round that is over; what was kept before it for the telling
    is replaced when the round is done again.
    """
    federation.tracker.keep_round(report)
    keep_state(federation.files, state)
    federation.tracker.round_finished(report)
    federation.progress.round_finished(report.server_round, replies=replies)
    log.info(
        "round finished",
        extra={
            "action": "round_finished",
            "round": report.server_round,
            "seconds": round(report.wall_s, 2),
            "sites": sum(reply.outcome is Outcome.ANSWERED for reply in replies),
        },
    )
