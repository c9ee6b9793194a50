"""The written rationale: sentences made from an explanation's values, each naming what it uses.

Nothing is written that was not read through a :class:`Source`, so that a sentence cannot state
what the document does not hold.
"""

from collections.abc import Iterator

from common.explanation.anatomy import PADDING
from common.explanation.confidence_words import likelihood_words, percent_words
from common.explanation.derived import (
    ABSENT,
    NOT_SURE,
    PRESENT,
    UNLIKE,
    answers_left,
    described,
    most_probable,
    open_findings,
    spoken_name,
)
from common.explanation.figures import figure, listed
from common.explanation.schema import Explanation, Sentence
from common.explanation.source import Source
from common.explanation.task_words import (
    DISCLAIMER,
    OTHER,
    TASK_WORDS,
    WHEN_NOT_SURE,
    WHEN_NOVEL,
)
from common.explanation.trust_words import trust

NAMED_CONTEXT = 0.01  # share of the logit below which context is not worth a sentence


def rationale(explanation: Explanation) -> tuple[Sentence, ...]:
    """Return the sentences, in the order of reading; the explanation's own are not looked at."""
    places = described(explanation.kind, explanation.findings, explanation.prediction_set)
    sentences = [_answer(Source(explanation)), *_set(explanation)]
    for place in places:
        sentences += [_confidence(Source(explanation), place), *_left(explanation, place)]
    sentences += _others(explanation, places)
    sentences += _frame(explanation, places)
    for place in places:
        sentences += [*_where(explanation, place), *_concepts(explanation, place)]
        sentences += trust(explanation, place)
    sentences += [_novelty(explanation), *_limits(explanation), *_next(explanation, places[0])]
    return (*sentences, Source(explanation).says("disclaimer", DISCLAIMER))


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
    if answers is None:
        return
    source = Source(explanation)
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
        yield source.says(
            "confidence", f"The calibration does not tell how far an answer to {name} is covered."
        )
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


def _frame(explanation: Explanation, places: tuple[int, ...]) -> Iterator[Sentence]:
    """Say once what places are measured against; it is the same for all findings."""
    for place in places:
        if explanation.findings[place].where is not None:
            source = Source(explanation)
            frame = source.text("findings", place, "where", "frame")
            yield source.says("where", f"Places are measured against {frame}.")
            return


def _where(explanation: Explanation, place: int) -> Iterator[Sentence]:
    source = Source(explanation)
    name = spoken_name(source.text("findings", place, "name"))
    where, path = explanation.findings[place].where, ("findings", place, "where")
    if where is None:
        source.rests_on(*path)
        yield source.says("where", f"No place of the picture speaks for {name}.")
    else:
        words = source.text(*path, "words")
        shares = [
            f"{region} {percent_words(source.number(*path, 'regions', region))}"
            for region in list(where.regions)[:3]
        ]
        yield source.says("where", f"The evidence for {name}: {words} ({'; '.join(shares)}).")
    context = Source(explanation)
    share = context.number("findings", place, "context_share")
    if share >= NAMED_CONTEXT:
        yield context.says(
            "where",
            f"Of what decides on {spoken_name(context.text('findings', place, 'name'))} "
            f"{percent_words(share)} is context: it comes from the picture as a whole and has no "
            "place.",
        )


def _concepts(explanation: Explanation, place: int) -> Iterator[Sentence]:
    concepts = explanation.findings[place].concepts
    source = Source(explanation)
    name = spoken_name(source.text("findings", place, "name"))
    if not concepts:
        source.rests_on("findings", place, "concepts")
        yield source.says("concepts", f"No signs are known that could explain {name} in words.")
        return
    for stance, verb in (
        ("supports", "Signs that support"),
        ("against", "Signs that speak against"),
        ("neither", "Signs that neither support nor contradict"),
        ("unknown", "Signs whose bearing is not known on"),
    ):
        stated = Source(explanation)
        said = []
        for number, concept in enumerate(concepts):
            if concept.stance != stance:
                continue
            path = ("findings", place, "concepts", number)
            stated.rests_on(*path, "stance")
            probability = percent_words(stated.number(*path, "probability"))
            overlap = percent_words(stated.number(*path, "overlap"))
            said.append(
                f"{spoken_name(stated.text(*path, 'name'))} ({probability}, not calibrated; "
                f"{overlap} of its evidence in the same places)"
            )
        if said:
            finding = spoken_name(stated.text("findings", place, "name"))
            yield stated.says("concepts", f"{verb} {finding}: {listed(said)}.")


def _novelty(explanation: Explanation) -> Sentence:
    source = Source(explanation)
    if explanation.novelty is None:
        source.rests_on("novelty")
        return source.says("novelty", "Whether this picture is unlike those it knows is not known.")
    score, limit = source.number("novelty", "score"), source.number("novelty", "limit")
    unlike = "is unlike" if source.fact("novelty", "is_novel") else "is not unlike"
    return source.says(
        "novelty",
        f"This picture {unlike} those of the calibration: its distance is {figure(score)}, the "
        f"limit {figure(limit)}.",
    )


def _limits(explanation: Explanation) -> Iterator[Sentence]:
    words = TASK_WORDS.get(explanation.task, OTHER)
    task = Source(explanation)
    task.text("task")
    yield task.says("limits", words.unknown)
    yield task.says("limits", words.unseen)
    if explanation.kind == "multi-label":
        source = Source(explanation)
        names = [
            spoken_name(source.text("findings", place, "name"))
            for place in range(len(explanation.findings))
        ]
        yield source.says("limits", f"It knows {listed(names)}, and can name nothing else.")
    elif explanation.answers:
        source = Source(explanation).rests_on("answers")
        yield source.says(
            "limits", f"It chooses among {listed(list(explanation.answers))}, and nothing else."
        )
    if explanation.picture.skipped:
        source = Source(explanation)
        steps = [
            source.text("picture", "skipped", place)
            for place in range(len(explanation.picture.skipped))
        ]
        yield source.says("limits", f"Left out when the picture was prepared: {listed(steps)}.")


def _next(explanation: Explanation, place: int) -> Iterator[Sentence]:
    words = TASK_WORDS.get(explanation.task, OTHER)
    novelty, answers = explanation.novelty, explanation.prediction_set
    if novelty is not None and novelty.is_novel:
        yield Source(explanation).rests_on("novelty", "is_novel").says("next", WHEN_NOVEL)
        return
    if answers is not None and not answers.is_sure:
        yield Source(explanation).rests_on("prediction_set", "is_sure").says("next", WHEN_NOT_SURE)
    source = Source(explanation)
    source.text("task")
    where = explanation.findings[place].where
    if not source.fact("findings", place, "is_called"):
        yield source.says("next", words.when_not_called)
    elif where is None or next(iter(where.regions)) == PADDING:
        yield source.rests_on("findings", place, "where").says("next", words.when_called_nowhere)
    else:
        region = next(iter(where.regions))
        source.rests_on("findings", place, "where", "regions")
        yield source.says("next", words.when_called.format(where=region))


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]
