"""The top of a page: the answer, how sure it is, and what cannot be ruled out."""

from common.explanation.derived import PRESENT, answers_left, member
from common.explanation.schema import Explanation, PredictionSet
from common.pages.sheet import Sheet

SUPPORT = (
    "Decision support, not a diagnosis. The model sees this one picture and nothing of the "
    "patient; a clinician decides."
)
# What ``PredictionSet.is_sure`` means.
SETTLED = "one answer is left to each question, and it is the more probable one"


def answer(sheet: Sheet, explanation: Explanation) -> str:
    """Return the header of a page: the answer first."""
    return (
        f'<header><p class="kicker">{sheet.words("/title")} · {sheet.words("/picture/name")}</p>'
        f"<h1>{sheet.words('/answer', 'capital')}</h1>"
        f'<ul class="standing">{_standing(explanation)}</ul>'
        f"{_prediction_set(sheet, explanation)}"
        f'<p class="support">{SUPPORT}</p></header>'
    )


def standing(*, is_novel: bool | None, is_sure: bool | None) -> str:
    """Return how far an answer holds, as one line of an index says it; None: not known."""
    if is_novel:
        return '<span aria-hidden="true">▲</span> unlike the pictures it knows'
    if is_sure is None:
        return "no prediction set"
    if is_sure:
        return f'<span aria-hidden="true">●</span> sure: {SETTLED}'
    return '<span aria-hidden="true">◐</span> not sure'


def _standing(explanation: Explanation) -> str:
    """Say how far the answer holds; by sign and word, never by colour alone."""
    said = []
    novelty, answers = explanation.novelty, explanation.prediction_set
    if novelty is not None and novelty.is_novel:
        said.append(("warn", "▲", "Unlike the pictures it knows: do not rely on the answer"))
    if answers is None:
        said.append(("warn", "?", "How sure it is has not been measured"))
    elif answers.is_sure:
        said.append(("calm", "●", f"Sure: {SETTLED}"))
    else:
        said.append(
            ("warn", "◐", "Not sure: no single answer is left that is also the more probable")
        )
    if not explanation.is_calibrated:
        said.append(("warn", "○", "Not calibrated: its probabilities are only an order"))
    if novelty is None:
        said.append(("calm", "?", "Whether the picture is unlike those it knows is not known"))
    return "".join(
        f'<li class="{kind}"><span aria-hidden="true">{sign}</span> {words}</li>'
        for kind, sign, words in said
    )


def _prediction_set(sheet: Sheet, explanation: Explanation) -> str:
    if explanation.prediction_set is None:
        why = sheet.words("/why_no_set", "sentence") if explanation.why_no_set else ""
        return f'<p class="faint">No prediction set. {why}</p>'
    rows = "".join(
        f"<dt>{heading}</dt><dd><ul>{''.join(f'<li>{one}</li>' for one in chips)}</ul></dd>"
        for heading, chips in _grouped(sheet, explanation, explanation.prediction_set).items()
        if chips
    )
    return (
        f'<dl class="set">{rows}</dl><p class="faint">'
        f"{sheet.words('/prediction_set/promise', 'sentence')} Wanted coverage "
        f"{sheet.number('/prediction_set/coverage', 'share')}, from "
        f"{sheet.number('/prediction_set/calibration_pictures', 'whole')} pictures."
        f"{_left_out(sheet, explanation.prediction_set)}</p>"
    )


def _left_out(sheet: Sheet, answers: PredictionSet) -> str:
    """Return why some findings have no answer left or ruled out, "" where all are asked about."""
    if not answers.left_out:
        return ""
    at = "/prediction_set/left_out"
    said = "; ".join(
        f"{sheet.key(at, name)}: {sheet.words(sheet.below(at, name), 'sentence')}"
        for name in answers.left_out
    )
    return f" Not covered are {said}"


def _grouped(
    sheet: Sheet, explanation: Explanation, answers: PredictionSet
) -> dict[str, list[str]]:
    """Return what is in the prediction set by what it means to a reader.

    A question with both its answers left, or with neither, is open; so is one whose only answer
    left is the less probable one.
    """
    wording = "finding" if explanation.kind == "multi-label" else "plain"
    members = [
        sheet.words(f"/prediction_set/members/{place}", wording)
        for place in range(len(answers.members))
    ]
    if explanation.kind != "multi-label":
        return {"Not ruled out": members or ["no answer: none fits what it was calibrated on"]}
    grouped: dict[str, list[str]] = {
        "Present": [],
        "Left open": [],
        "Absent": [],
        "Not measured": [],
    }
    for place, finding in enumerate(explanation.findings):
        left = answers_left(finding.name, answers)
        is_told = len(left) == 1 and (left[0] == PRESENT) == finding.is_called
        heading = left[0].capitalize() if is_told else "Left open"
        if finding.name not in answers.questions:
            grouped["Not measured"].append(sheet.words(f"/findings/{place}/name", "finding"))
        elif not left:
            name = sheet.words(f"/findings/{place}/name", "finding")
            grouped[heading].append(f"{name}: neither answer fits")
        else:
            places = [answers.members.index(member(finding.name, word)) for word in left]
            grouped[heading] += [members[one] for one in places]
    return grouped
