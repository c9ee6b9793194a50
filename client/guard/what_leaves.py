"""What may leave a site: an answer to what was asked, in the agreed arrays, and nothing else.

Pure. The trainer keeps this by itself; here it is checked once more, by code that an auditor can
read without knowing torch. Every text in an answer is one that the run already knows, every count
is the shard's own, every number has a name from a list. What a number's last bits say cannot be
checked by anybody; bounds.max_update_norm and coarser updates leave less room there.

A reason to keep an answer leaves too: it has no numbers and no words that only the answer has.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.guard.card import reason_against_card
from client.guard.statements import (
    reasons_against_keys,
    reasons_against_note,
    reasons_against_shares,
)
from client.home.own_shard import ShardCounts
from common.messages.kinds import (
    NOT_SECURE,
    Answer,
    EvaluateRequest,
    Evaluation,
    Keys,
    KeysRequest,
    MaskedUpdate,
    Metrics,
    QueryRequest,
    Release,
    Request,
    Shares,
    SiteCard,
    TrainRequest,
    UnmaskRequest,
    Update,
)
from common.messages.precision import SMALLEST_NORMAL, Precision, rounded, same_bits
from common.model.layers import is_local

_ANSWERS: dict[type[Request], type[Answer]] = {
    QueryRequest: SiteCard,
    TrainRequest: Update,
    EvaluateRequest: Evaluation,
    KeysRequest: Keys,
    UnmaskRequest: Shares,
}
_MEGABYTE = 2**20
_MOST_STEPS = 2**31 - 1


@dataclass(frozen=True)
class Limits:
    """What this site's answers of a run may hold."""

    site: str
    task: str
    sites: frozenset[str]  # of the run
    local_layers: tuple[str, ...]  # prefixes of arrays that stay
    precision: Precision  # of an update
    max_norm: float | None  # L2, of a whole update; None: no bound
    scaled_to: float | None  # L2 norm to which masking scales a larger update down; None: none does
    counts: ShardCounts
    min_training_patients: int
    min_validation_patients: int
    metric_names: frozenset[str]  # of the training
    evaluation_names: frozenset[str]
    groups: frozenset[str]  # of the secure sum, all of them; of a plain run none
    sum_sizes: Mapping[str, int]  # numbers of each masked sum of the round


def reason_to_keep(request: Request, answer: Release, limits: Limits) -> str | None:
    """Return why an answer must not leave the site, or None."""
    return next(_reasons(request, answer, limits), None)


def reason_against_size(content: bytes, *, max_mb: float) -> str | None:
    """Return why an answer must not leave although all in it may: it is too large."""
    size_mb = len(content) / _MEGABYTE
    if size_mb <= max_mb:
        return None
    return f"its policy allows an answer at most {max_mb:g} MB, this has {size_mb:.1f}"


def reason_against_update(request: TrainRequest, update: Update, limits: Limits) -> str | None:
    """Return why an update must not leave, nor be added to a masked sum, or None."""
    reasons = (
        *_reasons_against_names(request, update, limits),
        *_reasons_against_update(request, update, limits),
    )
    return next(iter(reasons), None)


def _reasons(request: Request, answer: Release, limits: Limits) -> Iterator[str]:
    expected = _ANSWERS[type(request)]
    if isinstance(request, TrainRequest) and request.secure_json != NOT_SECURE:
        expected = MaskedUpdate
    if type(answer) is not expected:
        yield f"a {type(request).__name__} cannot be answered by a {type(answer).__name__}"
        return
    yield from _reasons_against_names(request, answer, limits)
    if isinstance(answer, SiteCard):
        yield from _reasons_against_site_card(answer, limits)
    elif isinstance(answer, Update) and isinstance(request, TrainRequest):
        yield from _reasons_against_update(request, answer, limits)
    elif isinstance(answer, MaskedUpdate):
        yield from _reasons_against_masked(answer, limits)
    elif isinstance(answer, Evaluation):
        yield from _reasons_against_cohort("validation", answer.num_examples, limits)
        yield from _reasons_against_metrics(answer.metrics, limits.evaluation_names)
    elif isinstance(answer, Keys):
        yield from reasons_against_keys(answer, sites=limits.sites)
    elif isinstance(answer, Shares) and isinstance(request, UnmaskRequest):
        yield from reasons_against_shares(
            answer, asked=request.unmask_json, sites=limits.sites, groups=limits.groups
        )


def _reasons_against_names(request: Request, answer: Release, limits: Limits) -> Iterator[str]:
    if (answer.site, answer.task) != (limits.site, limits.task):
        yield "the answer is in another site's name or of another task"
    if isinstance(answer, SiteCard) or isinstance(request, QueryRequest):
        return
    if type(answer.server_round) is not int:
        yield "the answer's round is no whole number"
    if (answer.run, answer.server_round) != (request.run, request.server_round):
        yield "the answer is of another run or round"


def _reasons_against_site_card(card: SiteCard, limits: Limits) -> Iterator[str]:
    yield from _reasons_against_cohort("training", card.num_examples, limits)
    if not _is_count(card.num_val) or card.num_val != limits.counts.validation_pictures:
        yield "the card's number of validation pictures is not the shard's"
    if reason := reason_against_card(card.data_card_json, task=limits.task, counts=limits.counts):
        yield reason


def _reasons_against_update(request: TrainRequest, update: Update, limits: Limits) -> Iterator[str]:
    yield from _reasons_against_cohort("training", update.num_examples, limits)
    if not _is_count(update.num_steps) or update.num_steps > _MOST_STEPS:
        yield "the number of steps is no count"
    yield from _reasons_against_metrics(update.metrics, limits.metric_names)
    if update.evaluation:
        if not request.evaluates:
            yield "an evaluation that was not asked for"
        if limits.counts.validation_patients < limits.min_validation_patients:
            yield "an evaluation on fewer patients than its policy asks for"
    yield from _reasons_against_metrics(update.evaluation, limits.evaluation_names)
    if update.precision != limits.precision:
        yield f"the update is not in the run's precision ({limits.precision})"
    for name, array in update.arrays.items():
        yield from _reasons_against_array(name, array, request, limits)
    expected = {name for name in request.arrays if not is_local(name, limits.local_layers)}
    if missing := sorted(expected - set(update.arrays)):
        yield f"the array {missing[0]} is missing"
    norm = min(_norm(update), math.inf if limits.scaled_to is None else limits.scaled_to)
    if limits.max_norm is not None and not norm <= limits.max_norm:
        # Not by how much: whoever chose the model would learn a number about the pictures.
        yield f"the update's norm is larger than its policy allows ({limits.max_norm:g})"


def _reasons_against_array(
    name: str, array: NDArray[np.float32], request: TrainRequest, limits: Limits
) -> Iterator[str]:
    if name not in request.arrays:
        yield "an array that was not asked for"
        return
    if is_local(name, limits.local_layers):
        yield f"the array {name} stays at the site"
    if array.dtype != np.float32:
        yield f"the array {name} is not float32"
        return
    if array.shape != request.arrays[name].shape:
        yield f"the array {name} has another shape than was asked for"
    if not np.isfinite(array).all():
        yield f"the array {name} is not finite"
        return
    sizes = np.abs(array)
    if ((sizes > 0) & (sizes < SMALLEST_NORMAL)).any():
        yield f"the array {name} has numbers below 2^-126, which no training means"
    if not same_bits(array, rounded({name: array}, limits.precision)[name]):
        yield f"the array {name} is not rounded to {limits.precision}"


def _reasons_against_masked(answer: MaskedUpdate, limits: Limits) -> Iterator[str]:
    for group, masked in answer.masked.items():
        if group not in limits.sum_sizes:
            yield "a masked sum of a group in which the site is not in this round"
        elif masked.dtype != np.uint32:
            yield f"the masked sum of {group} is not uint32"
        elif masked.shape != (limits.sum_sizes[group],):
            yield f"the masked sum of {group} has another size than was agreed"
    if missing := sorted(set(limits.sum_sizes) - set(answer.masked)):
        yield f"the masked sum of {missing[0]} is missing"
    yield from reasons_against_note(answer, sites=limits.sites)


def _reasons_against_cohort(part: str, num_pictures: int, limits: Limits) -> Iterator[str]:
    counts = limits.counts
    pictures, patients, least = (
        (counts.training_pictures, counts.training_patients, limits.min_training_patients)
        if part == "training"
        else (
            counts.validation_pictures,
            counts.validation_patients,
            limits.min_validation_patients,
        )
    )
    if not _is_count(num_pictures) or num_pictures != pictures:
        yield f"the number of pictures is not that of the {part} part"
    if patients < least:
        yield f"the {part} part has fewer patients than its policy asks for"


def _reasons_against_metrics(metrics: Metrics, known: frozenset[str]) -> Iterator[str]:
    for name, value in metrics.items():
        if name not in known:
            yield "a metric that is not on the list"
        elif type(value) is not float or not math.isfinite(value):
            yield f"the metric {name} is not one finite number"


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _norm(update: Update) -> float:
    squares = (np.sum(np.square(array, dtype=np.float64)) for array in update.arrays.values())
    return math.sqrt(float(sum(squares)))
