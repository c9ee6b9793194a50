"""What follows from an explanation's written numbers: answers, what is left open, areas.

Pure: a page, a sentence and a reader derive the same from the same file.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from common.explanation.schema import (
    Finding,
    GridMap,
    Novelty,
    PredictionSet,
    Region,
    Stability,
)
from common.explanation.written import written
from common.metrics.geometry import area_means
from common.tasks import TargetKind

PRESENT, ABSENT = "present", "absent"
NOT_SURE = "not sure"
UNLIKE = "unlike what it knows"
NONE_FOUND = "none of its findings"
MOST_SPOKEN = 3  # findings that the rationale describes one by one


def member(finding: str, word: str) -> str:
    """Return how a prediction set names one answer to one finding, e.g. ``Mass: absent``."""
    return f"{finding}: {word}"


def answers_left(finding: str, answers: PredictionSet) -> tuple[str, ...]:
    """Return which of ``present`` and ``absent`` a multi-label set leaves for a finding."""
    return tuple(word for word in (PRESENT, ABSENT) if member(finding, word) in answers.members)


def open_findings(findings: Sequence[Finding], answers: PredictionSet | None) -> tuple[str, ...]:
    """Return the findings that the set leaves open; () without a set.

    It leaves both answers or none, or only the less probable one: sets cover each answer alike
    however rare it is, so that "present" alone may be left of a rare finding that is probably
    absent. To call it there would be wrong more often than not.
    """
    if answers is None:
        return ()
    asked = set(answers.questions)
    return tuple(
        finding.name
        for finding in findings
        if finding.name in asked
        and answers_left(finding.name, answers) != (PRESENT if finding.is_called else ABSENT,)
    )


def is_settled(
    kind: TargetKind,
    *,
    findings: Sequence[Finding],
    answers: Mapping[str, float],
    members: Sequence[str],
    questions: Sequence[str],
) -> bool:
    """Say whether a set leaves one answer to every question, and each is the more probable one.

    Args:
        kind: Of the task.
        findings: All of them.
        answers: Probability of each answer where they exclude each other.
        members: Of the prediction set.
        questions: That the set is about.
    """
    if kind != "multi-label":
        return tuple(members) == (most_probable(answers),)
    wanted = {
        member(finding.name, PRESENT if finding.is_called else ABSENT)
        for finding in findings
        if finding.name in questions
    }
    return len(members) == len(wanted) and set(members) == wanted


def grade_answers(labels: Sequence[str], at_least: Sequence[float]) -> dict[str, float]:
    """Return the probability of each grade from P(grade ≥ k) for k = 1.., which falls with k."""
    edges = (1.0, *at_least, 0.0)
    return {
        label: written(max(0.0, edges[grade] - edges[grade + 1]))
        for grade, label in enumerate(labels)
    }


def class_answers(labels: Sequence[str], positive: float) -> dict[str, float]:
    """Return the probability of the negative and the positive class."""
    return {labels[0]: written(1 - positive), labels[1]: positive}


def most_probable(answers: Mapping[str, float]) -> str:
    """Return the most probable answer, the first of equals."""
    return max(answers, key=lambda name: answers[name])


def answer_words(
    kind: TargetKind,
    *,
    findings: Sequence[Finding],
    answers: Mapping[str, float],
    prediction_set: PredictionSet | None,
    novelty: Novelty | None,
) -> str:
    """Return the answer in a few words.

    A novel picture has none. Where there is a prediction set it decides: one answer left is the
    answer, if it is the more probable one as well; else it is "not sure". Without one the more
    probable answer is given, and so is it for a finding that the set does not ask about: it is
    there when it is called, by a probability (calibrated where the task is) of at least one half.
    """
    if novelty is not None and novelty.is_novel:
        return UNLIKE
    if kind != "multi-label":
        if prediction_set is None:
            return most_probable(answers)
        best = most_probable(answers)
        return best if prediction_set.members == (best,) else NOT_SURE
    left_open = open_findings(findings, prediction_set)
    there = [one.name for one in findings if one.is_called and one.name not in left_open]
    words = ", ".join(map(spoken_name, there))
    if not left_open:
        return words or NONE_FOUND
    if len(left_open) > MOST_SPOKEN:
        doubt = f"{NOT_SURE} about {len(left_open)} findings"
    else:
        doubt = f"{NOT_SURE} about {' or '.join(map(spoken_name, left_open))}"
    return f"{words}; {doubt}" if words else doubt


def described(
    kind: TargetKind, findings: Sequence[Finding], prediction_set: PredictionSet | None
) -> tuple[int, ...]:
    """Return places of the findings to describe: called or left open, else the most probable.

    Grades share one map: the highest grade that is called stands for all, or the lowest. Of many
    findings the most probable come first and at most ``MOST_SPOKEN`` are taken.
    """
    if kind != "multi-label":
        called = [place for place, finding in enumerate(findings) if finding.is_called]
        return (called[-1] if called else 0,)
    left_open = open_findings(findings, prediction_set)
    places = sorted(range(len(findings)), key=lambda place: -findings[place].probability)
    chosen = [
        place for place in places if findings[place].is_called or findings[place].name in left_open
    ]
    return tuple(chosen[:MOST_SPOKEN] or places[:1])


def energy_in_region(values: GridMap, region: Region) -> float | None:
    """Return the share of a map's positive part that lies in a region, None without any.

    The region is brought to the map's grid by area.
    """
    positive = np.maximum(np.array(values.values).reshape(values.rows, values.columns), 0)
    if not positive.sum() > 0:
        return None
    coverage = np.array(region.coverage).reshape(region.rows, region.columns)
    inside = positive * area_means(coverage, values.rows, values.columns)
    return written(min(1.0, float(inside.sum() / positive.sum())))


def area(shares: Sequence[float], curve: Sequence[float]) -> float:
    """Return the area under a curve by trapezoids.

    Raises ValueError when the two are not equally long.
    """
    points = list(zip(shares, curve, strict=True))
    return sum((right - left) * (high + low) / 2 for (left, low), (right, high) in pairwise(points))


def beaten_orders(
    shares: Sequence[float],
    deletion: Sequence[float],
    insertion: Sequence[float],
    random_areas: Sequence[float],
) -> int:
    """Return how many random orders a map beats, by deletion and by insertion.

    A random order has one area for both, see ``Faithfulness``. Each of ten was beaten by none of 72
    maps of noise and by 6 of 72 smooth hills at random places, on a small trained network.

    Areas are compared as they are written: a flat map, which follows one of the orders, is not
    better than that one by rounding.

    Raises ValueError when shares and curves are not equally long.
    """
    least, most = written(area(shares, deletion)), written(area(shares, insertion))
    return sum(least < by_chance < most for by_chance in random_areas)


def follows_picture(measured: Stability) -> bool | None:
    """Say whether a map stays more alike under every small change than other pictures' maps are.

    None where there is no other picture to tell.
    """
    if not measured.other_pictures:
        return None
    changes = (measured.noise, measured.brightness, measured.shift, measured.flip)
    return min(one for one in changes if one is not None) > max(measured.other_pictures)


def spoken_name(name: str) -> str:
    """Return a finding, concept or method as a sentence names it: ``grade 2 or worse``."""
    if name.startswith("grade>="):
        return f"grade {name.removeprefix('grade>=')} or worse"
    return name.replace("_", " ")
