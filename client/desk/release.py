"""What of an answer a hospital's policy lets leave. Pure."""

import json
from collections.abc import Collection
from dataclasses import fields, replace

from client.consent.policy import Policy, Standing
from client.desk.answers import Part
from common.datasets.card import card_from_dict
from common.messages.kinds import Evaluation, MaskedUpdate, SiteCard, Update

Release = SiteCard | Update | Evaluation  # an answer that tells something of patients


def may_release_evaluation(policy: Policy, standing: Standing) -> bool:
    """Say whether measurements on the validation part may leave."""
    enough = standing.validation_patients >= policy.bounds.min_validation_patients
    return policy.release.metrics and enough


def as_released(answer: Release, policy: Policy, standing: Standing) -> Release:
    """Return an answer without what the policy keeps at the site."""
    if isinstance(answer, SiteCard):
        return card_as_released(answer, policy)
    if isinstance(answer, Update):
        return update_as_released(answer, policy, standing)
    return answer


def card_as_released(card: SiteCard, policy: Policy) -> SiteCard:
    """Return a site's card, with the totals only where the policy keeps the rest."""
    if policy.release.data_card:
        return card
    return replace(card, data_card_json=_totals_only(card.data_card_json))


def update_as_released(update: Update, policy: Policy, standing: Standing) -> Update:
    """Return an update without the metrics that the policy keeps."""
    metrics = update.metrics if policy.release.metrics else {}
    evaluation = update.evaluation if may_release_evaluation(policy, standing) else {}
    return replace(update, metrics=metrics, evaluation=evaluation)


def is_released_whole(
    answer: Update | MaskedUpdate | Evaluation,
    policy: Policy,
    standing: Standing,
    *,
    tells: Collection[Part],
) -> bool:
    """Say whether an answer may leave as it is, nothing taken out.

    Args:
        answer: As it was signed.
        policy: As it is now.
        standing: Likewise.
        tells: What a masked answer holds beside the arrays, which it does not show.
    """
    if isinstance(answer, MaskedUpdate):
        may_evaluate = may_release_evaluation(policy, standing)
        return (policy.release.metrics or "metrics" not in tells) and (
            may_evaluate or "evaluation" not in tells
        )
    released = as_released(answer, policy, standing)
    return all(
        field.name == "arrays" or getattr(released, field.name) == getattr(answer, field.name)
        for field in fields(answer)
    )


def _totals_only(data_card_json: str) -> str:
    """Return a data card that keeps how many pictures and patients there are, and no more."""
    return card_from_dict(json.loads(data_card_json)).totals_only().as_json()
