"""Overlay pictures: colour where a model looks, outlines where experts did."""

import numpy as np
from numpy.typing import NDArray

from server.measuring.overlays import (
    OverlayCase,
    OverlayMap,
    OverlayRow,
    context_line,
    draw_overlays,
)

OUTLINE = "lesion outline (exact)"


def overlay_case(*, channels: int = 1, roi: bool = True) -> OverlayCase:
    mask = np.zeros((64, 64), np.bool_)
    mask[20:40, 20:40] = True
    image = np.full((64, 64, channels), 128, np.uint8)
    return OverlayCase(image, mask if roi else None, question="Nodule?", truth="present")


def overlay_map(*, evidence_logits: float = 4.0, context_share: float | None = None) -> OverlayMap:
    saliency = np.zeros((8, 8), np.float32)
    saliency[3, 3] = 1.0
    return OverlayMap(
        saliency=saliency,
        evidence_logits=evidence_logits,
        prediction="predicted: 90%",
        energy_in_roi=0.9,
        chance_energy=0.1,
        context_share=context_share,
    )


def coloured_pixels(picture: NDArray[np.uint8]) -> int:
    spread = picture.max(axis=2).astype(int) - picture.min(axis=2)
    return int((spread > 60).sum())


def test_a_map_is_seen_in_colour_on_a_grey_picture() -> None:
    rows = [OverlayRow("after round 1", (overlay_map(),))]
    drawn = draw_overlays([overlay_case()], rows, title="Chest", outline=OUTLINE)
    plain = draw_overlays([overlay_case()], [], title="Chest", outline=OUTLINE)
    assert drawn.shape[2] == 3
    legend = coloured_pixels(plain)
    assert coloured_pixels(drawn) > legend + 500


def test_a_map_that_adds_little_to_the_logit_stays_dark() -> None:
    strong, weak = (
        draw_overlays(
            [overlay_case()],
            [OverlayRow("", (overlay_map(evidence_logits=logits),))],
            title="",
            outline=OUTLINE,
        )
        for logits in (4.0, 0.01)
    )
    plain = draw_overlays([overlay_case()], [], title="", outline=OUTLINE)
    assert coloured_pixels(weak) == coloured_pixels(plain)
    assert coloured_pixels(strong) > coloured_pixels(plain) + 500


def test_an_outline_is_drawn_where_there_is_a_region() -> None:
    with_region = draw_overlays([overlay_case()], [], title="", outline=OUTLINE)
    without = draw_overlays([overlay_case(roi=False)], [], title="", outline=OUTLINE)
    assert (with_region != without).any()


def test_each_case_has_its_column_and_each_model_its_row() -> None:
    cases = [overlay_case(channels=3)] * 6
    one = draw_overlays(cases, [OverlayRow("a", (overlay_map(),) * 6)], title="", outline=OUTLINE)
    two = draw_overlays(
        cases, [OverlayRow("a", (overlay_map(),) * 6)] * 2, title="", outline=OUTLINE
    )
    assert two.shape[0] > one.shape[0]
    assert two.shape[1] == one.shape[1]


def test_colour_is_what_a_place_adds_and_not_its_share_of_its_own_map() -> None:
    rows = [
        OverlayRow("", (overlay_map(evidence_logits=logits),) * 2) for logits in (0.05, 0.1, 0.4)
    ]
    heights = [
        coloured_pixels(draw_overlays([overlay_case()] * 2, [row], title="", outline=OUTLINE))
        for row in rows
    ]
    assert heights == sorted(heights)


def test_a_logit_with_a_context_part_gets_a_line_that_says_its_share() -> None:
    assert context_line(0.18) == "82 % seen here, 18 % context"
    without, with_context = (
        draw_overlays(
            [overlay_case()],
            [OverlayRow("", (overlay_map(context_share=share),))],
            title="",
            outline=OUTLINE,
        )
        for share in (None, 0.18)
    )
    assert with_context.shape[0] > without.shape[0]


def test_the_outline_is_named_as_what_it_is() -> None:
    exact, drawn = (
        draw_overlays([overlay_case()], [], title="", outline=name)
        for name in (OUTLINE, "expert outline")
    )
    assert (exact != drawn).any()
