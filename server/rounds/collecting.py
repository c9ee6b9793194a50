"""What one round brings: sites are asked to train, judged and merged; here in the open.

The same under masks, where nobody sees one site's part, is server/rounds/secure/collecting.py.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from common.config.run import RunConfig
from common.messages.kinds import Arrays, MaskedUpdate, Metrics, Refusal, TrainRequest, Update
from server.aggregate import AGGREGATIONS
from server.aggregate.merge import merge
from server.exchange.awaited import NoAnswer
from server.exchange.exchange import Discovery, Exchange
from server.exchange.participation import Reply
from server.exchange.replies import sort_out
from server.exchange.requests import train_requests
from server.rounds.round_report import Progress, SecureSums
from server.strategies import TrainPlan

Came = Update | MaskedUpdate | Refusal | NoAnswer


@dataclass(frozen=True, eq=False)
class Task:
    """What a round is to do, with whom."""

    server_round: int
    model: Arrays  # that the sites start from
    plans: Mapping[str, TrainPlan]  # of the sites that train
    discovery: Discovery
    evaluating: Collection[str]  # sites that measure the model before they train
    compared: Collection[str] = ()  # sites whose own change is wanted beside the merged one


@dataclass(frozen=True)
class SiteNumbers:
    """What one site says of itself in one round, where the coordinator may know it."""

    num_examples: int | None  # training pictures
    metrics: Metrics


@dataclass(frozen=True, eq=False)
class Collected:
    """What came of a round."""

    replies: tuple[Reply, ...]  # of every site, in the order of names
    is_whole: bool  # False: the run was stopped before all had answered
    change: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)  # none: it stays
    reason: str | None = None  # why there is no change
    numbers: Mapping[str, SiteNumbers] = field(default_factory=dict)  # of sites in the change
    evaluations_before: Mapping[str, Metrics] = field(default_factory=dict)  # of the model sent
    sums: SecureSums | None = None
    # Of the sites to be compared, where updates are in the open; gone when the round is measured.
    own_changes: Mapping[str, Arrays] = field(default_factory=dict)


class Collecting(Protocol):
    """A way to have a round's updates merged."""

    def collect(self, task: Task, progress: Progress) -> Collected:
        """Ask the sites; return what came of it."""
        ...


class PlainCollecting:
    """The coordinator sees every site's update and merges them itself."""

    def __init__(self, *, run: str, config: RunConfig, exchange: Exchange) -> None:
        """Collect in the name of a run, as its configuration says."""
        self._run, self._config, self._exchange = run, config, exchange

    def collect(self, task: Task, progress: Progress) -> Collected:
        """Ask, sort out and merge.

        Finite updates may overflow once they are merged: whoever uses the change must look.
        """
        config, cards = self._config, task.discovery.cards
        requests = train_requests(
            task.plans,
            cards,
            config,
            run=self._run,
            server_round=task.server_round,
            model=task.model,
            evaluating=task.evaluating,
        )
        answers = ask(self._exchange, requests, config, task.server_round, progress)
        updates, replies = sort_out(
            requests,
            {**task.discovery.absent, **answers},
            cards=cards,
            local_layers=config.federation.local_layers,
            precision=config.federation.update_precision,
        )
        evaluations = {site: u.evaluation for site, u in updates.items() if u.evaluation}
        numbers = {site: SiteNumbers(u.num_examples, u.metrics) for site, u in updates.items()}
        collected = Collected(
            replies,
            is_whole=len(answers) == len(requests),
            numbers=numbers,
            evaluations_before=evaluations,
        )
        least = config.federation.min_sites
        if not collected.is_whole or len(updates) < least:
            reason = f"{len(updates)} usable updates, federation.min_sites is {least}"
            return replace(collected, reason=reason)
        aggregation = AGGREGATIONS.get(config.federation.aggregation)
        with np.errstate(over="ignore", invalid="ignore"):
            change = merge(list(updates.values()), task.model, aggregation)
        own = {site: u.arrays for site, u in updates.items() if site in task.compared}
        return replace(collected, change=change, own_changes=own)


def ask(
    exchange: Exchange,
    requests: Mapping[str, TrainRequest],
    config: RunConfig,
    server_round: int,
    progress: Progress,
) -> dict[str, Came]:
    """Ask sites to train while ``progress`` watches; return what came of each."""
    rules = config.federation
    progress.round_started(server_round, rounds=rules.rounds, sites=list(requests))
    return exchange.train(
        requests, timeout_s=rules.round_timeout_s, answered=progress.site_answered
    )
