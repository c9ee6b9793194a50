"""How far to trust the map: what was measured of every method, chance beside it."""

from common.explanation.schema import Explanation, Finding, Method
from common.pages.curves import curves
from common.pages.method_words import title_of
from common.pages.sheet import Sheet

_MEANINGS = (
    (
        "In the expert's region",
        "share of the map that lies in the region; chance is the region's share of the picture",
    ),
    (
        "Agrees with the model's own map",
        "do both rank the places alike? Unrelated maps get nought, equal ones one",
    ),
    (
        "Deletion, insertion",
        "area under the curves below; better than chance is less for deletion, more for insertion",
    ),
    (
        "Stays the same",
        "likeness of the map before and after a change that means nothing; one is unchanged",
    ),
)


def trust(sheet: Sheet, explanation: Explanation) -> str:
    """Return the table of methods for each finding, its curves, and what each column means."""
    panels = "".join(
        _of_finding(sheet, explanation, finding, place)
        for place, finding in enumerate(explanation.findings)
    )
    meanings = "".join(f"<dt>{name}</dt><dd>{line}</dd>" for name, line in _MEANINGS)
    return (
        '<section aria-labelledby="trust"><h2 id="trust">How far to trust the map</h2>'
        f'{panels}<dl class="meanings">{meanings}</dl></section>'
    )


def _of_finding(sheet: Sheet, explanation: Explanation, finding: Finding, place: int) -> str:
    at = f"/findings/{place}"
    rows = "".join(
        _row(sheet, explanation, method, f"{at}/methods/{number}")
        for number, method in enumerate(finding.methods)
    )
    drawn = "".join(
        f'<div class="panel" data-finding="{place}" data-layer="method:{number}">'
        f"<h4>{title_of(method.name)}</h4>"
        f"{curves(sheet, method.faithfulness, f'{at}/methods/{number}/faithfulness')}</div>"
        for number, method in enumerate(finding.methods)
        if method.faithfulness is not None
    )
    head = "".join(
        f'<th scope="col" class="number">{name}</th>'
        for name in (
            "In the expert's region",
            "Agrees with own map",
            "Deletion",
            "Insertion",
            "Noise",
            "Brightness",
            "Shift",
            "Mirror",
            "Time",
        )
    )
    return (
        f'<div class="panel" data-finding="{place}"><h3>{sheet.words(f"{at}/name", "finding")}</h3>'
        f"{_drops(sheet, finding, at)}"
        '<div class="wide"><table class="methods"><thead>'
        '<tr><td colspan="5"></td><th scope="colgroup" colspan="4" class="group">'
        "Stays the same under</th><td></td></tr>"
        f'<tr><th scope="col">Method</th>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
        f"{drawn}</div>"
    )


def _drops(sheet: Sheet, finding: Finding, at: str) -> str:
    if finding.region_drop is None or finding.elsewhere_drop is None:
        return ""
    return (
        "<p>Painting over the strongest places of the model's own map takes "
        f"{sheet.number(f'{at}/region_drop', 'decimals')} from the logit; an equal area elsewhere "
        f"takes {sheet.number(f'{at}/elsewhere_drop', 'decimals')}.</p>"
    )


def _row(sheet: Sheet, explanation: Explanation, method: Method, at: str) -> str:
    if method.map is None:
        return (
            f'<tr><th scope="row">{title_of(method.name)}</th>'
            f'<td colspan="9">no map: {sheet.words(f"{at}/failure")}</td></tr>'
        )
    chance = (
        f"<small>chance {sheet.number('mean(/roi/coverage)', 'share')}</small>"
        if explanation.roi is not None
        else ""
    )
    cells = [
        ""
        if method.energy_in_roi is None
        else sheet.number(f"{at}/energy_in_roi", "share") + chance,
        "" if method.agreement is None else sheet.number(f"{at}/agreement", "decimals"),
        *(_area(sheet, method, at, kind) for kind in ("deletion", "insertion")),
        *(_stability(sheet, method, at, kind) for kind in ("noise", "brightness", "shift", "flip")),
        sheet.number(f"{at}/seconds", "seconds"),
    ]
    return (
        f'<tr><th scope="row">{title_of(method.name)}</th>'
        + "".join(f'<td class="number">{cell or "–"}</td>' for cell in cells)
        + "</tr>"
    )


def _area(sheet: Sheet, method: Method, at: str, kind: str) -> str:
    if method.faithfulness is None:
        return ""
    shares = f"{at}/faithfulness/shares"
    own = sheet.number(f"area({shares},{at}/faithfulness/{kind})", "decimals")
    chance = sheet.number(f"area({shares},{at}/faithfulness/random_{kind})", "decimals")
    return f"{own}<small>chance {chance}</small>"


def _stability(sheet: Sheet, method: Method, at: str, kind: str) -> str:
    if method.stability is None or getattr(method.stability, kind) is None:
        return ""
    return sheet.number(f"{at}/stability/{kind}", "decimals")
