"""What an update tells beside its noised arrays: less of it than was counted, and all written down.

A desk and a simulated site both go through here, so that their ledgers say the same.
"""

import math
from dataclasses import replace
from datetime import datetime

from client.records.ledger import Ledger
from client.records.spending import round_spending
from common.config.privacy import PrivacyConfig
from common.config.run import RunConfig
from common.messages.digests import text_digest
from common.messages.kinds import MaskedUpdate, SiteCard, Update
from common.secure_sum.statements import MaskedNote, as_text, parsed

EPSILON, EPSILON_OF_RUN = "epsilon", "epsilon_run"  # of all runs so far; of this one
SECONDS = "seconds"  # of a round's training
TELLS_NOTHING = frozenset({SECONDS, EPSILON, EPSILON_OF_RUN})  # of pictures

DATA_CARD, EVALUATION = "data card", "evaluation"
MASKED_UPDATE, UPDATE = "masked update", "update"
NUMBER_OF_PICTURES = "number of pictures"
TRAINING_METRICS = "training metrics"

_COARSE_S = 10


def coarse(update: Update, config: RunConfig) -> Update:
    """Return an update whose seconds are whole tens, rounded up, where its arrays carry noise.

    How many units each step drew has a part in how long it took, and whether one patient was
    among them is what the noise hides: in tens of seconds hardly anything of that is left.
    """
    seconds = update.metrics.get(SECONDS)
    # What is no number is for the guard to refuse.
    if not config.privacy.enabled or not isinstance(seconds, float) or not math.isfinite(seconds):
        return update
    tens = float(max(1, math.ceil(seconds / _COARSE_S)) * _COARSE_S)
    return replace(update, metrics={**update.metrics, SECONDS: tens})


def card_digest(card: SiteCard) -> str:
    """Return the digest of what a site's card tells: a card that changed is another release."""
    return text_digest(f"{card.num_examples} {card.num_val} {card.data_card_json}")


def told_without_noise(update: Update, config: RunConfig) -> tuple[str, ...]:
    """Return what leaves with an update and is covered by no epsilon, each in a word or two.

    Args:
        update: As it leaves, or is masked.
        config: The run's.
    """
    is_masked = config.secure_aggregation.enabled
    told = []
    if round_spending(config) is None:
        told.append(MASKED_UPDATE if is_masked else UPDATE)
    elif not is_masked:
        # Exact, and one patient more or fewer changes it; under masks it is in no answer.
        told.append(NUMBER_OF_PICTURES)
    if set(update.metrics) - TELLS_NOTHING:
        told.append(TRAINING_METRICS)
    if update.evaluation:
        told.append(EVALUATION)
    return tuple(told)


def note_without_noise(
    ledger: Ledger,
    update: Update,
    *,
    config: RunConfig,
    run: str,
    server_round: int,
    request_digest: str,
    now: datetime,
) -> None:
    """Write down what leaves with an update without noise; durable when this returns.

    The number of pictures is written once per run, for as long as it stays the same. Raises what
    :meth:`client.records.ledger.Ledger.note_release` does.
    """
    for what in told_without_noise(update, config):
        is_same_each_round = what == NUMBER_OF_PICTURES
        ledger.note_release(
            what,
            run=run,
            server_round=0 if is_same_each_round else server_round,
            request_digest=request_digest,
            content_digest=text_digest(str(update.num_examples)) if is_same_each_round else None,
            now=now,
        )


def epsilons_of(ledger: Ledger, privacy: PrivacyConfig, *, run: str) -> dict[str, float]:
    """Return what was spent, at a run's unit and delta; what is not finite is left out."""
    unit, delta = privacy.unit, privacy.delta
    found = {
        EPSILON: ledger.epsilon(unit=unit, delta=delta),
        EPSILON_OF_RUN: ledger.epsilon(unit=unit, delta=delta, run=run),
    }
    return {name: value for name, value in found.items() if math.isfinite(value)}


def with_epsilon(masked: MaskedUpdate, update: Update) -> MaskedUpdate:
    """Return a masked update whose note says what was spent so far, where the update says so."""
    if EPSILON not in update.metrics:
        return masked
    note = parsed(masked.secure_json, MaskedNote)
    note = note.model_copy(update={EPSILON: update.metrics[EPSILON]})
    return replace(masked, secure_json=as_text(note))
