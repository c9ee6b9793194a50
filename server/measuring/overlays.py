"""Pictures of where a model looks: image, lesion outline, saliency map, prediction, in a grid."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from skimage.measure import find_contours

TILE_PX = 232
GAP_PX = 14
MARGIN_PX = 26
TITLE_PX = 58
ROW_TITLE_PX = 28
LINE_PX = 19
LEGEND_PX = 52
SMALLEST_TEXT_PX = 12
PNG_EFFORT = 3  # of 9; more takes several times as long and saves a twentieth
SUPERSAMPLING = 3  # outlines are drawn this much larger and shrunk: smooth lines

# Colour is what a place adds to the logit, not its share of the map: shares would let the map of a
# picture that is called healthy glow as brightly as any. One scale for all tasks and rounds, per
# area and so whatever the grid: a model that learns gets brighter from round to round.
FULL_COLOUR_LOGITS = 0.4  # added to the logit by one percent of the picture
PERCENT = 0.01
ONE_SCALE = (
    "adds to the prediction: little → much "
    f"(brightest: {FULL_COLOUR_LOGITS} to the logit from 1 % of the picture, or more)"
)
STRONGEST_COVER = 0.85  # of the picture below, so that anatomy stays visible
COLOURS = mpl.colormaps["viridis"]  # even in lightness, and legible to the colour-blind

INK = (26, 30, 36)
FAINT_INK = (98, 106, 116)
PAPER = (255, 255, 255)
OUTLINE = (255, 255, 255)
OUTLINE_CASING = (0, 0, 0)


@dataclass(frozen=True)
class OverlayCase:
    """One fixed picture that is shown after every round."""

    image: NDArray[np.uint8]  # (S, S, C), C 1 or 3
    roi: NDArray[np.bool_] | None  # (S, S) union of the lesion regions of the shown logit
    question: str  # what was asked of the model, not what was found
    truth: str


@dataclass(frozen=True)
class OverlayMap:
    """What one model sees in one case."""

    saliency: NDArray[np.float32]  # (h, w), >= 0, sums to 1, or all 0 where nothing speaks for it
    evidence_logits: float  # what the map's places add to the logit together, >= 0
    prediction: str
    energy_in_roi: float | None
    chance_energy: float | None  # share of the picture that the ROI covers
    context_share: float | None  # of map and context together, 0..1; None without a context part


@dataclass(frozen=True)
class OverlayRow:
    """The maps of one model, one per case, in the order of the cases."""

    title: str
    maps: tuple[OverlayMap, ...]


@dataclass(frozen=True)
class OverlayTile:
    """One picture with a map over it, and what stands below."""

    image: NDArray[np.uint8]  # (S, S, C), C 1 or 3
    roi: NDArray[np.bool_] | None  # (S, S)
    seen: OverlayMap
    lines: tuple[str, ...]  # the first one bold


def draw_tiles(
    tiles: Sequence[OverlayTile],
    *,
    title: str,
    note: str,
    outline: str | None,
    columns: int,
    scale: str = ONE_SCALE,
) -> NDArray[np.uint8]:
    """Draw tiles from left to right and top to bottom.

    Args:
        tiles: At least one.
        title: Of the whole picture.
        note: One line below the title.
        outline: What the outlines are, in words; None: there are none.
        columns: Tiles in a row, at most.
        scale: What the colours mean, in words.

    Returns (H, W, 3).
    """
    lines = max(len(tile.lines) for tile in tiles)
    row_height = TILE_PX + 4 + lines * LINE_PX + GAP_PX
    across = max(min(columns, len(tiles)), 4)  # the legend needs the width of four
    rows = -(-len(tiles) // columns)
    width = 2 * MARGIN_PX + across * (TILE_PX + GAP_PX) - GAP_PX
    height = MARGIN_PX + TITLE_PX + rows * row_height + LEGEND_PX
    canvas = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(canvas)
    pen.text((MARGIN_PX, MARGIN_PX - 8), title, fill=INK, font=_font(24, bold=True))
    pen.text((MARGIN_PX, MARGIN_PX + 26), note, fill=FAINT_INK, font=_font(15))
    for number, tile in enumerate(tiles):
        left = MARGIN_PX + number % columns * (TILE_PX + GAP_PX)
        top = MARGIN_PX + TITLE_PX + number // columns * row_height
        canvas.paste(_outlined(_heat(_picture(tile.image), tile.seen), tile.roi), (left, top))
        for line, text in enumerate(tile.lines):
            place = (left, top + TILE_PX + 4 + line * LINE_PX)
            _text(pen, place, text, bold=line == 0)
    top = MARGIN_PX + TITLE_PX + rows * row_height
    _draw_legend(canvas, pen, top, outline=outline, words=scale)
    return np.asarray(canvas)


def draw_overlays(
    cases: Sequence[OverlayCase], rows: Sequence[OverlayRow], *, title: str, outline: str
) -> NDArray[np.uint8]:
    """Draw one column per case: the picture with its outline, then one map per row of ``rows``.

    Args:
        cases: Left to right.
        rows: Top to bottom: one for a round's picture, two for before and after.
        title: Of the whole picture.
        outline: What the outlines are, in words: an expert's, or a phantom's exact ones.

    Returns (H, W, 3).
    """
    any_context = any(seen.context_share is not None for row in rows for seen in row.maps)
    truth_lines, map_lines = 2, 3 if any_context else 2
    picture_height = ROW_TITLE_PX + TILE_PX + truth_lines * LINE_PX + GAP_PX
    map_height = ROW_TITLE_PX + TILE_PX + map_lines * LINE_PX + GAP_PX
    width = 2 * MARGIN_PX + max(len(cases), 4) * (TILE_PX + GAP_PX) - GAP_PX
    height = MARGIN_PX + TITLE_PX + picture_height + len(rows) * map_height + LEGEND_PX
    canvas = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(canvas)
    pen.text((MARGIN_PX, MARGIN_PX), title, fill=INK, font=_font(24, bold=True))

    top = MARGIN_PX + TITLE_PX
    pen.text((MARGIN_PX, top), f"picture and {outline}", fill=FAINT_INK, font=_font(15))
    for column, case in enumerate(cases):
        left = MARGIN_PX + column * (TILE_PX + GAP_PX)
        tile = _outlined(_picture(case.image), case.roi)
        canvas.paste(tile, (left, top + ROW_TITLE_PX))
        below = top + ROW_TITLE_PX + TILE_PX + 4
        _text(pen, (left, below), f"asked: {case.question}")
        _text(pen, (left, below + LINE_PX), f"truth: {case.truth}", bold=True)
    top += picture_height

    for row in rows:
        pen.text((MARGIN_PX, top), row.title, fill=FAINT_INK, font=_font(15))
        for column, (case, seen) in enumerate(zip(cases, row.maps, strict=True)):
            left = MARGIN_PX + column * (TILE_PX + GAP_PX)
            tile = _outlined(_heat(_picture(case.image), seen), case.roi)
            canvas.paste(tile, (left, top + ROW_TITLE_PX))
            below = top + ROW_TITLE_PX + TILE_PX + 4
            _text(pen, (left, below), seen.prediction, bold=True)
            _text(pen, (left, below + LINE_PX), energy_line(seen))
            if seen.context_share is not None:
                _text(pen, (left, below + 2 * LINE_PX), context_line(seen.context_share))
        top += map_height

    _draw_legend(canvas, pen, top, outline=outline)
    return np.asarray(canvas)


def in_full_colour(seen: OverlayMap) -> OverlayMap:
    """Return a map whose strongest place has the scale's brightest colour, to see where it lies."""
    per_logit = float(seen.saliency.max()) * seen.saliency.size * PERCENT
    full = FULL_COLOUR_LOGITS / per_logit if per_logit > 0 else 0.0
    return replace(seen, evidence_logits=full)


def save_png(picture: NDArray[np.uint8], path: Path) -> None:
    """Write a drawn picture, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, compress_level=PNG_EFFORT)


def _picture(image: NDArray[np.uint8]) -> Image.Image:
    colour = np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image
    return Image.fromarray(colour).resize((TILE_PX, TILE_PX), Image.Resampling.LANCZOS)


def _heat(picture: Image.Image, seen: OverlayMap) -> Image.Image:
    """Lay a map over a greyed picture: stain and fundus colours would fight with the map's."""
    added = seen.saliency.astype(np.float32) * seen.evidence_logits  # by each place, to the logit
    per_percent = (added * added.size * PERCENT).astype(np.float32)
    strength = Image.fromarray(per_percent).resize((TILE_PX, TILE_PX), Image.Resampling.BICUBIC)
    share = np.clip(np.asarray(strength) / FULL_COLOUR_LOGITS, 0.0, 1.0)
    grey = np.asarray(picture.convert("L"), dtype=np.float32)[..., None] * 0.9
    colour = np.asarray(COLOURS(share)[..., :3], dtype=np.float32) * 255.0
    cover = STRONGEST_COVER * share[..., None]
    return Image.fromarray((grey * (1.0 - cover) + colour * cover).astype(np.uint8))


def _outlined(tile: Image.Image, roi: NDArray[np.bool_] | None) -> Image.Image:
    """Draw a white line with a dark casing around the region, smooth and visible on any stain."""
    if roi is None or not roi.any():
        return tile
    large = TILE_PX * SUPERSAMPLING
    # A rim of zeros closes outlines that touch the picture's edge.
    padded = np.pad(roi.astype(np.float32), 1)
    scale = large / roi.shape[0]
    strokes = Image.new("RGBA", (large, large), (0, 0, 0, 0))
    pen = ImageDraw.Draw(strokes)
    lines = [
        [((x - 0.5) * scale, (y - 0.5) * scale) for y, x in contour]
        for contour in find_contours(padded, 0.5)  # type: ignore[no-untyped-call]
    ]
    for colour, width_px in ((OUTLINE_CASING, 3.4), (OUTLINE, 1.7)):
        for line in lines:
            pen.line(line, fill=(*colour, 255), width=round(width_px * SUPERSAMPLING))
    shrunk = strokes.resize((TILE_PX, TILE_PX), Image.Resampling.LANCZOS)
    return Image.alpha_composite(tile.convert("RGBA"), shrunk).convert("RGB")


def energy_line(seen: OverlayMap) -> str:
    """Say how much of a map lies in the outline, or what the map adds where there is none."""
    if not seen.saliency.any():
        return "nothing speaks for it"
    if seen.energy_in_roi is None or seen.chance_energy is None:
        return f"adds {seen.evidence_logits:.1f} to the logit"
    return f"in outline {_percent(seen.energy_in_roi)} (chance {_percent(seen.chance_energy)})"


def context_line(share: float) -> str:
    """Say how much of a prediction the map accounts for, and how much the whole picture."""
    if not np.isfinite(share):
        return "context not finite"
    context = round(100 * share)
    return f"{100 - context} % seen here, {context} % context"


def _percent(share: float) -> str:
    return f"{share:.1%}" if 0 < share < 0.1 else f"{share:.0%}"


def _draw_legend(
    canvas: Image.Image,
    pen: ImageDraw.ImageDraw,
    top: int,
    *,
    outline: str | None,
    words: str = ONE_SCALE,
) -> None:
    left, length, thick = MARGIN_PX, 150, 12
    ramp = COLOURS(np.linspace(0.0, 1.0, length))[None, :, :3].repeat(thick, axis=0)
    canvas.paste(Image.fromarray((ramp * 255).astype(np.uint8)), (left, top + 6))
    font = _font(14)
    pen.text((left + length + 10, top + 3), words, FAINT_INK, font)
    if outline is None:
        return
    mark = left + length + 10 + int(font.getlength(words)) + 28
    pen.line([(mark, top + 12), (mark + 30, top + 12)], fill=OUTLINE_CASING, width=5)
    pen.line([(mark, top + 12), (mark + 30, top + 12)], fill=OUTLINE, width=2)
    pen.text((mark + 38, top + 3), outline, FAINT_INK, font)


def _text(
    pen: ImageDraw.ImageDraw, place: tuple[int, int], text: str, *, bold: bool = False
) -> None:
    """Write a caption under a tile: smaller, and shortened at last, to the tile's width."""
    size_px = 15
    font = _font(size_px, bold=bold)
    while font.getlength(text) > TILE_PX and size_px > SMALLEST_TEXT_PX:
        size_px -= 1
        font = _font(size_px, bold=bold)
    while font.getlength(text) > TILE_PX and len(text) > 2:
        text = text[:-2].rstrip() + "…"
    pen.text(place, text, fill=INK if bold else FAINT_INK, font=font)


def _font(size_px: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return a font that ships with matplotlib, so that pictures look alike everywhere."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / name), size_px)
