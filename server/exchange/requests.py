"""What the sites are asked in one round: the model's arrays that each holds, and its settings.

Sites of one task share one dictionary of arrays, and all share one configuration: the model is
held once, however many sites there are.
"""

from collections.abc import Collection, Mapping

from common.config.reading import canonical_json
from common.config.run import RunConfig
from common.messages.kinds import Arrays, EvaluateRequest, SiteCard, TrainRequest
from common.model.layers import held_by
from common.model.schedule import steps_per_round
from server.exchange.site_config import told
from server.strategies import TrainPlan


def is_measured(config: RunConfig, server_round: int) -> bool:
    """Say whether the model of a round is measured; before training and at the end it always is."""
    is_last = server_round == config.federation.rounds
    return is_last or server_round % config.evaluation.every_rounds == 0


def train_requests(
    plans: Mapping[str, TrainPlan],
    cards: Mapping[str, SiteCard],
    config: RunConfig,
    *,
    run: str,
    server_round: int,
    model: Arrays,
    evaluating: Collection[str],
) -> dict[str, TrainRequest]:
    """Return the request for each site that has a plan, with its place in the run's schedule.

    The sites in ``evaluating`` first measure the model that they are sent. A run that is continued
    asks for a round in exactly the words it was asked for before.
    """
    arrays, config_json = _arrays_by_task(cards, model), canonical_json(told(config))
    requests = {}
    for site, plan in plans.items():
        card = cards[site]
        steps = _steps(config, card)
        requests[site] = TrainRequest(
            run=run,
            server_round=server_round,
            global_step=(server_round - 1) * steps,
            total_steps=config.federation.rounds * steps,
            proximal_mu=plan.proximal_mu,
            evaluates=site in evaluating,
            config_json=config_json,
            arrays=arrays[card.task],
        )
    return requests


def evaluate_requests(
    cards: Mapping[str, SiteCard],
    config: RunConfig,
    *,
    run: str,
    server_round: int,
    model: Arrays,
) -> dict[str, EvaluateRequest]:
    """Return the request for each of these sites."""
    arrays, config_json = _arrays_by_task(cards, model), canonical_json(told(config))
    return {
        site: EvaluateRequest(
            run=run,
            server_round=server_round,
            config_json=config_json,
            arrays=arrays[card.task],
        )
        for site, card in cards.items()
    }


def _steps(config: RunConfig, card: SiteCard) -> int:
    """Return a site's optimiser steps of one round; private training counts no pictures."""
    if config.privacy.enabled:
        return config.privacy.steps_per_round
    return steps_per_round(
        card.num_examples, batch_size=config.train.batch_size, epochs=config.train.epochs
    )


def _arrays_by_task(cards: Mapping[str, SiteCard], model: Arrays) -> dict[str, Arrays]:
    tasks = {card.task for card in cards.values()}
    return {task: {name: model[name] for name in held_by(task, model)} for task in tasks}
