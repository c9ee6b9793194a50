"""The data card counts what the shard holds and survives the way through JSON."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from common.config import DataConfig
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
