"""One picture of many phantoms, class by class, for a person to look at before trusting them."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import binary_erosion

from common.datasets.phantom.case import PhantomCase
from common.errors import DataError

CELL_PX = 160
GAP_PX = 4
CAPTION_PX = 18
OUTLINE = (255, 225, 40)
PAPER = (18, 18, 22)


def contact_sheet(
    cases_by_label: Mapping[str, Sequence[PhantomCase]], *, columns: int
) -> Image.Image:
    """Lay phantoms out, a block per class.

    Each block has a caption and up to four rows: the pictures, the same with outlined lesions,
    without lesions, and, where any has a marker, without it.

    Args:
        cases_by_label: Cases under the caption of their class, in the order to be shown.
        columns: Pictures per row, at least 1; further cases of a class are left out.

    Raises:
        DataError: No cases to show, or no columns to show them in.
    """
    if columns < 1 or not any(cases_by_label.values()):
        raise DataError(
            f"a contact sheet needs at least 1 column and 1 case, got {columns} columns and "
            f"{sum(map(len, cases_by_label.values()))} cases."
        )
    blocks = [
        block
        for label, cases in cases_by_label.items()
        if cases
        for block in _block(label, cases[:columns], columns)
    ]
    return Image.fromarray(np.concatenate(blocks, axis=0))


def _block(label: str, cases: Sequence[PhantomCase], columns: int) -> list[np.ndarray]:
    blocks = [_caption(label, columns), _row([_cell(case.image) for case in cases], columns)]
    if any(case.lesions for case in cases):
        blocks.append(_caption(f"{label}: lesions outlined", columns))
        blocks.append(_row([_outlined(case) for case in cases], columns))
        blocks.append(_caption(f"{label}: lesions removed", columns))
        blocks.append(_row([_cell(case.without_lesion) for case in cases], columns))
    if any(case.has_marker for case in cases):
        blocks.append(_caption(f"{label}: marker removed", columns))
        blocks.append(_row([_cell(case.without_marker) for case in cases], columns))
    return blocks


def _caption(text: str, columns: int) -> np.ndarray:
    strip = Image.new("RGB", (columns * (CELL_PX + GAP_PX), CAPTION_PX), PAPER)
    ImageDraw.Draw(strip).text((4, 3), text, fill=(235, 235, 235))
    return np.asarray(strip)


def _row(cells: list[np.ndarray], columns: int) -> np.ndarray:
    side = CELL_PX + GAP_PX
    row = np.full((side, columns * side, 3), PAPER, np.uint8)
    for column, cell in enumerate(cells):
        row[:CELL_PX, column * side : column * side + CELL_PX] = cell
    return row


def _cell(picture: np.ndarray) -> np.ndarray:
    colour = np.repeat(picture, 3, axis=2) if picture.shape[2] == 1 else picture
    resized = Image.fromarray(colour).resize((CELL_PX, CELL_PX), Image.Resampling.BICUBIC)
    return np.asarray(resized).copy()


def _outlined(case: PhantomCase) -> np.ndarray:
    cell = _cell(case.image)
    for lesion in case.lesions:
        mask = Image.fromarray(lesion.mask.astype(np.uint8) * 255)
        inside = np.asarray(mask.resize((CELL_PX, CELL_PX), Image.Resampling.BILINEAR)) > 127
        cell[inside & ~binary_erosion(inside)] = OUTLINE
    return cell
