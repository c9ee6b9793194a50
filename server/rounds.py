"""The rounds of a run: ask, check, merge, measure, keep, tell."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic

import numpy as np

from common.config import RunConfig
from common.layers import refuse_unusable, tasks_with_local_head
from common.wire import (
    Arrays,
    Evaluation,
    Refusal,
    TrainRequest,
    Update,
)
from server.aggregate import AGGREGATIONS
from server.aggregate.merge import merge
from server.checkpoint import Checkpoint, ModelFiles, Progression, save_checkpoint, save_model
from server.exchange import Discovery, Exchange, NoAnswer
from server.participation import Outcome, Participation, Reply
from server.replies import sort_out, unusable_together
from server.requests import evaluate_requests, train_requests
from server.round_report import (
    CentralEvaluator,
    CentralResult,
    Progress,
    ResultT,
    ResultT_co,
    RoundReport,
    SiteRound,
    Tracker,
)
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


@dataclass(frozen=True, eq=False)
class Untrained(Generic[ResultT_co]):
    """The measurement of the model before training."""

    central: ResultT_co
    wall_s: float


def measure_untrained(evaluator: CentralEvaluator[ResultT], model: Arrays) -> Untrained[ResultT]:
    """Measure round 0. Apart from the rounds, so that it can go on while sites are waited for."""
    started = time.monotonic()
    return Untrained(evaluator(model, 0), time.monotonic() - started)


def run_rounds(
    federation: Federation[ResultT], start: Checkpoint, *, untrained: Untrained[ResultT] | None
) -> Checkpoint:
    """Run the rounds that are left and return the last state.

    ``untrained`` is the measurement of round 0, None for a start that has rounds behind it.

    Ends after the configured rounds, or sooner when the central score has not improved for
    ``federation.patience`` evaluations. Raises ConfigError when local layers leave nothing to
    train together.
    """
    rounds = federation.config.federation
    refuse_unusable(start.model, federation.config.tasks, rounds.local_layers)
    for task in tasks_with_local_head(start.model, federation.config.tasks, rounds.local_layers):
        log.warning(
            "every array of this task's head stays at the sites: "
            "central metrics of the task measure an untrained head",
            extra={"action": "head_untrained_centrally", "task": task},
        )
    federation.strategy.restore(start.strategy)
    federation.tracker.run_started(federation.discovery.cards)
    state = start if untrained is None else _round_zero(federation, start, untrained)
    while state.server_round < rounds.rounds:
        if early_stop(federation.config, state) is not None:
            log.info(
                "no improvement, stopping early",
                extra={"action": "stopped_early", "round": state.server_round},
            )
            break
        state = _one_round(federation, state)
    return state


def early_stop(config: RunConfig, state: Checkpoint) -> str | None:
    """Return, as a sentence, why a run ended before its last round, or None when it did not."""
    rules, since_best = config.federation, state.progression.evaluations_since_best
    if state.server_round >= rules.rounds or since_best < rules.patience:
        return None
    return f"stopped after round {state.server_round}: no improvement in {since_best} evaluations."


def _one_round(federation: Federation[ResultT], state: Checkpoint) -> Checkpoint:
    started = time.monotonic()
    server_round = state.server_round + 1
    cards = federation.discovery.cards
    requests = train_requests(
        federation.strategy.configure_train(server_round, cards),
        cards,
        federation.config,
        run=federation.run,
        server_round=server_round,
        model=state.model,
    )
    answers = _train(federation, requests, server_round)
    updates, replies = sort_out(
        requests,
        {**federation.discovery.absent, **answers},
        cards=cards,
        local_layers=federation.config.federation.local_layers,
    )
    model = state.model
    changed = len(updates) >= federation.config.federation.min_sites
    if changed:
        following_model, reason = _moved(federation, model, updates)
        if reason is None:
            model = following_model
        else:
            changed, updates, replies = False, {}, unusable_together(replies, reason)
            log.warning(
                "the model stays as it is: %s",
                reason,
                extra={"action": "model_unchanged", "round": server_round},
            )
    central, evaluations = _measure(federation, model, server_round)
    progression = _progression(state, server_round, central)
    is_best = progression.best_round == server_round
    participation = Participation(server_round, replies, changed)
    following = replace(
        state,
        server_round=server_round,
        model=model,
        strategy=federation.strategy.state(),
        participation=(*state.participation, participation),
        progression=progression,
    )
    _keep(federation, following, is_best=is_best)
    report = RoundReport(
        server_round=server_round,
        sites=_site_rounds(federation, replies, updates, evaluations),
        changed_model=changed,
        central=central,
        is_best=is_best,
        model=model,
        wall_s=time.monotonic() - started,
    )
    _tell(federation, report, replies)
    return following


def _moved(
    federation: Federation[ResultT], model: Arrays, updates: Mapping[str, Update]
) -> tuple[Arrays, str | None]:
    """Return the next model, and why it cannot be used, or None when it can.

    Finite updates may overflow once they are merged or once the server's step is taken; the
    strategy then stands where it stood before.
    """
    strategy, before = federation.strategy, federation.strategy.state()
    aggregation = AGGREGATIONS.get(federation.config.federation.aggregation)
    with np.errstate(over="ignore", invalid="ignore"):
        moved = strategy.aggregate_train(model, merge(list(updates.values()), model, aggregation))
    for name, array in {**moved, **strategy.state()}.items():
        if not np.isfinite(array).all():
            strategy.restore(before)
            return moved, f"array {name!r} is not finite after the round's updates were merged"
    return moved, None


def _round_zero(
    federation: Federation[ResultT], start: Checkpoint, untrained: Untrained[ResultT]
) -> Checkpoint:
    state = replace(start, progression=_progression(start, 0, untrained.central))
    is_best = state.progression.best_round == 0
    _keep(federation, state, is_best=is_best)
    report = RoundReport(
        server_round=0,
        sites=(),
        changed_model=False,
        central=untrained.central,
        is_best=is_best,
        model=start.model,
        wall_s=untrained.wall_s,
    )
    _tell(federation, report, ())
    return state


def _train(
    federation: Federation[ResultT], requests: Mapping[str, TrainRequest], server_round: int
) -> dict[str, Update | Refusal | NoAnswer]:
    rules = federation.config.federation
    federation.progress.round_started(server_round, rounds=rules.rounds, sites=list(requests))
    return federation.exchange.train(
        requests,
        timeout_s=rules.round_timeout_s,
        answered=federation.progress.site_answered,
    )


def _measure(
    federation: Federation[ResultT], model: Arrays, server_round: int
) -> tuple[ResultT | None, Mapping[str, Evaluation]]:
    """Measure centrally and at the sites, when this round is one that is measured."""
    config, cards = federation.config, federation.discovery.cards
    is_last = server_round == config.federation.rounds
    if not (is_last or server_round % config.evaluation.every_rounds == 0):
        return None, {}
    sites: Sequence[str] = ()
    if config.evaluation.federated:
        sites = federation.strategy.configure_evaluate(server_round, cards)
    federation.progress.evaluating(server_round, sites=sites)
    central = federation.evaluator(model, server_round)
    requests = evaluate_requests(
        {site: cards[site] for site in sites},
        config,
        run=federation.run,
        server_round=server_round,
        model=model,
    )
    answers = federation.exchange.evaluate(
        requests,
        timeout_s=config.federation.round_timeout_s,
        answered=federation.progress.site_answered,
    )
    evaluations = {}
    for site, answer in answers.items():
        if isinstance(answer, Evaluation):
            evaluations[site] = answer
        else:
            log.warning(
                "site without an evaluation",
                extra={"action": "no_evaluation", "site": site, "reason": answer.reason},
            )
    return central, evaluations


def _progression(
    state: Checkpoint, server_round: int, central: CentralResult | None
) -> Progression:
    if central is None:
        return state.progression
    return state.progression.after(server_round, central.score)


def _keep(federation: Federation[ResultT], state: Checkpoint, *, is_best: bool) -> None:
    # Models first: a checkpoint must never name a best round whose model is not there.
    files = federation.files
    if is_best:
        save_model(files.best, state.model, run=state.run, server_round=state.server_round)
    save_model(files.last, state.model, run=state.run, server_round=state.server_round)
    save_checkpoint(files.checkpoint, state)


def _site_rounds(
    federation: Federation[ResultT],
    replies: Sequence[Reply],
    updates: Mapping[str, Update],
    evaluations: Mapping[str, Evaluation],
) -> tuple[SiteRound, ...]:
    tasks = {site.name: site.task for site in federation.config.sites}
    return tuple(
        SiteRound(
            site=reply.site,
            task=tasks[reply.site],
            outcome=reply.outcome,
            reason=reply.reason,
            num_examples=updates[reply.site].num_examples if reply.site in updates else None,
            metrics=updates[reply.site].metrics if reply.site in updates else {},
            evaluation=evaluations[reply.site].metrics if reply.site in evaluations else {},
        )
        for reply in replies
    )


def _tell(
    federation: Federation[ResultT], report: RoundReport[ResultT], replies: Sequence[Reply]
) -> None:
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
