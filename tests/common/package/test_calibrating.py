"""From responses to certainty: fitted on one part, judged on another, and silent where it must."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import spearmanr

from common.metrics.conformal import coverage_floor
from common.metrics.novelty import FEWEST_PATIENTS
from common.package.answers import nonconformities, questions, right_answers
from common.package.calibrating import calibrate
from common.package.familiarity import Novelty, learn_novelty
from common.package.known import NotKnown
from common.package.prediction_sets import measured_coverage, prediction_sets
from common.package.promise import promise
from common.package.responses import Responses
from common.package.schema import Calibration, Conformal
from common.package.sign_association import concept_association
from common.tasks import Task

MakeResponses = Callable[..., Responses]
TASKS = ("chestx", "retina", "pathoscan")


def sets_of(calibration: Responses, gate: Responses, task: Task) -> Conformal:
    found = prediction_sets(calibration, gate, task=task, coverage=0.9, seed=1)
    assert isinstance(found, Conformal), found.why
    return found


@pytest.mark.parametrize("name", TASKS)
def test_a_model_that_is_too_sure_is_cooled_and_judged_on_other_pictures(
    tasks: Mapping[str, Task], make_responses: MakeResponses, name: str
) -> None:
    task = tasks[name]
    calibration = make_responses(task, pictures=1500, seed=1, too_sure_by=2.0)
    gate = make_responses(task, pictures=1500, seed=2, too_sure_by=2.0)
    found = calibrate(calibration, gate, task=task, coverage=0.9, seed=1)
    assert isinstance(found, Calibration)
    assert found.temperature == pytest.approx(2.0, rel=0.15)
    assert (found.pictures, found.patients, found.gate_pictures) == (1500, 1500, 1500)
    assert found.error_before is not None
    assert found.error_after is not None
    assert found.error_after < found.error_before / 2
    assert found.note == ""
    # The gate's answers turned round: the error says so, the temperature does not know of it.
    spoilt = replace(gate, targets=gate.targets.max() - gate.targets)
    judged = calibrate(calibration, spoilt, task=task, coverage=0.9, seed=1)
    assert isinstance(judged, Calibration)
    assert judged.temperature == found.temperature
    assert judged.error_after is not None
    assert judged.error_after > 0.2


@pytest.mark.parametrize("name", TASKS)
def test_sets_cover_each_answer_of_new_patients_as_asked(
    tasks: Mapping[str, Task], make_responses: MakeResponses, name: str
) -> None:
    task = tasks[name]
    gate = make_responses(task, pictures=3000, seed=12)
    found = sets_of(make_responses(task, pictures=3000, seed=11), gate, task)
    assert found.is_per_answer
    assert set(found.thresholds) == {key for q in questions(task) for key in q.keys}
    assert found.measured_pictures == {
        key: int((right_answers(gate.targets, n) == answer).sum())
        for n, question in enumerate(questions(task))
        for answer, key in enumerate(question.keys)
    }
    for key, covered in found.measured_coverage.items():
        # Two binomials of at least 200 pictures each: four standard errors.
        assert covered > 0.9 - 4 * np.sqrt(0.09 * 2 / min(found.pictures[key], 1500)), key


def test_the_sets_of_findings_do_not_depend_on_the_temperature(
    tasks: Mapping[str, Task], make_responses: MakeResponses
) -> None:
    """It was fitted on the same pictures: what depends on it is not promised anything."""
    task = tasks["chestx"]
    first = make_responses(task, pictures=200, seed=1)
    doubled = replace(first, class_logits=2 * first.class_logits)
    for question in range(2):
        once, twice = (
            nonconformities(responses.class_logits, task=task)[question]
            for responses in (first, doubled)
        )
        assert np.array_equal(np.argsort(once[:, 0]), np.argsort(twice[:, 0]))


def test_one_rare_grade_makes_all_grades_share_a_threshold(
    tasks: Mapping[str, Task], make_responses: MakeResponses
) -> None:
    task = tasks["retina"]
    responses = make_responses(task, pictures=60, seed=3)
    kept = np.flatnonzero((responses.targets[:, 0] != 4) | (np.arange(60) < 3))
    rare = Responses(**{name: values[kept] for name, values in vars(responses).items()})
    found = sets_of(rare, make_responses(task, pictures=0, seed=4), task)
    assert not found.is_per_answer
    assert len(set(found.thresholds.values())) == 1
    assert set(found.pictures.values()) == {len(rare)}
    right = nonconformities(rare.class_logits, task=task)[0][
        np.arange(len(rare)), rare.targets[:, 0].astype(int)
    ]
    rank = int(np.ceil((len(rare) + 1) * 0.9))
    assert set(found.thresholds.values()) == {np.sort(right)[rank - 1]}
    assert found.measured_coverage == {}
    assert "on average over all grades" in promise(found, task)


def test_a_finding_too_rare_has_no_set_and_says_why(
    tasks: Mapping[str, Task], make_responses: MakeResponses
) -> None:
    task = tasks["chestx"]
    responses = make_responses(task, pictures=60, seed=3)
    targets = responses.targets.copy()
    targets[:, 1] = 0
    targets[:5, 1] = 1
    found = sets_of(replace(responses, targets=targets), responses, task)
    assert set(found.thresholds) == {"Effusion: absent", "Effusion: present"}
    assert found.left_out == {
        "Mass": "The calibration part has 5 patients with the answer Mass: present; a coverage of "
        "0.9 needs 9."
    }
    assert set(found.measured_coverage) == set(found.thresholds)


def test_pictures_of_one_patient_count_once(
    tasks: Mapping[str, Task], make_responses: MakeResponses
) -> None:
    task = tasks["pathoscan"]
    responses = make_responses(task, pictures=400, seed=3, pictures_per_patient=10)
    found = sets_of(responses, responses, task)
    patients = [
        len(np.unique(responses.patients[responses.targets[:, 0] == answer])) for answer in (0, 1)
    ]
    assert list(found.pictures.values()) == patients
    again = prediction_sets(responses, responses, task=task, coverage=0.9, seed=1)
    assert again == found
    assert prediction_sets(responses, responses, task=task, coverage=0.9, seed=2) != found


def test_too_few_pictures_have_a_temperature_but_no_sets(
    tasks: Mapping[str, Task], make_responses: MakeResponses
) -> None:
    task = tasks["pathoscan"]
    responses = make_responses(task, pictures=30, seed=3)
    found = calibrate(responses, responses, task=task, coverage=0.99, seed=1)
    assert isinstance(found, Calibration)
    assert found.conformal is None
    assert "a coverage of 0.99 needs 99" in found.why_not_conformal


@pytest.mark.parametrize(
    ("pictures", "words"),
    [(0, "has no calibration part"), (19, "has 19 patients, a temperature needs 20")],
)
def test_no_calibration_part_or_too_small_a_one_is_said(
    tasks: Mapping[str, Task], make_responses: MakeResponses, pictures: int, words: str
) -> None:
    task = tasks["chestx"]
    found = calibrate(
        make_responses(task, pictures=pictures, seed=1),
        make_responses(task, pictures=50, seed=2),
        task=task,
        coverage=0.9,
        seed=1,
    )
    assert isinstance(found, NotKnown)
    assert words in found.why


def test_unknown_answers_and_diverged_models_are_not_calibrated(
    tasks: Mapping[str, Task], make_responses: MakeResponses
) -> None:
    task = tasks["chestx"]
    good = make_responses(task, pictures=50, seed=1)
    unknown = replace(good, targets=np.full_like(good.targets, np.nan))
    diverged = replace(good, class_logits=np.full_like(good.class_logits, np.nan))
    for responses, words in ((unknown, "has a known answer"), (diverged, "has diverged")):
        found = calibrate(responses, good, task=task, coverage=0.9, seed=1)
        assert isinstance(found, NotKnown)
        assert words in found.why
    for gate in (unknown, diverged):
        judged = calibrate(good, gate, task=task, coverage=0.9, seed=1)
        assert isinstance(judged, Calibration)
        assert judged.error_after is None
        assert judged.conformal is not None
        assert judged.conformal.measured_coverage == {}


def test_a_temperature_that_the_pictures_do_not_settle_comes_with_a_note(
    tasks: Mapping[str, Task], make_responses: MakeResponses
) -> None:
    task = tasks["pathoscan"]
    responses = make_responses(task, pictures=40, seed=1)
    right = replace(responses, targets=(responses.logits > 0).astype(np.float32))
    found = calibrate(right, responses, task=task, coverage=0.9, seed=1)
    assert isinstance(found, Calibration)
    assert "do not settle" in found.note
    assert found.temperature == 1
    assert "left at one" in found.note
    assert found.error_after == found.error_before


def test_pictures_of_one_answer_make_nothing_surer(
    tasks: Mapping[str, Task], make_responses: MakeResponses
) -> None:
    task = tasks["chestx"]
    responses = make_responses(task, pictures=40, seed=1, shift=-8.0)
    healthy = replace(responses, targets=np.zeros_like(responses.targets))
    found = calibrate(healthy, healthy, task=task, coverage=0.9, seed=1)
    assert isinstance(found, Calibration)
    assert found.temperature == 1
    assert found.conformal is None
    assert "0 patients with the answer Effusion: present" in found.why_not_conformal


def test_answers_that_say_nothing_are_cooled_to_the_end_of_the_range(
    tasks: Mapping[str, Task], make_responses: MakeResponses
) -> None:
    task = tasks["pathoscan"]
    responses = make_responses(task, pictures=40, seed=1)
    wrong = replace(responses, targets=(responses.logits < 0).astype(np.float32))
    found = calibrate(wrong, responses, task=task, coverage=0.9, seed=1)
    assert isinstance(found, Calibration)
    assert found.temperature == pytest.approx(8)
    assert "left at one" not in found.note


def test_measured_coverage_is_a_count_by_hand(tasks: Mapping[str, Task]) -> None:
    task = tasks["pathoscan"]
    responses = Responses(
        # P(malignant) of 0.9, 0.5, 0.1, 0.1
        class_logits=np.array([[2.1972246], [0.0], [-2.1972246], [-2.1972246]], np.float32),
        logits=np.zeros((4, 1), np.float32),
        concept_logits=np.zeros((4, 0), np.float32),
        features=np.zeros((4, 2), np.float32),
        targets=np.array([[1.0], [1.0], [1.0], [0.0]], np.float32),
        patients=np.arange(4, dtype=np.int32),
    )
    found = measured_coverage(responses, {"benign": 0.05, "malignant": 0.6}, task=task)
    assert found == {"benign": (0.0, 1), "malignant": (pytest.approx(2 / 3), 3)}


def test_ordinary_pictures_are_seldom_novel_and_others_are(
    tasks: Mapping[str, Task], make_responses: MakeResponses
) -> None:
    task = tasks["retina"]
    calibration = make_responses(task, pictures=120, seed=1)
    gate = make_responses(task, pictures=400, seed=2)
    found = learn_novelty(calibration, gate, task=task, seed=1)
    assert isinstance(found, Novelty)
    assert found.limit.expected_share == pytest.approx(0.01)
    assert found.measured_share == pytest.approx(0.01, abs=0.02)
    assert (found.familiar.distance(gate.features + 6) > found.limit.value).all()
    few = make_responses(task, pictures=FEWEST_PATIENTS - 1, seed=1)
    unknown = learn_novelty(few, gate, task=task, seed=1)
    assert isinstance(unknown, NotKnown)
    assert "has 19 patients" in unknown.why


@pytest.mark.parametrize("name", TASKS)
def test_the_promise_says_what_is_not_promised(
    tasks: Mapping[str, Task], make_responses: MakeResponses, name: str
) -> None:
    task = tasks[name]
    responses = make_responses(task, pictures=600, seed=5)
    found = sets_of(responses, responses, task)
    words = promise(found, task)
    assert "90 %" in words
    assert f"{min(found.pictures.values())} calibration pictures" in words
    floor = coverage_floor(min(found.pictures.values()), coverage=0.9)
    assert f"one in twenty covers less than {int(100 * floor)} %" in words
    assert words.endswith("for another scanner, hospital or population nothing is promised.")


def test_concepts_go_with_logits_as_scipy_ranks_them(
    tasks: Mapping[str, Task], make_responses: MakeResponses
) -> None:
    task = tasks["chestx"]
    responses = make_responses(task, pictures=50, seed=1)
    concepts = np.random.default_rng(3).standard_normal((50, len(task.concepts)))
    concepts += responses.logits.sum(axis=1, keepdims=True)
    concepts[:, 1] = 0.5  # nobody has taught it
    seen = replace(responses, concept_logits=concepts.astype(np.float32))
    found = concept_association(seen, task=task)
    assert set(found) == set(task.concepts) - {task.concepts[1]}
    reference = spearmanr(seen.concept_logits[:, 0], seen.logits[:, 1]).statistic
    assert found[task.concepts[0]]["Mass"] == pytest.approx(reference)
    assert set(found[task.concepts[0]]) == {"Effusion", "Mass"}
    assert concept_association(responses, task=task) == {}
    noise = np.random.default_rng(4).standard_normal(concepts.shape).astype(np.float32)
    by_chance = concept_association(replace(seen, concept_logits=noise), task=task)
    assert sum(map(len, by_chance.values())) <= 1  # of ten
    few = make_responses(task, pictures=19, seed=1)
    assert (
        concept_association(replace(few, concept_logits=seen.concept_logits[:19]), task=task) == {}
    )
