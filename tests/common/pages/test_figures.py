"""Numbers of a page: what they are derived from, and how they are written."""

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from common.errors import DataError
from common.explain import EXPLAINERS
from common.explanation.schema import GridMap
from common.pages.colours import COVER_EXPONENT, VIRIDIS, coloured, cover
from common.pages.figures import FORMS, WORDINGS, read
from common.pages.method_words import line_of, title_of
from common.pages.sheet import Sheet
from common.pages.stills import OPACITY, overlaid

DOCUMENT = {"a/b": {"~": [3.0, -1.0, 0.5, -0.25]}, "x": [0.0, 0.5, 1.0], "y": [1.0, 0.25, 0.0]}
SIGNED = "/a~1b/~0"


@pytest.mark.parametrize(
    ("source", "value"),
    [
        (f"{SIGNED}/1", -1.0),
        (f"count({SIGNED})", 4),
        (f"largest({SIGNED})", 3.0),
        (f"least({SIGNED})", -1.0),
        (f"most({SIGNED})", 3.0),
        (f"largest_against({SIGNED})", 1.0),
        (f"total_for({SIGNED})", 3.5),
        (f"total_against({SIGNED})", 1.25),
        (f"mean({SIGNED})", 0.5625),
        ("area(/x,/y)", 0.5 * (1.25 / 2) + 0.5 * (0.25 / 2)),
    ],
)
def test_a_source_is_read_as_computed_by_hand(source: str, value: float) -> None:
    assert read(DOCUMENT, source) == pytest.approx(value)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("/z", "nothing at '/z'"),
        (f"{SIGNED}/9", "nothing at"),
        ("median(/x)", "no derivation 'median'; known are count"),
    ],
)
def test_a_source_that_is_not_there_is_named(source: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read(DOCUMENT, source)


@pytest.mark.parametrize("values", [[0.0, 0.0], [-1.0, -2.0]])
def test_where_nothing_speaks_for_it_the_largest_is_nought(values: list[float]) -> None:
    assert read({"v": values}, "largest(/v)") == 0
    assert read({"v": values}, "total_for(/v)") == 0


@pytest.mark.parametrize(
    ("form", "value", "text"),
    [
        ("probability", 0.825, "83 %"),
        ("probability", 0.0, "under 1 %"),
        ("probability", 1.0, "over 99 %"),
        ("likelihood", 0.52, "about as likely as not"),
        ("share", 0.0, "0 %"),
        ("share", 1.0, "100 %"),
        ("share", 0.004, "under 1 %"),
        ("share", 0.614, "61 %"),
        ("decimals", -0.5, "−0.50"),
        ("decimals", 0.0, "0.00"),
        ("decimals", 0.0034, "0.003"),
        ("seconds", 0.0214, "21 ms"),
        ("seconds", 1.62, "1.6 s"),
        ("whole", 1840, "1840"),
        ("as written", -1e-05, "−1e−05"),
    ],
)
def test_numbers_are_written_as_people_read_them(form: str, value: float, text: str) -> None:
    assert FORMS[form](value) == text


@pytest.mark.parametrize(
    ("wording", "text", "shown"),
    [
        ("finding", "grade>=2", "Grade 2 or worse"),
        ("finding", "Pleural_Thickening", "Pleural Thickening"),
        ("capital", "not sure", "Not sure"),
        ("moment", "2026-03-02T09:30:00+00:00", "2026-03-02 09:30 UTC"),
        ("digest", "0123456789abcdef", "0123456789ab"),
        ("sentence", "83 % of it", "83\N{NO-BREAK SPACE}% of it"),
    ],
)
def test_texts_are_worded_for_people(wording: str, text: str, shown: str) -> None:
    assert WORDINGS[wording](text) == shown


def test_a_text_is_no_number_and_a_number_no_text() -> None:
    sheet = Sheet({"name": "a", "value": 1.0, "is": True})
    with pytest.raises(DataError, match="/name: a page shows a number here"):
        sheet.number("/name", "decimals")
    with pytest.raises(DataError, match="/is: a page shows a number here"):
        sheet.number("/is", "decimals")
    with pytest.raises(DataError, match="/value: a page shows a text here"):
        sheet.words("/value")


def test_colours_are_matplotlibs_viridis() -> None:
    values = np.linspace(0, 1, 256)
    wanted = 255 * mpl.colormaps["viridis"](values)[:, :3]
    assert np.abs(coloured(values) - wanted).max() < 2
    assert len(VIRIDIS) == 33


def test_lightness_grows_from_end_to_end() -> None:
    red, green, blue = (coloured(np.linspace(0, 1, 64)) / 255).T
    # Relative luminance, ITU-R BT.709: what is left on a black-and-white printer.
    assert (np.diff(0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2) > 0).all()


def test_what_does_not_speak_leaves_the_picture_as_it_was() -> None:
    picture = np.full((32, 32, 1), 90, dtype=np.uint8)
    grid = GridMap(rows=2, columns=2, unit="logits", values=(2.0, -3.0, -1.0, -0.5))
    drawn = overlaid(picture, grid)
    assert (drawn[-1, -1] == 90).all()
    strongest = (1 - OPACITY) * 90 + OPACITY * coloured(np.array(1.0))
    assert drawn[0, 0] == pytest.approx(strongest, abs=1)


def test_a_map_of_nothing_changes_no_pixel() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    grid = GridMap(rows=2, columns=2, unit="logits", values=(-1.0, -3.0, -1.0, 0.0))
    assert (overlaid(picture, grid) == picture).all()


def test_between_cells_a_still_is_bilinear_as_pillow_has_it() -> None:
    grid = GridMap(rows=2, columns=2, unit="shares", values=(1.0, 0.0, 0.0, 0.0))
    black = np.zeros((8, 8, 3), dtype=np.uint8)
    strength = Image.fromarray(np.array([[1, 0], [0, 0]], dtype=np.float32))
    fine = np.array(strength.resize((8, 8), Image.Resampling.BILINEAR), dtype=float)
    wanted = cover(fine, opacity=OPACITY)[..., None] * coloured(fine)
    assert np.abs(overlaid(black, grid) - wanted).max() <= 1
    assert cover(np.array(0.5), opacity=1.0) == pytest.approx(0.5**COVER_EXPONENT)


def test_every_method_has_a_title_and_a_line_of_its_own() -> None:
    titles = [title_of(name) for name in EXPLAINERS]
    assert len(set(titles)) == len(titles)
    assert not set(titles) & set(EXPLAINERS)
    assert all(line_of(name) for name in EXPLAINERS)
