"""The rationale, each sentence with the values it rests on, and the signs clinicians name."""

from html import escape

from pydantic import JsonValue

from common.explanation.schema import About, Explanation, Finding, Stance
from common.pages.sheet import Sheet

# Everything that a sentence may be about, in the order in which a page tells it.
HEADINGS: dict[About, str] = {
    "finding": "Finding",
    "confidence": "How sure",
    "where": "Where",
    "concepts": "Signs",
    "trust": "How far to trust this explanation",
    "novelty": "Is it like the pictures it knows",
    "limits": "What the model cannot know",
    "next": "What to check next",
    "disclaimer": "What this is",
}

_STANCES: dict[Stance, str] = {
    "supports": '<span aria-hidden="true">▲</span> speaks for it',
    "against": '<span aria-hidden="true">▼</span> speaks against it',
    "neither": '<span aria-hidden="true">●</span> neither',
    "unknown": '<span aria-hidden="true">?</span> not known',
}


def rationale(sheet: Sheet, explanation: Explanation) -> str:
    """Return the sentences by what they are about. Call it last: it links to what is shown."""
    parts = []
    for about, heading in HEADINGS.items():
        said = [n for n, one in enumerate(explanation.rationale) if one.about == about]
        if said:
            sentences = "".join(_sentence(sheet, explanation, number) for number in said)
            parts.append(f'<div class="about"><h3>{heading}</h3>{sentences}</div>')
    return (
        '<section aria-labelledby="why"><h2 id="why">Why, in words</h2>'
        f'<div class="rationale">{"".join(parts)}</div></section>'
    )


def _sentence(sheet: Sheet, explanation: Explanation, number: int) -> str:
    uses = explanation.rationale[number].uses
    text = sheet.words(f"/rationale/{number}/text", "sentence")
    if not uses:
        return f"<p>{text}</p>"
    rows = "".join(f"<li>{_use(sheet, pointer)}</li>" for pointer in uses)
    return (
        f'<div class="sentence"><p>{text}</p> <details><summary>rests on</summary>'
        f"<ul>{rows}</ul></details></div>"
    )


def _use(sheet: Sheet, pointer: str) -> str:
    target = sheet.anchors.get(pointer)
    name = f"<code>{escape(pointer)}</code>"
    link = name if target is None else f'<a href="#{target}">{name}</a>'
    return f"{link} {_shown(sheet, pointer)}"


def _shown(sheet: Sheet, pointer: str) -> str:
    value: JsonValue = sheet.value(pointer)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return sheet.number(pointer, "as written")
    if isinstance(value, str):
        return sheet.words(pointer)
    if isinstance(value, list):
        return f"{sheet.number(f'count({pointer})', 'whole')} values"
    return "not known" if value is None else "several values"


def concepts(sheet: Sheet, explanation: Explanation) -> str:
    """Return the table of signs for each finding, "" where no sign is known to the model."""
    panels = "".join(
        _concepts_of(sheet, finding, place) for place, finding in enumerate(explanation.findings)
    )
    if not any(finding.concepts for finding in explanation.findings):
        return ""
    return (
        '<section aria-labelledby="signs"><h2 id="signs">Signs that clinicians name</h2>'
        '<p class="faint">Each sign is read by its own part of the model. “Same places” is how far '
        "its map covers what speaks for the finding; “goes with it” how both went together on the "
        f"calibration pictures, from −1 to 1.</p>{panels}</section>"
    ).replace("from −1 to 1", 'from <span class="scale">−1</span> to <span class="scale">1</span>')


def _concepts_of(sheet: Sheet, finding: Finding, place: int) -> str:
    rows = ""
    for number, concept in enumerate(finding.concepts):
        at = f"/findings/{place}/concepts/{number}"
        association = (
            "not known"
            if concept.association is None
            else sheet.number(f"{at}/association", "decimals")
        )
        rows += (
            f'<tr><th scope="row">{sheet.words(f"{at}/name", "finding")}</th>'
            f'<td class="number">{sheet.number(f"{at}/probability", "probability")}</td>'
            f"<td>{_STANCES[concept.stance]}</td>"
            f'<td class="number">{sheet.number(f"{at}/overlap", "share")}</td>'
            f'<td class="number">{association}</td>'
            f'<td class="needs-script"><button type="button" data-show="concept:{number}" '
            f'data-of="{place}">show its map</button></td></tr>'
        )
    table = (
        '<div class="wide"><table><thead><tr><th scope="col">Sign</th>'
        '<th scope="col" class="number">Probability</th><th scope="col">For this finding</th>'
        '<th scope="col" class="number">Same places</th>'
        '<th scope="col" class="number">Goes with it</th><td class="needs-script"></td></tr>'
        f"</thead><tbody>{rows}</tbody></table></div>"
        if rows
        else "<p>No sign is known for it.</p>"
    )
    return (
        f'<div class="panel" data-finding="{place}">'
        f"<h3>{sheet.words(f'/findings/{place}/name', 'finding')}</h3>{table}</div>"
    )
