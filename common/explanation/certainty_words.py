"""Sentences on what the model answers and how sure that is."""

from collections.abc import Iterator

from common.explanation.confidence_words import likelihood_words, percent_words
from common.explanation.derived import (
    ABSENT,
    NOT_SURE,
    PRESENT,
    UNLIKE,
    answers_left,
    most_probable,
    open_findings,
    spoken_name,
)
from common.explanation.figures import figure, listed
from common.explanation.schema import Explanation, Sentence
from common.explanation.source import Source


def certainty(explanation: Explanation, places: tuple[int, ...]) -> Iterator[Sentence]:
    """Say the answer, what a set leaves of it, and the probability of the findings described.

    Args:
        explanation: Its own sentences are not looked at.
        places: Of the findings to describe.
    """
    yield _answer(Source(explanation))
    yield from _set(explanation)
    yield from _calibration(explanation)
    for place in places:
        yield _confidence(Source(explanation), place)
        yield from _left(explanation, place)
    yield from _others(explanation, places)


def _answer(source: Source) -> Sentence:
    title, answer = source.text("title"), source.text("answer")
    if answer == UNLIKE:
        text = f"{title}: this picture is {answer}; its answers should not be relied on."
    elif answer == NOT_SURE:
        text = f"{title}: the model is {answer}."
    else:
        text = f"{title}: the model's answer is {answer}."
    return source.says("finding", text)


def _set(explanation: Explanation) -> Iterator[Sentence]:
    """Say which answers are left, where they exclude each other, and what the set promises."""
    answers = explanation.prediction_set
    source = Source(explanation)
    if answers is None:
        if explanation.why_no_set and explanation.is_calibrated:
            why = source.text("why_no_set")
            yield source.says("confidence", f"There is no prediction set. {why}")
        return
    if explanation.kind != "multi-label":
        coverage = percent_words(source.number("prediction_set", "coverage"))
        members = [
            source.text("prediction_set", "members", place) for place in range(len(answers.members))
        ]
        source.rests_on("prediction_set", "members")
        left = f"only {listed(members)} is left" if members else "no answer fits"
        if len(members) > 1:
            left = f"{listed(members)} cannot be ruled out"
        elif members and members[0] != most_probable(explanation.answers):
            best = most_probable(explanation.answers)
            source.rests_on("answers")
            left += f", yet {best} is more probable, so that it is not settled"
        yield source.says("confidence", f"At a wanted coverage of {coverage} {left}.")
    promise = Source(explanation)
    yield promise.says("confidence", promise.text("prediction_set", "promise"))


def _calibration(explanation: Explanation) -> Iterator[Sentence]:
    """Say what the probabilities rest on, or why they rest on nothing."""
    source = Source(explanation)
    found = explanation.calibrated_on
    if found is None:
        if explanation.why_not_calibrated:
            why = source.text("why_not_calibrated")
            yield source.says("confidence", f"Its probabilities are not calibrated. {why}")
        return
    pictures = round(source.number("calibrated_on", "pictures"))
    patients = round(source.number("calibrated_on", "patients"))
    text = f"Its probabilities were calibrated on {pictures} pictures of {patients} patients"
    if found.error is not None:
        error = figure(source.number("calibrated_on", "error"))
        others = round(source.number("calibrated_on", "error_pictures"))
        text += f"; on {others} others they lay {error} off how often they were right, on average"
    yield source.says("confidence", f"{text}.")
    if found.note:
        note = Source(explanation)
        yield note.says("confidence", note.text("calibrated_on", "note"))


def _confidence(source: Source, place: int) -> Sentence:
    name = spoken_name(source.text("findings", place, "name"))
    probability = source.number("findings", place, "probability")
    percent = percent_words(probability)
    if not source.fact("is_calibrated"):
        return source.says(
            "confidence",
            f"The model gives {name} {percent}; this is not calibrated, so read it as an order, "
            "not a chance.",
        )
    if source.is_there("novelty") and source.fact("novelty", "is_novel"):
        return source.says(
            "confidence",
            f"The model gives {name} {percent}; it was calibrated on pictures unlike this one, so "
            "this is no chance to go by.",
        )
    said = f"{_upper(name)} is {likelihood_words(probability)} ({percent})"
    return source.says("confidence", f"{said}, by its calibrated probability.")


def _left(explanation: Explanation, place: int) -> Iterator[Sentence]:
    """Say of an answer that excludes others which is the most probable, of a finding if open."""
    source = Source(explanation)
    if explanation.kind == "ordinal":
        best = most_probable(explanation.answers)
        source.rests_on("answers")
        probability = percent_words(source.number("answers", best))
        yield source.says(
            "confidence", f"Of the grades {best} is the most probable: {probability}."
        )
    if explanation.kind != "multi-label" or explanation.prediction_set is None:
        return
    if explanation.findings[place].name not in explanation.prediction_set.questions:
        name = spoken_name(source.text("findings", place, "name"))
        source.rests_on("prediction_set", "questions")
        text = f"The calibration does not tell how far an answer to {name} is covered."
        if explanation.findings[place].name in explanation.prediction_set.left_out:
            why = source.text("prediction_set", "left_out", explanation.findings[place].name)
            text = f"{text} {why}"
        yield source.says("confidence", text)
        return
    left = answers_left(explanation.findings[place].name, explanation.prediction_set)
    name = _upper(spoken_name(source.text("findings", place, "name")))
    coverage = percent_words(source.number("prediction_set", "coverage"))
    source.rests_on("prediction_set", "members")
    if len(left) == 1:
        text = f"{name}: at a wanted coverage of {coverage} only {left[0]} is left"
        is_probable = source.fact("findings", place, "is_called")
        if is_probable is not (left[0] == PRESENT):
            other = PRESENT if is_probable else ABSENT
            text += f", yet {other} is more probable, so that it is not settled"
        text += "."
    elif left:
        text = f"{name}: at a wanted coverage of {coverage} both {listed(left)} are left."
    else:
        text = f"{name}: at a wanted coverage of {coverage} no answer fits."
    yield source.says("confidence", text)


def _others(explanation: Explanation, places: tuple[int, ...]) -> Iterator[Sentence]:
    rest = [place for place in range(len(explanation.findings)) if place not in places]
    if explanation.kind != "multi-label" or not rest:
        return
    source = Source(explanation)
    probabilities = {place: source.number("findings", place, "probability") for place in rest}
    best = max(rest, key=lambda place: probabilities[place])
    name = spoken_name(source.text("findings", best, "name"))
    chance = percent_words(probabilities[best])
    yield source.says(
        "confidence", f"Of the findings not described here {name} is the most probable: {chance}."
    )
    left_open = open_findings(explanation.findings, explanation.prediction_set)
    doubtful = [place for place in rest if explanation.findings[place].name in left_open]
    if doubtful:
        open_source = Source(explanation).rests_on("prediction_set", "members")
        said = [spoken_name(open_source.text("findings", place, "name")) for place in doubtful]
        yield open_source.says("confidence", f"Also left open: {listed(said)}.")


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]
