"""Every word that a data card may hold when it leaves: it counts, and names what Fovea names.

Pure. A card is made from a hospital's tables, in which anything may be written. Here each text is
held against the words of Fovea's own code, so that no word of a table leaves with it, and each
number against what the shard holds and the other numbers, so that it can be no more than a count.
"""

import json
import re
from collections.abc import Iterator
from typing import get_args

from client.home.own_shard import ShardCounts
from common.datasets.card import DataCard, PartCount, card_from_dict
from common.datasets.labels import CONTRADICTORY_LABELS, NO_LABEL, SET_ASIDE, UNKNOWN_LABEL
from common.datasets.record import RoiKind
from common.datasets.shard import SITE_PARTS
from common.datasets.sources import MISSING_MASK, MISSING_PICTURE, NO_PATIENT
from common.errors import DataError
from common.tasks import TASKS

NO_FINDING = "no finding"  # the class of pictures that are known to have none

REASONS = (  # why a row or a picture was left out
    NO_LABEL,
    UNKNOWN_LABEL,
    SET_ASIDE,
    CONTRADICTORY_LABELS,
    MISSING_PICTURE,
    MISSING_MASK,
    NO_PATIENT,
    # Written out: the modules that say so read pictures, which takes a second to load.
    "equal pictures with conflicting labels",
    "picture or mask cannot be used",
)
SKIPPED_STEPS = ("stain normalisation: too little tissue",)

_LARGEST = 2**31 - 1  # of a number that nothing else bounds
_PART = f"(?:{'|'.join(SITE_PARTS)})"
_STEP = f"(?:{'|'.join(map(re.escape, SKIPPED_STEPS))})"


def reason_against_card(text: str, *, task: str, counts: ShardCounts) -> str | None:
    """Return why a data card must not leave, or None.

    Args:
        text: ``DataCard.as_json``.
        task: The site's.
        counts: Of the shard that lies at the site.
    """
    try:
        card = card_from_dict(json.loads(text))
    except (ValueError, DataError):
        return "the data card is none of this version"
    if card.task != task or card.task not in TASKS:
        return "the data card is of another task"
    if text != card.as_json():
        return "the data card holds more than counts"
    if min(_counts(card)) < 0:
        return "the data card has a count below zero"
    if not all(0.0 <= region.mean_area <= 1.0 for region in card.regions):
        return "the data card has a share of a picture that is none"
    return (
        _reason_against_words(card)
        or _reason_against_signs(card)
        or next(_reasons_against_counts(card, counts), None)
    )


def _reason_against_words(card: DataCard) -> str | None:
    classes = {*TASKS[card.task].labels, NO_FINDING}
    named = [
        (SITE_PARTS, [part.name for part in card.parts], "a part"),
        *((classes, [count.name for count in part.classes], "a class") for part in card.parts),
        (get_args(RoiKind), [region.kind for region in card.regions], "a kind of region"),
        (REASONS, list(card.exclusions), "a reason"),
    ]
    for known, names, what in named:
        if len(set(names)) < len(names):
            return f"the data card names {what} twice"
        if any(name not in known for name in names):
            return f"the data card names {what} that Fovea does not know"
    if len(set(card.notes)) < len(card.notes):
        return "the data card has a note twice"
    if any(not _is_known_note(note, classes) for note in card.notes):
        return "the data card has a note that Fovea does not write"
    return None


def _reason_against_signs(card: DataCard) -> str | None:
    known = TASKS[card.task].concepts
    for part in card.parts:
        names = [sign.name for sign in part.signs]
        if len(set(names)) < len(names):
            return "the data card names a sign twice"
        if any(name not in known for name in names):
            return "the data card names a sign that Fovea does not know"
        for sign in part.signs:
            pictures = (sign.shown_pictures, sign.known_pictures, part.pictures)
            patients = (sign.shown_patients, sign.known_patients, part.patients)
            if any(tuple(sorted(counts)) != counts for counts in (pictures, patients)):
                return "the data card counts a sign more often than it is known"
            if any(map(int.__gt__, patients, pictures)):
                return "the data card counts a sign in more patients than pictures"
    return None


def _reasons_against_counts(card: DataCard, counts: ShardCounts) -> Iterator[str]:
    """Yield which number is not the shard's, or more than the whole that it is a part of."""
    parts = {part.name: (part.pictures, part.patients) for part in card.parts}
    shard = {
        "train": (counts.training_pictures, counts.training_patients),
        "val": (counts.validation_pictures, counts.validation_patients),
    }
    if any(parts[name] != held for name, held in shard.items() if name in parts):
        yield "the data card counts other pictures or patients than the shard holds"
    least = [sum(column) for column in zip(*(parts or shard).values(), strict=True)]
    totals = [card.pictures, card.patients]
    # A card that shows totals alone does not tell how many are for testing.
    if totals != least if parts else any(map(int.__lt__, totals, least)):
        yield "the data card's totals are not those of its parts"
    if not all(map(_is_within, card.parts)):
        yield "the data card counts more in a part than the part has"
    if any(region.pictures > min(region.regions, card.pictures) for region in card.regions):
        yield "the data card counts regions in more pictures than there are"
    sides = [(s.smallest, s.median, s.largest) for s in (card.width_px, card.height_px)]
    if any(tuple(sorted(side)) != side for side in sides):
        yield "the data card has a middle size that is none"
    if max(_counts(card)) > _LARGEST:
        yield "the data card has a number that counts nothing"


def _is_within(part: PartCount) -> bool:
    return (
        part.patients <= part.pictures
        and max(part.lesion_pictures, part.unnamed_pictures) <= part.pictures
        and all(
            count.patients <= min(count.pictures, part.patients) and count.pictures <= part.pictures
            for count in part.classes
        )
    )


def _is_known_note(note: str, classes: set[str]) -> bool:
    named = f"(?:{'|'.join(map(re.escape, sorted(classes)))})"
    forms = (
        rf"part {_PART} is empty: too few patients to share out",
        rf"class {named} is absent(?: from {_PART}(?:, {_PART})*)?",
        rf"{_STEP}, [0-9]{{1,9}} pictures left as they were",
        r"[0-9]{1,9} pictures have no patient in their table: each counts as its own",
    )
    return any(re.fullmatch(form, note) for form in forms)


def _counts(card: DataCard) -> list[int]:
    found = card.duplicates
    counts = [card.image_size_px, card.pictures, card.patients, *card.exclusions.values()]
    for part in card.parts:
        counts += [part.pictures, part.patients, part.lesion_pictures, part.unnamed_pictures]
        counts += [number for each in part.classes for number in (each.pictures, each.patients)]
        for sign in part.signs:
            counts += [sign.known_pictures, sign.known_patients]
            counts += [sign.shown_pictures, sign.shown_patients]
    counts += [number for each in card.regions for number in (each.regions, each.pictures)]
    for side in (card.width_px, card.height_px):
        counts += [side.smallest, side.median, side.largest]
    counts += [found.exact, found.near, found.shared_pictures, found.straddling_pictures]
    return [*counts, found.straddling_patients, found.conflicts]
