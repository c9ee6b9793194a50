"""Average maps, best and worst cases, and one case over the rounds, as pictures."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from server.measuring.explanation_averages import AverageLook
from server.measuring.explanation_pictures import (
    ROUNDS_SHOWN,
    draw_averages,
    draw_extremes,
    draw_strip,
)
from server.measuring.overlays import GAP_PX, MARGIN_PX, TILE_PX, TITLE_PX, OverlayCase, OverlayMap

IMAGE = np.full((32, 32, 1), 120, np.uint8)


def seen_at(row: int, column: int) -> OverlayMap:
    saliency = np.zeros((4, 4), np.float32)
    saliency[row, column] = 1.0
    return OverlayMap(saliency, 4.0, "predicted: 90%", 0.5, 0.1, None)


def tile(path: Path, column: int) -> np.ndarray:
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    left = MARGIN_PX + column * (TILE_PX + GAP_PX)
    return pixels[MARGIN_PX + TITLE_PX :][:TILE_PX, left : left + TILE_PX]


def colourful(pixels: np.ndarray) -> np.ndarray:
    """Which quarter of a tile has colour: where a map was laid over the grey picture."""
    colour = np.ptp(pixels, axis=2) > 60
    half = TILE_PX // 2
    return np.array(
        [[colour[y : y + half, x : x + half].any() for x in (0, half)] for y in (0, half)]
    )


@pytest.fixture
def case() -> OverlayCase:
    roi = np.zeros((32, 32), dtype=bool)
    roi[4:10, 4:10] = True
    return OverlayCase(IMAGE, roi, "Mass?", "present")


def test_an_average_is_drawn_per_class_where_its_evidence_lies(tmp_path: Path) -> None:
    up, down = np.zeros((4, 4), np.float32), np.zeros((4, 4), np.float32)
    up[0, 0], down[3, 3] = 4.0, 0.001  # each on its own scale
    looks = [AverageLook("Mass", 7, up, IMAGE), AverageLook("Nodule", 9, down, IMAGE)]
    draw_averages(looks, tmp_path / "average.png", title="Chest")
    assert colourful(tile(tmp_path / "average.png", 0)).tolist() == [[True, False], [False, False]]
    assert colourful(tile(tmp_path / "average.png", 1)).tolist() == [[False, False], [False, True]]


def test_no_class_with_a_positive_picture_draws_nothing(tmp_path: Path) -> None:
    draw_averages([], tmp_path / "average.png", title="Chest")
    assert not (tmp_path / "average.png").exists()


def test_the_strip_shows_each_round_in_order(case: OverlayCase, tmp_path: Path) -> None:
    rounds = {5: seen_at(3, 3), 0: seen_at(0, 0)}
    draw_strip(case, rounds, tmp_path / "strip.png", title="t", outline="o")
    assert colourful(tile(tmp_path / "strip.png", 0))[0, 0]
    assert colourful(tile(tmp_path / "strip.png", 1))[1, 1]


def test_a_long_run_s_strip_keeps_first_and_last(case: OverlayCase, tmp_path: Path) -> None:
    rounds = {number: seen_at(1, 1) for number in range(60)}
    rounds[0] = seen_at(0, 3)
    draw_strip(case, rounds, tmp_path / "long.png", title="t", outline="o")
    draw_strip(
        case, dict(list(rounds.items())[:ROUNDS_SHOWN]), tmp_path / "short.png", title="t",
        outline="o",
    )  # fmt: skip
    with Image.open(tmp_path / "long.png") as long, Image.open(tmp_path / "short.png") as short:
        assert long.size == short.size
    assert colourful(tile(tmp_path / "long.png", 0))[0, 1]


def test_best_comes_before_worst(case: OverlayCase, tmp_path: Path) -> None:
    path = tmp_path / "extremes.png"
    draw_extremes([(case, seen_at(0, 0))], [(case, seen_at(3, 3))], path, title="t", outline="o")
    assert colourful(tile(path, 0))[0, 0]
    assert colourful(tile(path, 1))[1, 1]
