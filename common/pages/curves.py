"""Faithfulness curves as inline drawings, their points taken from the explanation's JSON."""

from collections.abc import Sequence
from typing import Literal

from common.explanation.schema import Faithfulness
from common.pages.sheet import Sheet

WIDTH, HEIGHT, EDGE = 220, 110, 14  # of a drawing, in its own units

_CAPTION = {
    "deletion": "Painting over the strongest places first: the probability should fall faster "
    "than in random order (dashed, the mean). Smaller is better.",
    "insertion": "Bringing back the strongest places first: it should rise faster than in random "
    "order (dashed, the mean). Larger is better.",
}


def curves(sheet: Sheet, measured: Faithfulness, at: str) -> str:
    """Return the drawings of deletion and insertion, chance beside each, and what they come to.

    Args:
        sheet: the page's document.
        measured: what stands at ``at`` in the document.
        at: JSON pointer of a method's ``faithfulness``.
    """
    deletion = (measured.deletion, measured.random_deletion)
    insertion = (measured.insertion, measured.random_insertion)
    return (
        f"<p>This map is {verdict(sheet, measured, at)}.</p>"
        '<div class="curves">'
        + _curve(sheet, "deletion", measured.shares, *deletion, at=at)
        + _curve(sheet, "insertion", measured.shares, *insertion, at=at)
        + "</div>"
    )


def verdict(sheet: Sheet, measured: Faithfulness, at: str) -> str:
    """Return how the map compares with random orders, one by one, in words with their numbers.

    Args:
        sheet: the page's document.
        measured: what stands at ``at`` in the document.
        at: JSON pointer of a method's ``faithfulness``.
    """
    orders = sheet.number(f"count({at}/random_areas)", "whole")
    if measured.beaten_orders >= len(measured.random_areas):
        return f"better than each of {orders} random orders"
    beaten = sheet.number(f"{at}/beaten_orders", "whole")
    if 2 * measured.beaten_orders > len(measured.random_areas):
        return f"better than {beaten} of {orders} random orders only: not clearly more than chance"
    return f"no better than chance: better than {beaten} of {orders} random orders"


def by_chance(sheet: Sheet, at: str) -> tuple[str, str]:
    """Return the mean area of the random orders, and the least and the most of them."""
    mean, least, most = (
        sheet.number(f"{name}({at}/random_areas)", "decimals") for name in ("mean", "least", "most")
    )
    return mean, f"{least} to {most}"


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
    of_own = f"area({at}/shares,{at}/{kind})"
    mean, span = by_chance(sheet, at)
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
        f"by chance {mean} ({span}). {_CAPTION[kind]}</figcaption></figure>"
    )
