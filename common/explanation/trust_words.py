"""Sentences on how far one explanation was measured to be trusted; only what was measured."""

from collections.abc import Iterator

from common.explanation.confidence_words import percent_words
from common.explanation.derived import beats_chance, spoken_name
from common.explanation.figures import figure, listed
from common.explanation.schema import Explanation, Region, Sentence
from common.explanation.source import Source

PAINTED = 0.2  # share of the picture at which the curves are quoted


def trust(explanation: Explanation, place: int) -> Iterator[Sentence]:
    """Say of one finding's own map how faithful and stable it is and who agrees with it."""
    own = explanation.findings[place].methods[0]
    if own.faithfulness is None:
        source = Source(explanation).rests_on("findings", place, "methods", 0, "faithfulness")
        name = spoken_name(source.text("findings", place, "name"))
        yield source.says("trust", f"How faithful the map for {name} is was not measured.")
    else:
        yield from _faithfulness(explanation, place)
    yield from _region(explanation, place)
    if own.stability is None:
        source = Source(explanation).rests_on("findings", place, "methods", 0, "stability")
        name = spoken_name(source.text("findings", place, "name"))
        yield source.says("trust", f"How stable the map for {name} is was not measured.")
    else:
        yield _stability(explanation, place)
    if own.energy_in_roi is not None:
        source = Source(explanation)
        share = percent_words(source.number("findings", place, "methods", 0, "energy_in_roi"))
        name = spoken_name(source.text("findings", place, "name"))
        yield source.says(
            "trust",
            f"In the region that an expert marked lies {share} of the evidence for {name}"
            f"{_against_area(source, own.energy_in_roi, explanation.roi)}.",
        )
    yield from _others(explanation, place)


def _faithfulness(explanation: Explanation, place: int) -> Iterator[Sentence]:
    curves = explanation.findings[place].methods[0].faithfulness
    if curves is None:
        return
    source = Source(explanation)
    path = ("findings", place, "methods", 0, "faithfulness")
    at = min(range(len(curves.shares)), key=lambda i: abs(curves.shares[i] - PAINTED))
    share = percent_words(source.number(*path, "shares", at))
    before = percent_words(source.number(*path, "deletion", 0))
    after = percent_words(source.number(*path, "deletion", at))
    chance = percent_words(source.number(*path, "random_deletion", at))
    name = spoken_name(source.text("findings", place, "name"))
    yield source.says(
        "trust",
        f"Painting over the {share} of the picture that the map names first takes the uncalibrated "
        f"probability of {name} from {before} to {after}; painting over as much at random takes "
        f"it to {chance}.",
    )
    judged = Source(explanation)
    for curve in ("shares", "deletion", "insertion", "random_deletion", "random_insertion"):
        judged.rests_on(*path, curve)
    verdict = "more faithful" if beats_chance(curves) else "no more faithful"
    name = spoken_name(judged.text("findings", place, "name"))
    yield judged.says(
        "trust",
        f"Over deletion and insertion together the map for {name} is {verdict} than one random "
        "order. A map that means nothing would be so in nearly every second picture: go by how far "
        "the curves are apart.",
    )


def _against_area(source: Source, energy: float, roi: Region | None) -> str:
    """Say whether that is more than an even map would have there: a large region holds much."""
    if roi is None:
        return ""
    source.rests_on("roi", "coverage")
    if energy > sum(roi.coverage) / len(roi.coverage):
        return ", which is more than its share of the picture"
    return ", which is no more than its share of the picture: what chance would give"


def _region(explanation: Explanation, place: int) -> Iterator[Sentence]:
    finding = explanation.findings[place]
    if finding.region_drop is None:
        return
    source = Source(explanation)
    drop = figure(source.number("findings", place, "region_drop"))
    name = spoken_name(source.text("findings", place, "name"))
    text = f"Filling in the map's strongest region takes {drop} off the logit of {name}"
    if finding.elsewhere_drop is not None:
        elsewhere = figure(source.number("findings", place, "elsewhere_drop"))
        text += f"; filling in as much elsewhere takes off {elsewhere}"
    yield source.says("trust", f"{text}.")


def _stability(explanation: Explanation, place: int) -> Sentence:
    source = Source(explanation)
    path = ("findings", place, "methods", 0, "stability")
    changes = [("noise", "noise"), ("brightness", "brightness"), ("shift", "a small shift")]
    measured = explanation.findings[place].methods[0].stability
    if measured is not None and measured.flip is not None:
        changes.append(("flip", "mirroring"))
    said = [f"{figure(source.number(*path, key))} under {words}" for key, words in changes]
    name = spoken_name(source.text("findings", place, "name"))
    return source.says(
        "trust",
        f"The map for {name} keeps a structural similarity of {listed(said)}, where one means "
        "unchanged; a map of a few small spots keeps a high one in any case.",
    )


def _others(explanation: Explanation, place: int) -> Iterator[Sentence]:
    """Say how far other methods agree, and which gave nothing."""
    methods = explanation.findings[place].methods
    source = Source(explanation)
    said = []
    for number, method in enumerate(methods):
        if number == 0 or method.agreement is None:
            continue
        agreement = figure(source.number("findings", place, "methods", number, "agreement"))
        said.append(f"{source.text('findings', place, 'methods', number, 'name')} {agreement}")
    if said:
        name = spoken_name(source.text("findings", place, "name"))
        yield source.says(
            "trust",
            f"Rank correlation of other methods with the map for {name}: {listed(said)}, where one "
            "is the same order and nought is chance.",
        )
    for number, method in enumerate(methods):
        if method.failure:
            failed = Source(explanation)
            name = failed.text("findings", place, "methods", number, "name")
            why = failed.text("findings", place, "methods", number, "failure")
            yield failed.says("trust", f"The method {name} gave no map: {why}")
