"""Sentences on how far one explanation was measured to be trusted; only what was measured."""

from collections.abc import Iterator

from common.explanation.confidence_words import percent_words
from common.explanation.derived import follows_picture, spoken_name
from common.explanation.figures import figure, listed
from common.explanation.schema import Explanation, Region, Sentence
from common.explanation.source import Source

PAINTED = 0.2  # share of the picture at which the curves are quoted
# Completeness that a method is not said to lack, as integrated gradients are asked to keep it.
NAMED_GAP = 0.05


def trust(explanation: Explanation, place: int) -> Iterator[Sentence]:
    """Say of one finding's own map how faithful and stable it is and who agrees with it."""
    own = explanation.findings[place].methods[0]
    if own.faithfulness is None:
        source = Source(explanation).rests_on("findings", place, "methods", 0, "faithfulness")
        name = _finding_name(source, place)
        yield source.says("trust", f"How faithful the map for {name} is was not measured.")
    else:
        yield from _faithfulness(explanation, place)
    yield from _region(explanation, place)
    if own.stability is None:
        source = Source(explanation).rests_on("findings", place, "methods", 0, "stability")
        name = _finding_name(source, place)
        yield source.says("trust", f"How stable the map for {name} is was not measured.")
    else:
        yield _stability(explanation, place)
    if own.energy_in_roi is not None:
        source = Source(explanation)
        share = percent_words(source.number("findings", place, "methods", 0, "energy_in_roi"))
        name = _finding_name(source, place)
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
    name = _finding_name(source, place)
    yield source.says(
        "trust",
        f"Painting over the {share} of the picture that the map names first takes the uncalibrated "
        f"probability of {name} from {before} to {after}; painting over as much at random takes "
        f"it to {chance} on average.",
    )
    judged = Source(explanation)
    orders = len(judged.numbers(*path, "random_areas"))
    beaten = round(judged.number(*path, "beaten_orders"))
    name = _finding_name(judged, place)
    yield judged.says(
        "trust",
        f"Over deletion and insertion together the map for {name} is "
        f"{_against_chance(beaten, orders)}.",
    )


def _against_chance(beaten: int, orders: int) -> str:
    """Return what a comparison with random orders allows to be said of a map's faithfulness."""
    if beaten >= orders:
        return (
            f"more faithful than each of {orders} random orders; a map of noise is so in at most "
            f"one picture of {orders}"
        )
    if 2 * beaten > orders:
        return (
            f"more faithful than {beaten} of {orders} random orders only, which a map of noise "
            "may well be: that the answer rests on the places it shows is not clear"
        )
    return (
        f"no better than chance: more faithful than {beaten} of {orders} random orders. That the "
        "answer rests on the places it shows is not to be seen"
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
    name = _finding_name(source, place)
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
    name = _finding_name(source, place)
    text = (
        f"The map for {name} keeps a structural similarity of {listed(said)}, where one means "
        "unchanged"
    )
    others = source.numbers(*path, "other_pictures")
    whose = source.text(*path, "others")
    if measured is None or not others:
        return source.says(
            "trust",
            f"{text}. What that is worth is not known: {whose}, and a map of a few small spots "
            "keeps a high one in any case.",
        )
    least, most = figure(min(others)), figure(max(others))
    span = least if least == most else f"{least} to {most}"
    verdict = (
        "it follows its own picture"
        if follows_picture(measured)
        else "a map of quite another picture is as like it, so that this says little"
    )
    return source.says(
        "trust",
        f"{text}. With the maps of {whose} ({len(others)}) the similarity is {span}: {verdict}.",
    )


def _others(explanation: Explanation, place: int) -> Iterator[Sentence]:
    """Say how far other methods agree, what they lose, and which gave nothing."""
    methods = explanation.findings[place].methods
    source = Source(explanation)
    said = []
    for number, method in enumerate(methods):
        if number == 0 or method.agreement is None:
            continue
        agreement = figure(source.number("findings", place, "methods", number, "agreement"))
        said.append(f"{source.text('findings', place, 'methods', number, 'name')} {agreement}")
    if said:
        name = _finding_name(source, place)
        yield source.says(
            "trust",
            f"Rank correlation of other methods with the map for {name}: {listed(said)}, where one "
            "is the same order and nought is chance.",
        )
    for number, method in enumerate(methods):
        at = ("findings", place, "methods", number)
        if method.completeness is not None and method.completeness.gap > NAMED_GAP:
            yield _incomplete(Source(explanation), place, number)
        if method.failure:
            failed = Source(explanation)
            name, of = failed.text(*at, "name"), _finding_name(failed, place)
            why = failed.text(*at, "failure")
            yield failed.says("trust", f"The method {name} gave no map for {of}: {why}")
        if method.unmeasured:
            lacking = Source(explanation)
            name, of = lacking.text(*at, "name"), _finding_name(lacking, place)
            why = lacking.text(*at, "unmeasured")
            yield lacking.says(
                "trust", f"Of the map by {name} for {of} not all could be measured: {why}"
            )


def _incomplete(source: Source, place: int, number: int) -> Sentence:
    at = ("findings", place, "methods", number)
    method, name = source.text(*at, "name"), _finding_name(source, place)
    parts = figure(source.number(*at, "completeness", "parts"))
    whole = figure(source.number(*at, "completeness", "whole"))
    of = source.text(*at, "completeness", "of")
    gap = figure(source.number(*at, "completeness", "gap"))
    return source.says(
        "trust",
        f"The map by {method} for {name} is approximate for this picture: its parts add up to "
        f"{parts} logits, where {of} is {whole} (a gap of {gap}).",
    )


def _finding_name(source: Source, place: int) -> str:
    return spoken_name(source.text("findings", place, "name"))
