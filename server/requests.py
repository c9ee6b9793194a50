"""What the sites are asked in one round: the model's arrays that each holds, and its settings."""

from collections.abc import Mapping

from common.config import RunConfig
from common.config_file import canonical_json
from common.layers import held_by
from common.schedule import steps_per_round
from common.wire import Arrays, EvaluateRequest, SiteCard, TrainRequest
from server.site_config import told_to
from server.strategies import TrainPlan


def train_requests(
    plans: Mapping[str, TrainPlan],
    cards: Mapping[str, SiteCard],
    config: RunConfig,
    *,
    run: str,
    server_round: int,
    model: Arrays,
) -> dict[str, TrainRequest]:
    """Return the request for each site that has a plan, with its place in the run's schedule."""
    requests = {}
    for site, plan in plans.items():
        card = cards[site]
        steps = steps_per_round(
            card.num_examples, batch_size=config.train.batch_size, epochs=config.train.epochs
        )
        requests[site] = TrainRequest(
            run=run,
            server_round=server_round,
            global_step=(server_round - 1) * steps,
            total_steps=config.federation.rounds * steps,
            proximal_mu=plan.proximal_mu,
            config_json=canonical_json(told_to(site, config)),
            arrays={name: model[name] for name in held_by(card.task, model)},
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
    return {
        site: EvaluateRequest(
            run=run,
            server_round=server_round,
            config_json=canonical_json(told_to(site, config)),
            arrays={name: model[name] for name in held_by(card.task, model)},
        )
        for site, card in cards.items()
    }
