"""What of an answer a hospital's policy lets leave. Pure."""

import json
from dataclasses import fields, replace

from client.policy import Policy, Standing
from common.wire import Evaluation, SiteCard, Update

Release = SiteCard | Update | Evaluation  # an answer that tells something of patients


def may_release_evaluation(policy: Policy, standing: Standing) -> bool:
    """Say whether measurements on the validation part may leave."""
    enough = standing.validation_patients >= policy.bounds.min_validation_patients
    return policy.release.metrics and enough


def as_released(answer: Release, policy: Policy, standing: Standing) -> Release:
    """Return an answer without what the policy keeps at the site."""
    if isinstance(answer, SiteCard) and not policy.release.data_card:
        return replace(answer, data_card_json=_totals_only(answer.data_card_json))
    if isinstance(answer, Update):
        metrics = answer.metrics if policy.release.metrics else {}
        evaluation = answer.evaluation if may_release_evaluation(policy, standing) else {}
        return replace(answer, metrics=metrics, evaluation=evaluation)
    return answer


def is_released_whole(answer: Release, policy: Policy, standing: Standing) -> bool:
    """Say whether an answer may leave as it is, nothing taken out."""
    released = as_released(answer, policy, standing)
    return all(
        field.name == "arrays" or getattr(released, field.name) == getattr(answer, field.name)
        for field in fields(answer)
    )


def _totals_only(data_card_json: str) -> str:
    """Return a data card that keeps how many pictures and patients there are, and no more."""
    card = json.loads(data_card_json)
    return json.dumps(card | {"parts": [], "regions": [], "exclusions": {}, "notes": []})
