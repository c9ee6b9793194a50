"""What the trainer says of itself to whoever watches over it at the site."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import AwareDatetime

from common.config import Section
from common.datasets.card import card_from_dict

if TYPE_CHECKING:
    from common.wire import SiteCard  # brings Flower, which `fovea-site status` does not wait for


class ShardCounts(Section):
    """How much the shard holds."""

    training_pictures: int
    validation_pictures: int
    training_patients: int
    validation_patients: int


class DeskReport(Section):
    """How the trainer stands. It stays at the site."""

    site: str
    task: str
    able: bool  # a request that is permitted would be carried out now
    reasons: tuple[str, ...]  # why not
    is_paused: bool
    last_round: Mapping[str, int]  # the latest training answered, per run
    waiting: tuple[str, ...]  # digests of manifests that wait for a person
    busy_since: AwareDatetime | None
    counts: ShardCounts | None  # None: the shard is not open yet


def counts_of(card: "SiteCard") -> ShardCounts:
    """Return how much a site holds. Raises DataError when its data card is of another version."""
    parts = {part.name: part for part in card_from_dict(json.loads(card.data_card_json)).parts}
    return ShardCounts(
        training_pictures=card.num_examples,
        validation_pictures=card.num_val,
        training_patients=parts["train"].patients if "train" in parts else 0,
        validation_patients=parts["val"].patients if "val" in parts else 0,
    )
