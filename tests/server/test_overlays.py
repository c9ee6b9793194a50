"""Overlay pictures: colour where a model looks, outlines where experts did."""

import numpy as np
from numpy.typing import NDArray

from server.overlays import OverlayCase, OverlayMap, OverlayRow, draw_overlays


def overlay_case(*, channels: int = 1, roi: bool = True) -> OverlayCase:
    mask = np.zeros((64, 64), np.bool_)
    mask[20:40, 20:40] = True
    image = np.full((64, 64, channels), 128, np.uint8)
    return OverlayCase(image, mask if roi else None, title="Nodule", truth="present")


def overlay_map(*, evidence_logits: float = 4.0) -> OverlayMap:
    saliency = np.zeros((8, 8), np.float32)
    saliency[3, 3] = 1.0
    return OverlayMap(
        saliency=saliency,
        evidence_logits=evidence_logits,
        prediction="predicted: 90%",
        energy_in_roi=0.9,
        chance_energy=0.1,
    )


def coloured_pixels(picture: NDArray[np.uint8]) -> int:
    spread = picture.max(axis=2).astype(int) - picture.min(axis=2)
    return int((spread > 60).sum())


def test_a_map_is_seen_in_colour_on_a_grey_picture() -> None:
    rows = [OverlayRow("after round 1", (overlay_map(),))]
    drawn = draw_overlays([overlay_case()], rows, title="Chest")
    plain = draw_overlays([overlay_case()], [], title="Chest")
    assert drawn.shape[2] == 3
    legend = coloured_pixels(plain)
    assert coloured_pixels(drawn) > legend + 500


def test_a_map_that_adds_little_to_the_logit_fades() -> None:
    strong, weak = (
        draw_overlays(
            [overlay_case()],
            [OverlayRow("", (overlay_map(evidence_logits=logits),))],
            title="",
        )
        for logits in (4.0, 0.1)
    )
    assert coloured_pixels(weak) < coloured_pixels(strong)


def test_an_outline_is_drawn_where_there_is_a_region() -> None:
    with_region = draw_overlays([overlay_case()], [], title="")
    without = draw_overlays([overlay_case(roi=False)], [], title="")
    assert (with_region != without).any()


def test_each_case_has_its_column_and_each_model_its_row() -> None:
    cases = [overlay_case(channels=3)] * 6
    one = draw_overlays(cases, [OverlayRow("a", (overlay_map(),) * 6)], title="")
    two = draw_overlays(cases, [OverlayRow("a", (overlay_map(),) * 6)] * 2, title="")
    assert two.shape[0] > one.shape[0]
    assert two.shape[1] == one.shape[1]
