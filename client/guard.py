"""What may leave a site: an answer to what was asked, in the agreed arrays, and nothing else.

Pure. The trainer keeps this by itself; here it is checked once more, by code that an auditor can
read without knowing torch.
"""

import numpy as np

from common.layers import is_local
from common.wire import (
    EvaluateRequest,
    Evaluation,
    QueryRequest,
    Request,
    SiteCard,
    TrainRequest,
    Update,
)

_ANSWERS = {QueryRequest: SiteCard, TrainRequest: Update, EvaluateRequest: Evaluation}


def reason_to_keep(
    request: Request,
    answer: SiteCard | Update | Evaluation,
    *,
    site: str,
    task: str,
    local_layers: tuple[str, ...],
) -> str | None:
    """Return why an answer must not leave the site, or None."""
    if type(answer) is not _ANSWERS[type(request)]:
        return f"a {type(request).__name__} cannot be answered by a {type(answer).__name__}"
    if (answer.site, answer.task) != (site, task):
        return "the answer is in another site's name or of another task"
    if isinstance(answer, SiteCard) or isinstance(request, QueryRequest):
        return None
    if (answer.run, answer.server_round) != (request.run, request.server_round):
        return "the answer is of another run or round"
    if isinstance(answer, Update) and isinstance(request, TrainRequest):
        return _reason_against_update(request, answer, local_layers)
    return None


def _reason_against_update(
    request: TrainRequest, update: Update, local_layers: tuple[str, ...]
) -> str | None:
    if update.evaluation and not request.evaluates:
        return "an evaluation that was not asked for"
    for name, array in update.arrays.items():
        if name not in request.arrays:
            return f"the array {name} was not asked for"
        if is_local(name, local_layers):
            return f"the array {name} stays at the site"
        if array.shape != request.arrays[name].shape:
            return f"the array {name} has another shape than was asked for"
        if not np.isfinite(array).all():
            return f"the array {name} is not finite"
    return None
