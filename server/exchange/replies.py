"""Which answers of a round are updates that can be used, and what is said of the other sites."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from common.messages.kinds import MaskedUpdate, Refusal, SiteCard, TrainRequest, Update
from common.messages.precision import Precision
from common.model.layers import shared
from server.aggregate.validate import objection
from server.exchange.awaited import NoAnswer
from server.exchange.participation import Outcome, Reply

log = logging.getLogger(__name__)

SentT = TypeVar("SentT", Update, MaskedUpdate)


def sort_out(
    requests: Mapping[str, TrainRequest],
    answers: Mapping[str, Update | MaskedUpdate | Refusal | NoAnswer],
    *,
    cards: Mapping[str, SiteCard],
    local_layers: Sequence[str],
    precision: Precision,
) -> tuple[dict[str, Update], tuple[Reply, ...]]:
    """Return the usable updates by site, and what came of every site, in the order of names.

    An update is usable when it answers this request with exactly the arrays that leave a site, in
    the run's precision, and for the task and the number of pictures that the site's card named.
    """

    def reason_against(update: Update) -> str | None:
        site = update.site
        if update.precision != precision:
            return f"it is in {update.precision}, the run's updates are in {precision}"
        return _reason_against(requests.get(site), cards.get(site), update, local_layers)

    return judged(answers, Update, reason_against)


def judged(
    answers: Mapping[str, Update | MaskedUpdate | Refusal | NoAnswer],
    kind: type[SentT],
    reason_against: Callable[[SentT], str | None],
) -> tuple[dict[str, SentT], tuple[Reply, ...]]:
    """Return the usable updates of one kind by site, and what came of every site.

    Both in the order of names. An update is usable when there is no reason against it.
    """
    usable: dict[str, SentT] = {}
    replies = []
    for site, answer in sorted(answers.items()):
        if isinstance(answer, Refusal):
            reply = Reply(answer.site, Outcome.REFUSED, answer.reason)
        elif isinstance(answer, NoAnswer):
            reply = Reply(answer.site, answer.outcome, answer.reason)
        elif not isinstance(answer, kind):
            reply = Reply(answer.site, Outcome.REJECTED, "it sent another kind of update")
        elif reason := reason_against(answer):
            reply = Reply(answer.site, Outcome.REJECTED, reason)
        else:
            reply = Reply(answer.site, Outcome.ANSWERED, "")
            usable[site] = answer
        replies.append(reply)
        if reply.outcome is not Outcome.ANSWERED:
            log.warning(
                "site without an update",
                extra={
                    "action": "no_update",
                    "site": site,
                    "outcome": str(reply.outcome),
                    "reason": reply.reason,
                },
            )
    return usable, tuple(replies)


def unusable_together(replies: Sequence[Reply], reason: str) -> tuple[Reply, ...]:
    """Return a round's replies after the model that their updates made had to be given up."""
    return tuple(
        Reply(reply.site, Outcome.REJECTED, reason) if reply.outcome is Outcome.ANSWERED else reply
        for reply in replies
    )


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
