"""Sentences on where the evidence lies and which signs bear on it."""

from collections.abc import Iterator

from common.explanation.confidence_words import percent_words
from common.explanation.derived import spoken_name
from common.explanation.figures import listed
from common.explanation.schema import Explanation, Sentence
from common.explanation.source import Source

NAMED_CONTEXT = 0.01  # share of the logit below which context is not worth a sentence


def frame(explanation: Explanation, places: tuple[int, ...]) -> Iterator[Sentence]:
    """Say once what places are measured against; it is the same for all findings."""
    for place in places:
        if explanation.findings[place].where is not None:
            source = Source(explanation)
            frame = source.text("findings", place, "where", "frame")
            yield source.says("where", f"Places are measured against {frame}.")
            return


def where_words(explanation: Explanation, place: int) -> Iterator[Sentence]:
    """Say in which part of the anatomy the evidence for a finding lies, and what has no place."""
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


def sign_words(explanation: Explanation, place: int) -> Iterator[Sentence]:
    """Say which signs support a finding, which speak against it, and which do neither."""
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
