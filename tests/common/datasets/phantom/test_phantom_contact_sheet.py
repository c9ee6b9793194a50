"""The contact sheet holds every class, outlines its lesions and shows the counterparts."""

import numpy as np
import pytest

from common.datasets.phantom import PHANTOMS
from common.datasets.phantom.case import PhantomCase, Scanner, Shortcut
from common.datasets.phantom.contact_sheet import (
    CAPTION_PX,
    CELL_PX,
    GAP_PX,
    OUTLINE,
    contact_sheet,
)
from common.errors import DataError
from common.tasks import TASKS

ROW_PX = CAPTION_PX + CELL_PX + GAP_PX


def tiles(malignant: float, agreement: float | None = None) -> list[PhantomCase]:
    return [
        PHANTOMS.get("pathoscan")(
            task=TASKS["pathoscan"],
            index=index,
            patient=index,
            seed=0,
            size_px=64,
            scanner=Scanner(),
            shortcut=None if agreement is None else Shortcut(agreement=agreement),
            prevalence={"malignant": malignant},
        )
        for index in range(3)
    ]


def test_normal_pictures_take_one_row() -> None:
    sheet = contact_sheet({"benign": tiles(0.0)}, columns=4)
    assert sheet.size == (4 * (CELL_PX + GAP_PX), ROW_PX)


def test_lesions_and_markers_add_their_rows() -> None:
    cases = {"benign": tiles(0.0), "malignant": tiles(1.0, agreement=1.0)}
    sheet = contact_sheet(cases, columns=2)
    assert sheet.size == (2 * (CELL_PX + GAP_PX), 5 * ROW_PX)


def test_lesions_are_outlined_in_the_second_row_alone() -> None:
    sheet = np.asarray(contact_sheet({"malignant": tiles(1.0)}, columns=3))
    is_outline = (sheet == OUTLINE).all(axis=2)
    assert is_outline[ROW_PX : 2 * ROW_PX].sum() > 100
    assert not is_outline[:ROW_PX].any()
    assert not is_outline[2 * ROW_PX :].any()


def test_grey_pictures_are_shown_too() -> None:
    chest = PHANTOMS.get("chestx")(
        task=TASKS["chestx"], index=0, patient=0, seed=0, size_px=64, scanner=Scanner()
    )
    assert contact_sheet({"chest": [chest]}, columns=1).mode == "RGB"


@pytest.mark.parametrize(("columns", "cases"), [(0, 1), (3, 0)])
def test_an_empty_sheet_is_refused(columns: int, cases: int) -> None:
    with pytest.raises(DataError, match="at least 1 column and 1 case"):
        contact_sheet({"malignant": tiles(1.0)[:cases]}, columns=columns)
