"""Numbers on a data card that are not the shard's, or that no counting brings, stay at the site."""

from dataclasses import replace

import pytest

from client.guard.card import reason_against_card
from client.home.own_shard import ShardCounts
from common.datasets.card import (
    ClassCount,
    DataCard,
    DuplicateCount,
    PartCount,
    PixelRange,
    RegionCount,
    SignCount,
)

HELD = ShardCounts(
    training_pictures=14, validation_pictures=4, training_patients=12, validation_patients=4
)
SIZE = PixelRange(64, 80, 96)
TRAIN = PartCount("train", 14, 12, (ClassCount("Mass", 2, 1),), 3, signs=())
VAL = PartCount("val", 4, 4, (ClassCount("Mass", 1, 1),), 0)
TEST = PartCount("test", 3, 2, (ClassCount("Mass", 0, 0),), 0, unnamed_pictures=1)
CARD = DataCard(
    task="chestx",
    image_size_px=64,
    pictures=21,
    patients=18,
    parts=(TRAIN, VAL, TEST),
    regions=(RegionCount("lesion_mask", 3, 3, 0.125),),
    width_px=SIZE,
    height_px=SIZE,
    exclusions={"no label": 3},
    duplicates=DuplicateCount(1, 2, 0, 0, 0, 0),
    notes=("class no finding is absent",),
)


def reason(card: DataCard, counts: ShardCounts = HELD) -> str | None:
    return reason_against_card(card.as_json(), task="chestx", counts=counts)


def test_a_shards_own_card_leaves_whole_or_with_its_totals() -> None:
    assert reason(CARD) is None
    assert reason(CARD.totals_only()) is None


@pytest.mark.parametrize(
    "held",
    [
        replace(HELD, training_pictures=13),
        replace(HELD, training_patients=11),
        replace(HELD, validation_pictures=5),
        replace(HELD, validation_patients=3),
    ],
)
def test_the_parts_are_those_of_the_shard(held: ShardCounts) -> None:
    assert reason(CARD, held) == (
        "the data card counts other pictures or patients than the shard holds"
    )


@pytest.mark.parametrize("totals", [{"pictures": 20}, {"pictures": 22}, {"patients": 1}])
def test_the_totals_are_the_sums_of_the_parts(totals: dict[str, int]) -> None:
    said = "the data card's totals are not those of its parts"
    assert reason(replace(CARD, **totals)) == said  # type: ignore[arg-type]


@pytest.mark.parametrize("totals", [{"pictures": 17}, {"patients": 15}])
def test_totals_alone_are_no_fewer_than_the_shard_holds(totals: dict[str, int]) -> None:
    said = "the data card's totals are not those of its parts"
    assert reason(replace(CARD.totals_only(), **totals)) == said  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "part",
    [
        replace(TEST, lesion_pictures=4),
        replace(TEST, unnamed_pictures=4),
        replace(TEST, classes=(ClassCount("Mass", 4, 1),)),
        replace(TEST, classes=(ClassCount("Mass", 3, 3),)),
        replace(TEST, classes=(ClassCount("Mass", 1, 2),)),
    ],
)
def test_nothing_is_counted_more_often_than_its_part_is_large(part: PartCount) -> None:
    found = reason(replace(CARD, parts=(TRAIN, VAL, part)))
    assert found == "the data card counts more in a part than the part has"


def test_a_part_has_no_more_patients_than_pictures() -> None:
    wrong = replace(TEST, pictures=2, patients=3, unnamed_pictures=0)
    card = replace(CARD, parts=(TRAIN, VAL, wrong), pictures=20, patients=19)
    assert reason(card) == "the data card counts more in a part than the part has"


def test_a_class_stands_in_a_part_once() -> None:
    """A list of any length could say anything."""
    wrong = replace(TEST, classes=tuple(ClassCount("Mass", n, 0) for n in (1, 2, 3)))
    assert reason(replace(CARD, parts=(TRAIN, VAL, wrong))) == "the data card names a class twice"


def test_a_note_is_written_once() -> None:
    assert reason(replace(CARD, notes=CARD.notes * 2)) == "the data card has a note twice"


@pytest.mark.parametrize("region", [(2, 3), (30, 22)])
def test_regions_lie_in_pictures_that_are_there(region: tuple[int, int]) -> None:
    card = replace(CARD, regions=(RegionCount("lesion_mask", *region, 0.125),))
    assert reason(card) == "the data card counts regions in more pictures than there are"


def test_a_sign_is_shown_by_no_more_patients_than_pictures() -> None:
    for sign in (SignCount("mass", 1, 2, 1, 1), SignCount("mass", 3, 2, 0, 1)):
        wrong = replace(TEST, signs=(sign,))
        assert reason(replace(CARD, parts=(TRAIN, VAL, wrong))) == (
            "the data card counts a sign in more patients than pictures"
        )


def test_a_middle_size_lies_in_the_middle() -> None:
    for card in (
        replace(CARD, width_px=PixelRange(64, 200, 96)),
        replace(CARD, height_px=PixelRange(64, 10, 96)),
    ):
        assert reason(card) == "the data card has a middle size that is none"


@pytest.mark.parametrize(
    "card",
    [
        replace(CARD, exclusions={"no label": 2**31}),
        replace(CARD, duplicates=DuplicateCount(0, int.from_bytes(b"Smith, John"), 0, 0, 0, 0)),
        replace(CARD, image_size_px=2**40),
        replace(CARD, width_px=PixelRange(64, 80, 2**40)),
    ],
)
def test_a_number_that_nothing_bounds_is_no_place_for_words(card: DataCard) -> None:
    assert reason(card) == "the data card has a number that counts nothing"
