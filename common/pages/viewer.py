"""The picture with a map over it, and everything that changes which map that is."""

import numpy as np
from numpy.typing import NDArray

from common.errors import DataError
from common.explanation.schema import Explanation, Finding, GridMap, Method
from common.explanation.trust_words import NAMED_GAP
from common.pages.colours import VIRIDIS
from common.pages.method_words import line_of, title_of
from common.pages.sheet import Sheet
from common.pages.stills import OPACITY, overlaid, png_uri


def first_shown(explanation: Explanation) -> int:
    """Return the place of the finding that a page opens with.

    The first that was explained by several methods, else the most probable one.
    """
    names = [finding.name for finding in explanation.findings]
    if explanation.expanded:
        return names.index(explanation.expanded[0])
    return int(np.argmax([finding.probability for finding in explanation.findings]))


def viewer(sheet: Sheet, explanation: Explanation, picture: NDArray[np.uint8]) -> str:
    """Return the figure and its controls.

    Raises DataError for a picture of another shape than (S, S, 1 or 3), and for a finding without
    the model's own map.
    """
    own = [finding.methods[0].map for finding in explanation.findings]
    shown = own[first_shown(explanation)]
    if shown is None or None in own:
        raise DataError(
            "a finding's first method has no map; it must be the model's own, which every answer "
            "has. Explain the picture anew."
        )
    still = overlaid(picture, shown)
    return (
        '<figure class="shown"><div class="canvases">'
        f'<img id="still" class="still" alt="the picture with the model\'s own map over it" '
        f'src="{png_uri(still)}">'
        '<canvas id="over" role="img" aria-label="" hidden></canvas>'
        '<canvas id="beside" role="img" aria-label="the picture alone" hidden></canvas>'
        f'<img id="picture" hidden alt="the picture alone" src="{png_uri(picture)}"></div>'
        f"<figcaption>{_scale()}{_legends(sheet, explanation)}{_lines(explanation)}</figcaption>"
        "</figure>"
        f"{_controls(sheet, explanation)}"
    )


def _scale() -> str:
    stops = "".join(
        f'<stop offset="{place / (len(VIRIDIS) - 1):.4f}" stop-color="#{colour}"/>'
        for place, colour in enumerate(VIRIDIS)
    )
    return (
        '<svg class="colours" viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true">'
        f'<defs><linearGradient id="viridis">{stops}</linearGradient></defs>'
        '<rect width="100" height="6" fill="url(#viridis)"/></svg>'
        '<p class="ends" aria-hidden="true"><span>nothing</span><span>strongest place</span></p>'
    )


def _lines(explanation: Explanation) -> str:
    expert = "" if explanation.roi is None else " Dashed line: the expert's region."
    return (
        '<p class="faint lines">White line: places that reach half of the strongest, a fine map '
        f"taken in blocks.{expert}</p>"
    )


def _legends(sheet: Sheet, explanation: Explanation) -> str:
    """Return what the colours mean, for every map that can be shown."""
    opened = (first_shown(explanation), "method:0", "for")  # the still picture's
    said = []
    for place, finding in enumerate(explanation.findings):
        for layer, at, name, grid in layers(finding, place):
            kind_of_layer, _, number = layer.partition(":")
            is_method = kind_of_layer == "method"
            adds_up = _adds_up(sheet, finding.methods[int(number)], at) if is_method else ""
            line = line_of(name) if is_method else "A sign that clinicians name."
            about = f"/findings/{place}/name" if is_method else f"{at}/name"
            for side in ("for", "against") if grid.unit == "logits" else ("for",):
                title = title_of(name) if is_method else sheet.words(f"{at}/name", "finding")
                means = _means(grid, sheet, f"{at}/map/values", side, sheet.words(about, "finding"))
                kind = "panel opened" if (place, layer, side) == opened else "panel"
                said.append(
                    f'<p class="{kind}" data-finding="{place}" data-layer="{layer}" '
                    f'data-side="{side}"><b>{title}.</b> {line} {means}{adds_up}</p>'
                )
    return "".join(said)


def _adds_up(sheet: Sheet, method: Method, at: str) -> str:
    """Return how far a map's parts add up to what they are parts of, "" without such a promise."""
    found = method.completeness
    if found is None:
        return ""
    parts, constants, whole, gap = (
        sheet.number(f"{at}/completeness/{name}", "decimals")
        for name in ("parts", "constants", "whole", "gap")
    )
    kept = f", with {constants} that no place shows" if found.constants else ""
    of = sheet.words(f"{at}/completeness/of")
    kind = "Approximate for this picture: its" if found.gap > NAMED_GAP else "Its"
    return f" {kind} parts add up to {parts} logits{kept}; {of} is {whole}. Gap {gap}."


def _means(grid: GridMap, sheet: Sheet, at: str, side: str, name: str) -> str:
    """Return what a map adds up to; ``at`` points to its values, ``name`` is what it speaks for."""
    if grid.unit == "shares":
        if not any(grid.values):
            return f"Nothing in the picture speaks for {name} by this method."
        top = sheet.number(f"largest({at})", "share")
        return f"The strongest place holds {top} of the map."
    ending, verb = ("", "for") if side == "for" else ("_against", "against")
    if not any(value > 0 if side == "for" else value < 0 for value in grid.values):
        return f"Nothing in the picture speaks {verb} {name}."
    total = sheet.number(f"total_{side}({at})", "decimals")
    top = sheet.number(f"largest{ending}({at})", "decimals")
    return f"What speaks {verb} {name} adds up to {total} logits; the strongest place holds {top}."


def layers(finding: Finding, place: int) -> list[tuple[str, str, str, GridMap]]:
    """Return every map of a finding: its key on the page, its pointer, its name and itself."""
    at = f"/findings/{place}"
    methods = [
        (f"method:{number}", f"{at}/methods/{number}", method.name, method.map)
        for number, method in enumerate(finding.methods)
        if method.map is not None
    ]
    concepts = [
        (f"concept:{number}", f"{at}/concepts/{number}", concept.name, concept.map)
        for number, concept in enumerate(finding.concepts)
    ]
    return methods + concepts


def _controls(sheet: Sheet, explanation: Explanation) -> str:
    choices = "".join(
        f'<select class="panel" data-finding="{place}" aria-label="Map">'
        f"{_options(sheet, finding, place)}</select>"
        for place, finding in enumerate(explanation.findings)
    )
    region = (
        ""
        if explanation.roi is None
        else '<label><input type="checkbox" name="roi" checked> expert\'s region (dashed)</label>'
    )
    return (
        '<form id="controls" class="controls needs-script">'
        f'<p class="control"><span class="label">Map</span>{choices}</p>'
        '<p class="control"><label class="label" for="opacity">Strength</label>'
        f'<input type="range" id="opacity" name="opacity" min="0" max="100" step="5" '
        f'value="{100 * OPACITY:.0f}"></p>'
        '<fieldset><legend>Show</legend><label><input type="radio" name="side" value="for" checked>'
        " what speaks for it</label> "
        '<label><input type="radio" name="side" value="against"> what speaks against it</label>'
        "</fieldset><fieldset><legend>Place</legend>"
        '<label><input type="radio" name="place" value="over" checked> over the picture</label> '
        '<label><input type="radio" name="place" value="beside"> beside it</label></fieldset>'
        '<fieldset><legend>Lines</legend><label><input type="checkbox" name="outline" checked>'
        f" strongest places</label> {region} "
        '<label><input type="checkbox" name="smooth" checked> smooth</label></fieldset></form>'
    )


def _options(sheet: Sheet, finding: Finding, place: int) -> str:
    methods = "".join(
        f'<option value="method:{number}"{"" if method.map else " disabled"}>'
        f"{title_of(method.name)}{'' if method.map else ' (failed)'}</option>"
        for number, method in enumerate(finding.methods)
    )
    concepts = "".join(
        sheet.option(f"concept:{number}", f"/findings/{place}/concepts/{number}/name", "finding")
        for number in range(len(finding.concepts))
    )
    return f'<optgroup label="Methods">{methods}</optgroup>' + (
        f'<optgroup label="Signs">{concepts}</optgroup>' if concepts else ""
    )
