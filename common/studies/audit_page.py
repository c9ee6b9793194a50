"""index.html of the study, whole in one file, and its sheet of pictures."""

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from common.studies.audit_reconstruction import CASES, Reconstruction
from common.studies.audit_tables import Figures

PAGE_FILE = "index.html"
SHEET_FILE = "reconstructions.png"

_CELL_PX = 160
_GAP_PX = 8
_LABEL_PX = 16

_STYLE = """
body { margin: 0 auto; padding: 2.5rem 1.5rem 5rem; max-width: 76rem; color: #1a1e24;
       font: 16px/1.5 system-ui, sans-serif; }
h1 { margin: 0; } table { border-collapse: collapse; width: 100%; font-size: .93rem; }
caption { text-align: left; font-weight: 600; padding: 2rem 0 .5rem; }
th, td { text-align: right; padding: .35rem .8rem .35rem 0; border-bottom: 1px solid #e4e7eb; }
th:first-child, td:first-child { text-align: left; } th { color: #626a74; }
img { max-width: 100%; } .missed { color: #b42318; font-weight: 700; } p { color: #626a74; }
"""

_WHAT_IT_SAYS = (
    "Generated pictures; nobody's. The first attack knows the model, the labels, how many "
    "pictures were in the step and the update; it reads the transformer's tokens from the "
    "attention's gradient and the picture from the tokens. The second knows the released model "
    "and has trained others like it. The third puts patients of the worst kind into the private "
    "step and holds what it can tell against the epsilon of the ledger. What fails here fails "
    "against these attacks; only the noise has a proof."
)


def draw_sheet(reconstructions: Sequence[Reconstruction], path: Path) -> Path:
    """Write a picture: a row per victim, its original and what each case brought."""
    victims = sorted({one.victim for one in reconstructions})
    columns = [
        "original",
        *(name for name in CASES if any(r.case == name for r in reconstructions)),
    ]
    step = _CELL_PX + _GAP_PX
    sheet = Image.new(
        "RGB", (len(columns) * step + _GAP_PX, _LABEL_PX + len(victims) * step), "white"
    )
    draw = ImageDraw.Draw(sheet)
    for place, column in enumerate(columns):
        draw.text((_GAP_PX + place * step, 2), column, fill="black")
    for row, victim in enumerate(victims):
        own = {one.case: one for one in reconstructions if one.victim == victim}
        # The batch's nearest picture may be a neighbour's: the victim's own is in the plain case.
        pictures = {"original": own.get("plain", next(iter(own.values()))).original}
        pictures |= {case: one.reconstruction for case, one in own.items()}
        for place, column in enumerate(columns):
            if column in pictures:
                corner = (_GAP_PX + place * step, _LABEL_PX + row * step)
                sheet.paste(_as_image(pictures[column]), corner)
    sheet.save(path)
    return path


def write_page(
    tables: Sequence[Figures], *, verdict: str, sheet: Path, seconds: float, path: Path
) -> Path:
    """Write the page; the sheet is put into it."""
    encoded = base64.b64encode(sheet.read_bytes()).decode()
    legend = " · ".join(f"{name}: {case.title}" for name, case in CASES.items())
    path.write_text(
        "<!doctype html><html lang='en'><meta charset='utf-8'>"
        f"<title>What an attacker gets</title><style>{_STYLE}</style>"
        f"<h1>What an attacker gets</h1><p><b>{escape(verdict)}</b></p><p>{_WHAT_IT_SAYS}</p>"
        f"<img alt='originals and reconstructions' src='data:image/png;base64,{encoded}'>"
        f"<p>{escape(legend)}</p>{''.join(map(_table, tables))}<p>{seconds:.0f} s</p></html>\n",
        encoding="utf-8",
    )
    return path


def _table(figures: Figures) -> str:
    heads = "".join(f"<th>{escape(column)}</th>" for column in figures.columns)
    rows = "".join(
        f"<tr{' class=missed' if row[-1] == 'MISSED' else ''}>"
        + "".join(f"<td>{escape(cell)}</td>" for cell in row)
        + "</tr>"
        for row in figures.rows
    )
    return f"<table><caption>{escape(figures.title)}</caption><tr>{heads}</tr>{rows}</table>"


def _as_image(picture: NDArray[np.float32]) -> Image.Image:
    """Return a picture (C, S, S) in [0, 1], enlarged without smoothing."""
    grey = np.repeat(picture, 3, axis=0) if picture.shape[0] == 1 else picture
    pixels = (grey.transpose(1, 2, 0) * 255).round().clip(0, 255).astype(np.uint8)
    return Image.fromarray(pixels).resize((_CELL_PX, _CELL_PX), Image.Resampling.NEAREST)
