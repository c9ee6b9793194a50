"""How far to trust the map: what was measured of every method, chance beside it."""

from common.explanation.derived import follows_picture
from common.explanation.schema import Explanation, Finding, Method
from common.pages.curves import by_chance, curves
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
        "Adds up",
        "how far the map's parts add up to what they are parts of; nought is wholly, and what is "
        "more makes the map approximate for this picture",
    ),
    (
        "Deletion, insertion",
        "area under the curves below; better than chance is less for deletion, more for insertion. "
        "Chance is the mean of random orders, with the least and the most of them",
    ),
    (
        "Stays the same",
        "likeness of the map before and after a change that means nothing; one is unchanged",
    ),
    (
        "Other pictures",
        "the same likeness between this map and those of other pictures, mean, least and most: a "
        "map that follows its picture is less like them than like itself after a change",
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
        f"<h4>{title_of(method.name)}</h4>{said}</div>"
        for number, method in enumerate(finding.methods)
        if (said := _measured(sheet, method, f"{at}/methods/{number}"))
    )
    head = "".join(
        f'<th scope="col" class="number">{name}</th>'
        for name in (
            "In the expert's region",
            "Agrees with own map",
            "Adds up (gap)",
            "Deletion",
            "Insertion",
            "Noise",
            "Brightness",
            "Shift",
            "Mirror",
            "Other pictures",
            "Time",
        )
    )
    return (
        f'<div class="panel" data-finding="{place}"><h3>{sheet.words(f"{at}/name", "finding")}</h3>'
        f"{_drops(sheet, finding, at)}"
        '<div class="wide"><table class="methods"><thead>'
        '<tr><td colspan="6"></td><th scope="colgroup" colspan="5" class="group">'
        "Stays the same under, and against</th><td></td></tr>"
        f'<tr><th scope="col">Method</th>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
        f"{drawn}</div>"
    )


def _measured(sheet: Sheet, method: Method, at: str) -> str:
    """Return what the measurements of one map come to, "" where nothing was measured."""
    drawn = (
        ""
        if method.faithfulness is None
        else curves(sheet, method.faithfulness, f"{at}/faithfulness")
    )
    lacking = f"<p>{sheet.words(f'{at}/unmeasured', 'sentence')}</p>" if method.unmeasured else ""
    return f"{drawn}{_stays(sheet, method, at)}{lacking}"


def _drops(sheet: Sheet, finding: Finding, at: str) -> str:
    if finding.region_drop is None:
        return ""
    elsewhere = (
        "there is no equal area elsewhere to hold that against"
        if finding.elsewhere_drop is None
        else "an equal area elsewhere takes " + sheet.number(f"{at}/elsewhere_drop", "decimals")
    )
    return (
        "<p>Filling in the strongest places of the model's own map from around them takes "
        f"{sheet.number(f'{at}/region_drop', 'decimals')} from the logit; {elsewhere}.</p>"
    )


def _row(sheet: Sheet, explanation: Explanation, method: Method, at: str) -> str:
    if method.map is None:
        return (
            f'<tr><th scope="row">{title_of(method.name)}</th>'
            f'<td colspan="11">no map: {sheet.words(f"{at}/failure")}</td></tr>'
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
        "" if method.completeness is None else sheet.number(f"{at}/completeness/gap", "decimals"),
        *(_area(sheet, method, at, kind) for kind in ("deletion", "insertion")),
        *(_stability(sheet, method, at, kind) for kind in ("noise", "brightness", "shift", "flip")),
        _other_pictures(sheet, method, at),
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
    mean, span = by_chance(sheet, f"{at}/faithfulness")
    return f"{own}<small>chance {mean}</small><small>{span}</small>"


def _stability(sheet: Sheet, method: Method, at: str, kind: str) -> str:
    if method.stability is None or getattr(method.stability, kind) is None:
        return ""
    return sheet.number(f"{at}/stability/{kind}", "decimals")


def _other_pictures(sheet: Sheet, method: Method, at: str) -> str:
    if method.stability is None or not method.stability.other_pictures:
        return ""
    mean, least, most = (
        sheet.number(f"{name}({at}/stability/other_pictures)", "decimals")
        for name in ("mean", "least", "most")
    )
    return f"{mean}<small>{least} to {most}</small>"


def _stays(sheet: Sheet, method: Method, at: str) -> str:
    """Return what the likeness under small changes is worth, in words."""
    measured = method.stability
    if measured is None:
        return ""
    whose = sheet.words(f"{at}/stability/others")
    follows = follows_picture(measured)
    if follows is None:
        return f"<p>What the likeness under small changes is worth is not known: {whose}.</p>"
    said = (
        "small changes leave the map more like itself than any of those is: it follows its picture"
        if follows
        else "one of those is as like this map as the map is to itself after a small change, so "
        "that its likeness says little"
    )
    number = sheet.number(f"count({at}/stability/other_pictures)", "whole")
    return f"<p>Held against the maps of {whose} ({number}): {said}.</p>"
