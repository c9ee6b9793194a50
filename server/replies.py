"""Which answers of a round are updates that can be used, and what is said of the other sites."""

import logging
from collections.abc import Mapping, Sequence

from common.layers import shared
from common.wire import Refusal, SiteCard, TrainRequest, Update
from server.aggregate.validate import objection
from server.awaited import NoAnswer
from server.participation import Outcome, Reply

log = logging.getLogger(__name__)


def sort_out(
    requests: Mapping[str, TrainRequest],
    answers: Mapping[str, Update | Refusal | NoAnswer],
    *,
    cards: Mapping[str, SiteCard],
    local_layers: Sequence[str],
) -> tuple[dict[str, Update], tuple[Reply, ...]]:
    """Return the usable updates by site, and what came of every site, in the order of names.

    An update is usable when it answers this request with exactly the arrays that leave a site,
    and for the task and the number of pictures that the site's card named.
    """
    updates: dict[str, Update] = {}
    replies = []
    for site, answer in sorted(answers.items()):
        reply = _judge(requests.get(site), cards.get(site), answer, local_layers)
        replies.append(reply)
        if isinstance(answer, Update) and reply.outcome is Outcome.ANSWERED:
            updates[site] = answer
        else:
            log.warning(
                "site without an update",
                extra={
                    "action": "no_update",
                    "site": site,
                    "outcome": str(reply.outcome),
                    "reason": reply.reason,
                },
            )
    return updates, tuple(replies)


def unusable_together(replies: Sequence[Reply], reason: str) -> tuple[Reply, ...]:
    """Return a round's replies after the model that their updates made had to be given up."""
    return tuple(
        Reply(reply.site, Outcome.REJECTED, reason) if reply.outcome is Outcome.ANSWERED else reply
        for reply in replies
    )


def _judge(
    request: TrainRequest | None,
    card: SiteCard | None,
    answer: Update | Refusal | NoAnswer,
    local_layers: Sequence[str],
) -> Reply:
    if isinstance(answer, Refusal):
        return Reply(answer.site, Outcome.REFUSED, answer.reason)
    if isinstance(answer, NoAnswer):
        return Reply(answer.site, answer.outcome, answer.reason)
    reason = _reason_against(request, card, answer, local_layers)
    if reason is not None:
        return Reply(answer.site, Outcome.REJECTED, reason)
    return Reply(answer.site, Outcome.ANSWERED, "")


def _reason_against(
    request: TrainRequest | None,
    card: SiteCard | None,
    update: Update,
    local_layers: Sequence[str],
) -> str | None:
    if request is None or card is None:
        return "it was not asked"
    if (update.run, update.server_round) != (request.run, request.server_round):
        return f"it answers round {update.server_round} of run {update.run}"
    if update.task != card.task:
        return f"task is {update.task!r}, its card says {card.task!r}"
    if update.num_examples != card.num_examples:
        return f"num_examples is {update.num_examples}, its card says {card.num_examples}"
    names = shared(request.arrays, local_layers)
    return objection(update, {name: request.arrays[name].shape for name in names})
