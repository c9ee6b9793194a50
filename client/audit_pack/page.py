"""The index of a site's audit pack: every number names its place in ``pack.json`` beside it."""

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from urllib.parse import quote

from client.audit_pack.schema import PACK_FILE, Localised, Measured, Pack
from common.errors import DataError
from common.pages.answer import SUPPORT, standing
from common.pages.figures import capital
from common.pages.page import whole_page
from common.pages.sheet import Sheet

SHOWN_DISAGREEMENTS = 100  # the index stays readable; pack.json has all of them
NO_PROMISE = (
    "The sets promise their coverage for pictures like those of the calibration set alone. There "
    "is no promise where pictures differ from the calibration set, as another hospital's do: what "
    "is measured here is what holds here, within its interval."
)
_END_OF_MAIN = "</main>"


def with_labels(page: str, labels: Mapping[str, str], *, has_region: bool) -> str:
    """Return an explanation's page with the site's own answers, closed until a reader opens them.

    A reader who judges the model should not have seen the answer before.

    Raises DataError for a page without an end of its main part.
    """
    before, end, after = page.rpartition(_END_OF_MAIN)
    if not end:
        raise DataError(f"the page of an explanation has no {_END_OF_MAIN} to put labels before.")
    rows = "".join(
        f"<dt>{escape(capital(name))}</dt><dd>{escape(label)}</dd>"
        for name, label in labels.items()
    )
    region = (
        "The region on the picture is all lesions that an expert of this site has outlined."
        if has_region
        else "No expert has outlined a region in this picture."
    )
    return (
        f'{before}<section aria-labelledby="labels"><h2 id="labels">What this site\'s label says'
        f"</h2><details><summary>Show it, after you have judged for yourself</summary><dl>{rows}"
        f'</dl><p class="faint">{region}</p></details></section>{end}{after}'
    )


def index_page(pack: Pack) -> str:
    """Return the index as HTML."""
    sheet = Sheet(json.loads(pack.model_dump_json()))
    parts = (
        _header(sheet, pack),
        _pictures(sheet, pack),
        _coverage(sheet, pack),
        _novel(sheet, pack),
        _classes(
            sheet,
            "How often it is right",
            "/classes",
            [one.auroc for one in pack.classes],
            of="Question",
        ),
        _average(sheet, pack),
        _localised(sheet, "Where it looks, and experts' regions", "/localisation", pack)
        or "<h2>Where it looks</h2><p>No picture of this part has an expert's region.</p>",
        _classes(sheet, "Signs", "/concepts", [one.auroc for one in pack.concepts], of="Sign")
        or "<h2>Signs</h2><p>This site has no labels of signs that the model sees.</p>",
        _localised(sheet, "Where it sees signs", "/concept_localisation", pack),
        _disagreements(sheet, pack),
    )
    title = escape(f"Audit pack – {pack.title}")
    body = f"<main>{''.join(parts)}</main><footer>{SUPPORT}</footer>"
    return whole_page(title=title, body=body)


def _header(sheet: Sheet, pack: Pack) -> str:
    notes = "".join(f"<li>{sheet.words(f'/notes/{n}')}</li>" for n in range(len(pack.notes)))
    return (
        f'<header><p class="kicker">{sheet.words("/site")} · {sheet.words("/made_at", "moment")}'
        f"</p><h1>A model on this site's own pictures</h1><p>{sheet.words('/title')}: "
        f"{sheet.number('/pictures', 'whole')} pictures of {sheet.number('/patients', 'whole')} "
        f"patients, part {sheet.words('/part')}. Model: run {sheet.words('/model/run')}, round "
        f"{sheet.number('/model/round', 'whole')}, weights "
        f"<code>{sheet.words('/model/weights_sha256', 'digest')}</code>.</p>"
        f'<p class="support">{SUPPORT}</p>'
        "<p>These pages hold pictures of patients. They were made here and nothing of them is "
        f"sent; keep them where the pictures may be. Every number is in <code>{PACK_FILE}</code>."
        f"</p>{f'<ul>{notes}</ul>' if notes else ''}</header>"
    )


def _coverage(sheet: Sheet, pack: Pack) -> str:
    heading = "<h2>Prediction sets</h2>"
    if pack.coverage is None:
        return f"{heading}<p>None: {sheet.words('/why_no_coverage')}</p>"
    rows = [
        ["all answers", *_measured(sheet, "/coverage", pack.coverage, "share")],
        *(
            [
                sheet.words(f"/coverage_of/{n}/answer"),
                *_measured(sheet, f"/coverage_of/{n}/coverage", one.coverage, "share"),
            ]
            for n, one in enumerate(pack.coverage_of)
        ),
    ]
    wanted = sheet.number("/coverage_wanted", "share")
    return (
        f"{heading}<p>How often the set holds the site's own answer; wanted is {wanted}.</p>"
        f"{_table(('Answer', 'Held', '95 % interval', 'Answers'), rows)}<p>{NO_PROMISE}</p>"
    )


def _novel(sheet: Sheet, pack: Pack) -> str:
    heading = "<h2>Pictures unlike those it knows</h2>"
    if pack.novel is None:
        return f"{heading}<p>Not known: {sheet.words('/why_no_novelty')}</p>"
    share, interval, support = _measured(sheet, "/novel", pack.novel, "share")
    said = f"<p>{share} of {support} pictures ({interval})"
    if pack.novel_expected is not None:
        said += (
            f"; of pictures like the calibration set's "
            f"{sheet.number('/novel_expected', 'share')} are expected"
        )
    return f"{heading}{said}.</p>"


def _classes(sheet: Sheet, heading: str, at: str, figures: Sequence[Measured], *, of: str) -> str:
    rows = [
        [
            sheet.words(f"{at}/{n}/name", "finding"),
            *_measured(sheet, f"{at}/{n}/auroc", auroc, "decimals"),
            sheet.number(f"{at}/{n}/positives", "whole"),
            sheet.number(f"{at}/{n}/positive_patients", "whole"),
        ]
        for n, auroc in enumerate(figures)
    ]
    heads = (of, "AUROC", "95 % interval", "Pictures", "Positive", "Positive patients")
    return f"<h2>{heading}</h2>{_table(heads, rows)}" if rows else ""


def _average(sheet: Sheet, pack: Pack) -> str:
    value, interval, _ = _measured(sheet, "/average_auroc", pack.average_auroc, "decimals")
    return f"<p>On average over classes: {value} ({interval}). Chance is one half.</p>"


def _localised(sheet: Sheet, heading: str, at: str, pack: Pack) -> str:
    found: Sequence[Localised] = getattr(pack, at.removeprefix("/"))
    rows = []
    for n, one in enumerate(found):
        row = [sheet.words(f"{at}/{n}/name", "finding")]
        for name in ("pointing_hit", "energy_in_roi", "iou_matched_area"):
            figure: Measured = getattr(one, name)
            value, interval, _ = _measured(sheet, f"{at}/{n}/{name}", figure, "decimals")
            chance = (
                sheet.number(f"{at}/{n}/{name}/chance", "decimals")
                if figure.chance is not None
                else "unknown"
            )
            bounds = "" if figure.low is None else f'<br><span class="faint">{interval}</span>'
            row.append(f"{value}; chance {chance}{bounds}")
        cases = sheet.number(f"{at}/{n}/pointing_hit/support", "whole")
        # The three rest on the same cases: what is lacking is lacking of all.
        is_lacking = one.pointing_hit.low is None and one.pointing_hit.note != ""
        note = sheet.words(f"{at}/{n}/pointing_hit/note") if is_lacking else ""
        rows.append([*row, f'{cases}<br><span class="faint">{note}</span>' if note else cases])
    heads = ("Map of", "Peak inside", "Evidence inside", "Overlap at equal area", "Cases")
    return f"<h2>{heading}</h2>{_table(heads, rows)}" if rows else ""


def _disagreements(sheet: Sheet, pack: Pack) -> str:
    heading = "<h2>Where model and label differ</h2>"
    if not any(one.auroc.support for one in pack.classes):
        return f"{heading}<p>No label of this part is known, so that none could differ.</p>"
    if not pack.disagreements:
        return f"{heading}<p>Nowhere in this part.</p>"
    pages = {one.name: one.page for one in pack.shown}
    rows = [
        [
            _linked(sheet.words(f"/disagreements/{n}/picture"), pages.get(one.picture, "")),
            sheet.words(f"/disagreements/{n}/question", "finding"),
            sheet.words(f"/disagreements/{n}/label"),
            sheet.words(f"/disagreements/{n}/said"),
            sheet.number(f"/disagreements/{n}/label_probability", "probability"),
        ]
        for n, one in enumerate(pack.disagreements[:SHOWN_DISAGREEMENTS])
    ]
    heads = ("Picture", "Question", "Label", "The model says", "Probability of the label")
    more = "" if len(rows) == len(pack.disagreements) else " The worst are listed."
    return (
        f"{heading}<p>{sheet.number('count(/disagreements)', 'whole')} answers, those first in "
        f"which the model is surest. Either may be wrong.{more}</p>{_table(heads, rows)}"
    )


def _pictures(sheet: Sheet, pack: Pack) -> str:
    if not pack.shown:
        return ""
    rows = []
    for n, one in enumerate(pack.shown):
        name = _linked(sheet.words(f"/shown/{n}/name"), one.page)
        if one.failure:
            rows.append([name, "", f"could not be explained: {sheet.words(f'/shown/{n}/failure')}"])
        else:
            how_far = standing(is_novel=one.is_novel, is_sure=one.is_sure)
            rows.append([name, sheet.words(f"/shown/{n}/answer", "capital"), how_far])
        rows[-1].append("model and label differ" if one.chosen_as == "disagreement" else "by lot")
    heads = ("Picture", "The model says", "How far it holds", "Chosen")
    return f"<h2>Pictures explained</h2>{_table(heads, rows)}"


def _measured(sheet: Sheet, at: str, figure: Measured, form: str) -> tuple[str, str, str]:
    """Return value, interval with its note, and support of a measured number, as HTML."""
    value = "not defined" if figure.value is None else sheet.number(f"{at}/value", form)
    support = sheet.number(f"{at}/support", "whole")
    note = sheet.words(f"{at}/note") if figure.note else ""
    if figure.low is None or figure.high is None:
        return value, note or "no interval", support
    low, high = (sheet.number(f"{at}/{end}", form) for end in ("low", "high"))
    interval = f"{low} to {high}"
    return value, f"{interval}; {note}" if note else interval, support


def _linked(words: str, page: str) -> str:
    return f'<a href="{escape(quote(page))}">{words}</a>' if page else words


def _table(heads: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    top = "".join(f'<th scope="col">{head}</th>' for head in heads)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>'
        for row in rows
    )
    return (
        f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
    )
