"""The data card counts what the shard holds and survives the way through JSON."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.config.run import DataConfig
from common.datasets.card import DataCard, card_from_dict
from common.datasets.prepare import prepare_shard
from common.datasets.record import Case, CaseRegion, Source
from common.errors import DataError
from common.tasks import task_named


@pytest.fixture
def card(
    make_case: Callable[..., Case],
    held_source: Callable[..., Source],
    data_config: DataConfig,
    tmp_path: Path,
) -> DataCard:
    mask = np.zeros((40, 80), dtype=np.bool_)
    mask[:20] = True
    box = CaseRegion(kind="lesion_box", name="Mass", label=1, mask=mask)
    nan = float("nan")
    cases = [
        make_case(0, targets=(1.0, 0.0), channels=1),
        make_case(1, targets=(1.0, 1.0), channels=1, size=(40, 80), regions=(box, box)),
        make_case(2, targets=(0.0, 0.0), channels=1, patient="p1"),
        make_case(3, targets=(0.0, nan), channels=1),
    ]
    shard = prepare_shard(
        held_source(cases),
        task=task_named("chestx", ("Effusion", "Mass")),
        parts={"train": 1.0, "val": 0.0, "test": 0.0},
        data=data_config,
        seed=0,
        out=tmp_path / "shard",
    )
    return shard.card


def test_classes_are_counted_by_picture_and_patient(card: DataCard) -> None:
    counts = {c.name: (c.pictures, c.patients) for c in card.parts[0].classes}
    # An unknown finding may be there: the last picture is not known to have none.
    assert counts == {"Effusion": (2, 2), "Mass": (1, 1), "no finding": (1, 1)}


def test_patients_and_pictures_are_counted(card: DataCard) -> None:
    assert (card.pictures, card.patients) == (4, 3)


def test_regions_are_counted_with_their_area(card: DataCard) -> None:
    (boxes,) = card.regions
    # Half of a picture that fills half of the square.
    assert (boxes.kind, boxes.regions, boxes.pictures) == ("lesion_box", 2, 1)
    assert boxes.mean_area == pytest.approx(0.25, abs=0.01)


def test_original_sizes_are_summed_up(card: DataCard) -> None:
    assert (card.width_px.smallest, card.width_px.median, card.width_px.largest) == (40, 40, 80)


def test_a_card_comes_back_from_json(card: DataCard) -> None:
    assert card_from_dict(json.loads(card.as_json())) == card


def test_totals_alone_are_shown_as_such(card: DataCard) -> None:
    table = card.totals_only().as_table()
    assert "4 pictures of 3 patients" in table
    assert "The site shows no more than that." in table
    # Nothing is said to be 0 that is not told.
    assert not any(word in table for word in ("Originals", "Duplicates", "0 ", "|"))
    assert card.totals_only() == card_from_dict(json.loads(card.totals_only().as_json()))


def test_another_versions_card_is_refused(card: DataCard) -> None:
    values = card.as_dict()
    del values["patients"]
    with pytest.raises(DataError, match="no data card of this version"):
        card_from_dict(values)


def test_the_table_shows_every_class_and_total(card: DataCard) -> None:
    table = card.as_table()
    assert "| Effusion | 2 (2) | 0 (0) | 0 (0) |" in table
    assert "| **all** | 4 (3) | 0 (0) | 0 (0) |" in table
    assert "| lesion_box | 2 | 1 | 25.0 % |" in table


@pytest.fixture
def card_of_signs(
    make_case: Callable[..., Case],
    held_source: Callable[..., Source],
    data_config: DataConfig,
    tmp_path: Path,
) -> DataCard:
    spot = np.zeros((40, 40), dtype=np.bool_)
    spot[10:30, 10:30] = True
    exudate = CaseRegion(kind="lesion_mask", name="hard_exudate", label=0, mask=spot)
    told: list[tuple[str, bool]] = [("haemorrhage", True), ("hard_exudate", False)]
    cases = [
        make_case(0, regions=(exudate,), targets=(2.0,)),
        make_case(1, regions=(exudate,), targets=(2.0,), patient="p0"),
        replace(make_case(2, targets=(2.0,)), signs=tuple(told)),
        make_case(3),
    ]
    shard = prepare_shard(
        held_source(cases),
        task=task_named("retina"),
        parts={"train": 1.0, "val": 0.0, "test": 0.0},
        data=data_config,
        seed=0,
        out=tmp_path / "signs",
    )
    return shard.card


def test_signs_are_counted_where_they_are_known_and_where_they_are_shown(
    card_of_signs: DataCard,
) -> None:
    train, val, _ = card_of_signs.parts
    counts = {
        s.name: (s.known_pictures, s.known_patients, s.shown_pictures, s.shown_patients)
        for s in train.signs
    }
    assert counts == {
        "microaneurysm": (0, 0, 0, 0),  # nobody has looked for it
        "haemorrhage": (1, 1, 1, 1),
        "hard_exudate": (3, 2, 2, 1),  # two pictures of one patient, denied of another
        "soft_exudate": (0, 0, 0, 0),
        "neovascularisation": (0, 0, 0, 0),
    }
    assert [sign.known_pictures for sign in val.signs] == [0] * 5


def test_signs_of_all_parts_add_up(card_of_signs: DataCard) -> None:
    part = card_of_signs.parts[0]
    twice = replace(card_of_signs, parts=(part, part, replace(part, signs=())))
    exudate = {sign.name: sign for sign in twice.signs}["hard_exudate"]
    assert (exudate.known_pictures, exudate.known_patients) == (6, 4)
    assert (exudate.shown_pictures, exudate.shown_patients) == (4, 2)
    assert [sign.name for sign in card_of_signs.signs] == [sign.name for sign in part.signs]


def test_the_table_says_of_how_many_a_sign_is_known(card_of_signs: DataCard) -> None:
    table = card_of_signs.as_table()
    assert "| hard_exudate | 2 of 3 (1 of 2) | 0 of 0 (0 of 0) | 0 of 0 (0 of 0) |" in table
    former = replace(card_of_signs.parts[0], signs=())
    mixed = replace(card_of_signs, parts=(former, *card_of_signs.parts[1:]))
    assert "| hard_exudate | not counted | 0 of 0 (0 of 0) |" in mixed.as_table()


def test_a_card_from_before_signs_were_counted_is_read(card_of_signs: DataCard) -> None:
    values = json.loads(card_of_signs.as_json())
    for part in values["parts"]:
        del part["signs"]
    card = card_from_dict(values)
    assert card.parts[0].signs == ()
    assert "sign:" not in card.as_table()
