"""What follows from written numbers follows for every reader alike."""

import numpy as np
import pytest

from common.explanation.derived import (
    answer_words,
    area,
    beaten_orders,
    class_answers,
    described,
    energy_in_region,
    follows_picture,
    grade_answers,
    is_settled,
    member,
    open_findings,
)
from common.explanation.schema import Explanation, GridMap, PredictionSet, Region, Stability
from sample import sample


def answered(explanation: Explanation, *members: str) -> str:
    """The answer where the prediction set holds these members."""
    assert explanation.prediction_set is not None
    answers = explanation.prediction_set.model_copy(update={"members": members})
    return answer_words(
        explanation.kind,
        findings=explanation.findings,
        answers=explanation.answers,
        prediction_set=answers,
        novelty=explanation.novelty,
    )


PRESENT = tuple(member(name, "present") for name in ("Effusion", "Mass", "Pneumothorax"))
ABSENT = tuple(member(name, "absent") for name in ("Effusion", "Mass", "Pneumothorax"))


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ((*PRESENT[:2], ABSENT[2]), "Effusion, Mass"),
        ((PRESENT[0], PRESENT[1], ABSENT[1], ABSENT[2]), "Effusion; not sure about Mass"),
        (PRESENT[:2], "Effusion, Mass; not sure about Pneumothorax"),  # none fits
        ((*PRESENT, *ABSENT), "not sure about Effusion or Mass or Pneumothorax"),
        # Only the less probable answer is left.
        (PRESENT, "Effusion, Mass; not sure about Pneumothorax"),
        ((PRESENT[0], *ABSENT[1:]), "Effusion; not sure about Mass"),
    ],
)
def test_findings_are_answered_by_the_prediction_set(members: tuple[str, ...], words: str) -> None:
    assert answered(sample("chestx"), *members) == words


def test_findings_that_are_improbable_and_ruled_out_are_none() -> None:
    made = sample("chestx")
    absent = tuple(one.model_copy(update={"is_called": False}) for one in made.findings)

    assert answered(made.model_copy(update={"findings": absent}), *ABSENT) == "none of its findings"


def test_of_a_rare_finding_present_alone_may_be_left_while_it_is_probably_absent() -> None:
    """Why one answer left is no answer: sets that cover each answer alike forget how rare it is."""
    rng = np.random.default_rng(0)
    sick = rng.random(20_000) < 0.08
    # Normal values one and a half deviations apart; their logit by Bayes' rule.
    logits = 1.5 * (rng.normal(size=20_000) + 1.5 * sick) - 1.5**2 / 2 + np.log(0.08 / 0.92)
    chance = 1 / (1 + np.exp(-logits))
    is_in = {
        True: 1 - chance <= np.quantile((1 - chance)[sick], 0.9),
        False: chance <= np.quantile(chance[~sick], 0.9),
    }

    only_present = is_in[True] & ~is_in[False]

    assert only_present.mean() > 0.1
    assert (chance[only_present] < 0.5).mean() > 0.75
    assert sick[only_present].mean() < 0.4


@pytest.mark.parametrize(
    ("task", "members", "settled"),
    [
        ("chestx", (*PRESENT[:2], ABSENT[2]), True),
        ("chestx", PRESENT, False),
        ("chestx", PRESENT[:2], False),
        ("chestx", (*PRESENT[:2], PRESENT[2], ABSENT[2]), False),
        ("retina", ("2 moderate",), True),
        ("retina", ("3 severe",), False),
        ("retina", (), False),
        ("retina", ("2 moderate", "3 severe"), False),
    ],
)
def test_a_question_is_settled_by_one_answer_that_is_the_more_probable_one(
    task: str, members: tuple[str, ...], settled: bool
) -> None:
    made = sample(task)

    found = is_settled(
        made.kind,
        findings=made.findings,
        answers=made.answers,
        members=members,
        questions=[finding.name for finding in made.findings],
    )

    assert found is settled
    assert ("not sure" in answered(made, *members)) is not settled


def test_a_finding_that_the_set_does_not_ask_about_is_answered_by_its_probability() -> None:
    explanation = sample("chestx")
    assert explanation.prediction_set is not None
    answers = explanation.prediction_set.model_copy(
        update={"questions": ("Pneumothorax",), "members": (ABSENT[2],)}
    )

    assert open_findings(explanation.findings, answers) == ()
    assert (
        answer_words(
            "multi-label",
            findings=explanation.findings,
            answers={},
            prediction_set=answers,
            novelty=None,
        )
        == "Effusion, Mass"
    )


@pytest.mark.parametrize(
    ("members", "words"),
    [
        (("2 moderate",), "2 moderate"),
        (("3 severe",), "not sure"),  # the other is more probable
        ((), "not sure"),
        (("2 moderate", "3 severe"), "not sure"),
    ],
)
def test_a_grade_is_answered_where_one_is_left(members: tuple[str, ...], words: str) -> None:
    assert answered(sample("retina"), *members) == words


def test_a_novel_picture_has_no_answer() -> None:
    assert answered(sample("pathoscan", is_novel=True), "malignant") == "unlike what it knows"


def test_without_a_set_the_more_probable_answer_is_given() -> None:
    assert sample("retina", is_calibrated=False).answer == "2 moderate"
    assert sample("chestx", is_calibrated=False).answer == "Effusion, Mass"


def test_grades_are_the_differences_of_at_least() -> None:
    grades = grade_answers(("0", "1", "2"), [0.7, 0.25])

    assert grades == {"0": 0.3, "1": 0.45, "2": 0.25}
    assert class_answers(("benign", "malignant"), 0.9) == {"benign": 0.1, "malignant": 0.9}


def test_called_and_open_findings_are_described_most_probable_first() -> None:
    explanation = sample("chestx")

    assert described("multi-label", explanation.findings, None) == (0, 1)
    nothing = [finding.model_copy(update={"is_called": False}) for finding in explanation.findings]
    assert described("multi-label", nothing, None) == (0,)
    left_open = PredictionSet(
        members=ABSENT[:2],
        questions=("Effusion", "Mass", "Pneumothorax"),
        coverage=0.9,
        calibration_pictures=9,
        is_sure=False,
        promise="",
        left_out={},
    )
    assert described("multi-label", nothing, left_open) == (2,)


def test_of_grades_the_highest_called_stands_for_all() -> None:
    assert described("ordinal", sample("retina").findings, None) == (1,)


def test_a_finding_of_which_only_the_less_probable_answer_is_left_is_described() -> None:
    made = sample("chestx")
    assert made.prediction_set is not None
    answers = made.prediction_set.model_copy(update={"members": (*ABSENT[:2], PRESENT[2])})
    calm = [one.model_copy(update={"is_called": False}) for one in made.findings]

    assert described("multi-label", calm, answers) == (2,)


def test_areas_are_trapezoids() -> None:
    shares, curve = [0.0, 0.1, 0.4, 1.0], [0.9, 0.5, 0.4, 0.0]

    assert area(shares, curve) == pytest.approx(float(np.trapezoid(curve, shares)))
    with pytest.raises(ValueError, match="zip"):
        area(shares, curve[:-1])


@pytest.mark.parametrize(
    ("deletion", "insertion", "beaten"),
    [
        ((0.9, 0.1), (0.1, 0.9), 0),  # areas .5 and .5: as a random order
        ((0.9, 0.0), (0.2, 0.9), 2),  # .45 and .55
        ((0.5, 0.1), (0.5, 0.9), 4),  # .3 and .7: all lie between
        ((0.5, 0.1), (0.1, 0.9), 2),  # .3 and .5: by deletion all, by insertion two
        ((0.9, 0.5), (0.1, 0.3), 0),
    ],
)
def test_a_map_beats_a_random_order_only_by_both_curves(
    deletion: tuple[float, float], insertion: tuple[float, float], beaten: int
) -> None:
    areas = (0.4, 0.48, 0.52, 0.6)

    assert beaten_orders((0.0, 1.0), deletion, insertion, areas) == beaten


@pytest.mark.parametrize(
    ("others", "flip", "follows"),
    [
        ((0.3, 0.6), 0.9, True),
        ((0.3, 0.8), 0.9, False),  # as like another picture's as itself after a shift
        ((0.3, 0.6), 0.5, False),
        ((0.3, 0.6), None, True),
        ((), 0.9, None),
    ],
)
def test_a_map_follows_its_picture_if_no_other_pictures_map_is_as_alike(
    others: tuple[float, ...], flip: float | None, follows: bool | None
) -> None:
    measured = Stability(
        noise=0.9, brightness=0.95, shift=0.8, flip=flip, other_pictures=others, others="others"
    )

    assert follows_picture(measured) is follows


def test_energy_in_a_region_counts_positive_evidence_by_covered_area() -> None:
    values = GridMap(rows=2, columns=2, unit="logits", values=(3.0, 1.0, -5.0, 0.0))
    # The left half, on a finer grid; of the second column's cells a quarter.
    region = Region(rows=1, columns=4, coverage=(1.0, 1.0, 0.5, 0.0))

    assert energy_in_region(values, region) == pytest.approx((3 + 0.25) / 4)
    nothing = GridMap(rows=1, columns=1, unit="logits", values=(-1.0,))
    assert energy_in_region(nothing, region) is None
