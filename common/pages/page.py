"""One explanation as a page, whole in itself: it opens without a server and asks for nothing.

The page's only input beside the picture is the explanation; it embeds the same JSON that lies
beside it, and writes no number that does not name its place there (see ``sheet``).
"""

import base64
import hashlib
import json
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.explanation.schema import Explanation
from common.files.whole_file import write_whole
from common.pages.answer import SUPPORT, answer
from common.pages.colours import COVER_EXPONENT, VIRIDIS
from common.pages.figures import capital
from common.pages.findings import findings
from common.pages.lineage import lineage
from common.pages.reasons import concepts, rationale
from common.pages.review_form import review_form
from common.pages.sheet import Sheet
from common.pages.trust import trust
from common.pages.viewer import viewer

STYLE_FILE = Path(__file__).with_name("style.css")
SCRIPT_FILES = tuple(Path(__file__).with_name(name) for name in ("drawing.js", "page.js"))


def write_page(explanation: Explanation, picture: NDArray[np.uint8], path: Path) -> None:
    """Write the page at ``path`` (``NAME.html``) and ``NAME.json`` beside it.

    Args:
        explanation: all that the page says.
        picture: the prepared square that the model saw, (S, S, 1) grey or (S, S, 3) RGB.
        path: the page; its folder must be there. Former files of these names are replaced.

    Raises:
        DataError: for a picture of another shape.
    """
    page = render(explanation, picture)
    document = f"{explanation.model_dump_json(indent=1)}\n"
    write_whole(path.with_suffix(".json"), document.encode())
    write_whole(path, page.encode())


def render(explanation: Explanation, picture: NDArray[np.uint8]) -> str:
    """Return the page as HTML, the explanation as JSON in it."""
    text = explanation.model_dump_json()
    sheet = Sheet(json.loads(text))
    top = answer(sheet, explanation)
    shown = viewer(sheet, explanation, picture)
    asked = findings(sheet, explanation)
    # In this order a link leads to the place that a reader sees first; the sentences come last,
    # for they link to all others.
    below = [
        concepts(sheet, explanation),
        trust(sheet, explanation),
        lineage(sheet, explanation),
        review_form(sheet, explanation),
    ]
    why = rationale(sheet, explanation)
    title = escape(f"{capital(explanation.answer)} – {explanation.picture.name}")
    body = (
        f'<main>{top}<div class="first"><div>{shown}</div><div>{asked}</div></div>{why}'
        f"{''.join(below)}</main><footer>{SUPPORT}</footer>"
    )
    colours = {"colours": VIRIDIS, "exponent": COVER_EXPONENT}
    data = (
        f'<script type="application/json" id="explanation">{in_script(text)}</script>'
        f'<script type="application/json" id="colours">{in_script(json.dumps(colours))}</script>'
    )
    script = "".join(path.read_text(encoding="utf-8") for path in SCRIPT_FILES)
    return whole_page(title=title, body=body, data=data, script=script)


def whole_page(*, title: str, body: str, data: str = "", script: str = "") -> str:
    """Return a document that forbids itself the network and every script and style but its own.

    Args:
        title: already escaped.
        body: already escaped.
        data: ``<script type="application/json">`` elements.
        script: the page's one script, "" for none.
    """
    style = STYLE_FILE.read_text(encoding="utf-8")
    scripts = f"'sha256-{_digest(script)}'" if script else "'none'"
    policy = (
        f"default-src 'none'; img-src data:; style-src 'sha256-{_digest(style)}'; "
        f"script-src {scripts}; form-action 'none'; base-uri 'none'"
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{style}</style></head>\n<body>{body}\n{data}"
        + (f"<script>{script}</script>" if script else "")
        + "</body></html>\n"
    )


def in_script(text: str) -> str:
    """Return JSON that cannot end the element it stands in, and means the same."""
    return text.replace("<", "\\u003c")


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
