"""Faithfulness curves as inline drawings, their points taken from the explanation's JSON."""

from collections.abc import Sequence
from typing import Literal

from common.explanation.schema import Faithfulness
from common.pages.sheet import Sheet

WIDTH, HEIGHT, EDGE = 220, 110, 14  # of a drawing, in its own units

_CAPTION = {
    "deletion": "Painting over the strongest places first: the probability should fall faster "
    "than in random order (dashed). Smaller is better.",
    "insertion": "Bringing back the strongest places first: it should rise faster than in random "
    "order (dashed). Larger is better.",
}


def curves(sheet: Sheet, measured: Faithfulness, at: str) -> str:
    """Return the drawings of deletion and insertion, chance beside each.

    Args:
        sheet: the page's document.
        measured: what stands at ``at`` in the document.
        at: JSON pointer of a method's ``faithfulness``.
    """
    deletion = (measured.deletion, measured.random_deletion)
    insertion = (measured.insertion, measured.random_insertion)
    return (
        '<div class="curves">'
        + _curve(sheet, "deletion", measured.shares, *deletion, at=at)
        + _curve(sheet, "insertion", measured.shares, *insertion, at=at)
        + "</div>"
    )


def points(shares: Sequence[float], curve: Sequence[float]) -> str:
    """Return the points of a line: shares of the picture to the right, probability upwards."""
    return " ".join(
        f"{EDGE + share * (WIDTH - 2 * EDGE):.1f},{HEIGHT - EDGE - value * (HEIGHT - 2 * EDGE):.1f}"
        for share, value in zip(shares, curve, strict=True)
    )


def _curve(
    sheet: Sheet,
    kind: Literal["deletion", "insertion"],
    shares: Sequence[float],
    own: Sequence[float],
    chance: Sequence[float],
    *,
    at: str,
) -> str:
    of_own, of_chance = (f"area({at}/shares,{at}/{name})" for name in (kind, f"random_{kind}"))
    left, bottom, right = EDGE, HEIGHT - EDGE, WIDTH - EDGE
    return (
        f'<figure class="curve"><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{kind} curve"><path class="axis" d="M{left} {EDGE}V{bottom}H{right}"/>'
        f'<polyline class="chance" data-x="{at}/shares" data-y="{at}/random_{kind}" '
        f'points="{points(shares, chance)}"/>'
        f'<polyline class="own" data-x="{at}/shares" data-y="{at}/{kind}" '
        f'points="{points(shares, own)}"/>'
        f'<text class="scale" x="{left - 3}" y="{EDGE + 4}" text-anchor="end">1</text>'
        f'<text class="scale" x="{left - 3}" y="{bottom}" text-anchor="end">0</text></svg>'
        f"<figcaption><b>{kind.capitalize()}: {sheet.number(of_own, 'decimals')}</b>, "
        f"by chance {sheet.number(of_chance, 'decimals')}. {_CAPTION[kind]}</figcaption></figure>"
    )
