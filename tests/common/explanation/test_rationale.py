"""No sentence states what the document does not hold, and each follows the values that it names."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import JsonValue

from common.explanation.anatomy import PADDING
from common.explanation.confidence_words import percent_words
from common.explanation.derived import spoken_name
from common.explanation.figures import figure
from common.explanation.pointer import resolve
from common.explanation.rationale import rationale
from common.explanation.schema import Explanation, Sentence
from common.explanation.task_words import DISCLAIMER, TASK_WORDS, WHEN_NOT_SURE, WHEN_NOVEL
from sample import sample

NUMBER = re.compile(r"\d+(?:\.\d+)?")
TASKS = ("chestx", "retina", "pathoscan")


def explanation_of(seed: int) -> Explanation:
    """A sample whose every number and fact is redrawn and whose parts may be missing."""
    rng = np.random.default_rng(seed)

    def coin() -> bool:
        return bool(rng.integers(2))

    made = sample(
        TASKS[seed % 3],
        is_novel=coin(),
        is_calibrated=coin(),
        has_methods=coin(),
        has_concepts=coin(),
        has_roi=coin(),
    )
    document = made.model_dump(mode="json")
    for finding in document["findings"]:
        if coin():
            finding["where"] = None
        own = finding["methods"][0]
        for part in ("faithfulness", "stability"):
            if coin():
                own[part] = None
        for concept in finding["concepts"]:
            concept["stance"] = ("supports", "against", "neither", "unknown")[rng.integers(4)]
    if document["prediction_set"] is not None:
        members = document["prediction_set"]["members"]
        document["prediction_set"]["members"] = [one for one in members if coin()]
    if coin():
        document["novelty"] = None
    _redraw(document, rng)
    return Explanation.model_validate(document)


def _redraw(value: Any, rng: np.random.Generator) -> None:  # noqa: ANN401 - any part
    """Give every float of a document a new value between 0 and 1, and draw its facts."""
    for key, part in list(value.items() if isinstance(value, dict) else enumerate(value)):
        if key in ("map", "roi", "temperature"):
            continue
        if isinstance(part, dict | list):
            _redraw(part, rng)
        elif isinstance(part, bool):
            value[key] = bool(rng.integers(2))
        elif isinstance(part, float):
            # Small and large shares are worded in a way of their own.
            value[key] = round(float(rng.beta(0.4, 0.4)), 6)


def stated_by(document: JsonValue, sentence: Sentence) -> tuple[set[str], list[str]]:
    """The numbers and the words that a sentence may hold because of the values it names."""
    numbers: set[str] = set()
    words: list[str] = []
    for path in sentence.uses:
        words.append(path.rpartition("/")[2].replace("~1", "/").replace("~0", "~"))
        for leaf in leaves(resolve(document, path)):
            if isinstance(leaf, str):
                words += [leaf, spoken_name(leaf)]
            elif isinstance(leaf, int | float) and not isinstance(leaf, bool):
                numbers |= set(NUMBER.findall(figure(leaf)))
                numbers |= set(NUMBER.findall(percent_words(leaf))) if 0 <= leaf <= 1 else set()
    numbers |= {found for word in words for found in NUMBER.findall(word)}
    return numbers, words


def leaves(value: JsonValue) -> Iterator[JsonValue]:
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield key
            yield from leaves(part)
    elif isinstance(value, list):
        for part in value:
            yield from leaves(part)
    else:
        yield value


def names_in(explanation: Explanation) -> set[str]:
    """Every name that a sentence might mention: findings, concepts, methods, places, answers."""
    names = set(explanation.answers)
    for finding in explanation.findings:
        names |= {spoken_name(finding.name)}
        names |= {spoken_name(concept.name) for concept in finding.concepts}
        names |= {method.name for method in finding.methods[1:]}
        names |= set(finding.where.regions) if finding.where else set()
    return names


few = settings(max_examples=60, deadline=None, derandomize=True)
seeds = st.integers(0, 2**32 - 1)


@few
@given(seeds)
def test_every_number_and_name_of_a_sentence_is_a_value_that_it_names(seed: int) -> None:
    explanation = explanation_of(seed)
    document = explanation.model_dump(mode="json")
    names = names_in(explanation)

    for sentence in rationale(explanation):
        numbers, words = stated_by(document, sentence)
        assert set(NUMBER.findall(sentence.text)) <= numbers, sentence
        for name in names:
            if re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", sentence.text):
                assert any(name in word for word in words), (name, sentence)


@few
@given(seeds)
def test_a_rationale_speaks_of_everything_it_must_and_ends_with_who_decides(seed: int) -> None:
    sentences = rationale(explanation_of(seed))

    spoken = [sentence.about for sentence in sentences]
    assert spoken[0] == "finding"
    assert {"confidence", "where", "concepts", "trust", "novelty", "limits", "next"} <= set(spoken)
    assert sentences[-1].about == "disclaimer"
    assert sentences[-1].text == DISCLAIMER
    assert len({sentence.text for sentence in sentences}) == len(sentences)
    for sentence in sentences:
        assert sentence.text[0].isupper()
        assert sentence.uses or sentence.about == "disclaimer"


# The largest of many is stated; the others only decide that it is.
ONLY_COMPARED = re.compile("Of the findings not described here")


@pytest.mark.parametrize("task", TASKS)
def test_changing_a_value_that_a_sentence_names_changes_the_sentence(task: str) -> None:
    explanation = sample(task)
    document = explanation.model_dump(mode="json")
    changed = 0
    for sentence in explanation.rationale:
        for path in sentence.uses:
            value = resolve(document, path)
            if isinstance(value, dict | list) or ONLY_COMPARED.match(sentence.text):
                continue
            if task == "retina" and path.endswith("/is_called"):
                continue  # the next lower grade, on the same map, then speaks instead
            texts = {one.text for one in rationale(with_value(document, path, other(value)))}
            assert sentence.text not in texts, (path, value, sentence.text)
            changed += 1
    assert changed > 20


def other(value: JsonValue) -> JsonValue:
    """A valid value that reads differently."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        stances = ("supports", "against", "neither", "unknown")
        return "unknown" if value in stances else "zebra"
    if isinstance(value, float):
        return 0.37 if abs(value - 0.37) > 0.1 else 0.81
    return None


def with_value(document: Any, path: str, value: JsonValue) -> Explanation:  # noqa: ANN401
    """The document with one value in another's place."""
    *parts, last = path.split("/")[1:]

    def copied(part: Any, keys: list[str]) -> Any:  # noqa: ANN401
        if not keys:
            return value
        fresh = dict(part) if isinstance(part, dict) else list(part)
        key: Any = keys[0].replace("~1", "/") if isinstance(part, dict) else int(keys[0])
        fresh[key] = copied(part[key], keys[1:])
        return fresh

    return Explanation.model_validate(copied(document, [*parts, last]))


def texts(explanation: Explanation) -> str:
    return " ".join(sentence.text for sentence in rationale(explanation))


def test_a_novel_picture_is_said_to_be_unlike_and_its_answer_not_to_be_relied_on() -> None:
    said = texts(sample("pathoscan", is_novel=True))

    assert "unlike what it knows; its answers should not be relied on" in said
    assert WHEN_NOVEL in said


def test_an_open_answer_is_said_to_be_open() -> None:
    said = texts(sample("retina"))

    assert "the model is not sure" in said
    assert "2 moderate and 3 severe cannot be ruled out" in said
    assert WHEN_NOT_SURE in said


def test_what_was_not_measured_is_said_not_to_be_known() -> None:
    whole = sample("chestx", has_methods=False, has_concepts=False, is_calibrated=False)
    bare = [
        finding.model_copy(
            update={
                "methods": (
                    finding.methods[0].model_copy(
                        update={"faithfulness": None, "stability": None, "energy_in_roi": None}
                    ),
                )
            }
        )
        for finding in whole.findings
    ]
    said = texts(whole.model_copy(update={"findings": tuple(bare), "novelty": None}))

    assert "How faithful the map for Effusion is was not measured." in said
    assert "How stable the map for Effusion is was not measured." in said
    assert "No signs are known that could explain Effusion in words." in said
    assert "this is not calibrated" in said
    assert "Whether this picture is unlike those it knows is not known." in said
    assert "expert" not in said


def test_the_samples_own_rationale_is_the_one_that_follows_from_it() -> None:
    for task in TASKS:
        assert sample(task).rationale == rationale(sample(task))


def test_a_novel_picture_s_probability_is_no_chance() -> None:
    said = texts(sample("pathoscan", is_novel=True))

    assert "calibrated on pictures unlike this one" in said
    assert "by its calibrated probability" not in said
    assert "by its calibrated probability" in texts(sample("pathoscan"))


def test_what_is_not_calibrated_is_not_worded_as_a_likelihood() -> None:
    said = texts(sample("pathoscan", is_calibrated=False))

    assert "this is not calibrated" in said
    assert "likely" not in said
    assert "opacity (83 %, not calibrated;" in texts(sample("chestx"))


@pytest.mark.parametrize(
    ("task", "members", "words"),
    [
        (
            "chestx",
            ["Effusion: absent", "Mass: present", "Pneumothorax: absent"],
            "only absent is left, yet present is more probable, so that it is not settled",
        ),
        ("retina", ["3 severe"], "only 3 severe is left, yet 2 moderate is more probable"),
    ],
)
def test_an_answer_left_against_the_probability_is_said_to_be_unsettled(
    task: str, members: list[str], words: str
) -> None:
    made = sample(task)
    assert made.prediction_set is not None
    assert "more probable, so that" not in texts(made)

    assert words in texts(with_members(made, *members))


def with_members(made: Explanation, *members: str) -> Explanation:
    assert made.prediction_set is not None
    answers = made.prediction_set.model_copy(update={"members": members})
    return made.model_copy(update={"prediction_set": answers})


@pytest.mark.parametrize(
    ("covered", "words"), [(0.4, "more than its share"), (0.7, "no more than its share")]
)
def test_evidence_in_an_expert_s_region_is_held_against_its_area(
    covered: float, words: str
) -> None:
    made = sample("chestx")  # .61 of the evidence lies there
    assert made.roi is not None
    even = tuple(covered for _ in made.roi.coverage)
    said = texts(made.model_copy(update={"roi": made.roi.model_copy(update={"coverage": even})}))

    assert f"which is {words} of the picture" in said


def with_first(made: Explanation, **values: object) -> Explanation:
    """The sample with something else known of its first finding."""
    first, *others = made.findings
    return made.model_copy(update={"findings": (first.model_copy(update=values), *others)})


def test_a_finding_that_no_place_carries_still_tells_of_its_context() -> None:
    said = texts(with_first(sample("chestx"), where=None, context_share=0.9))

    assert "No place of the picture speaks for Effusion." in said
    assert "Of what decides on Effusion 90 % is context" in said


def test_nobody_is_sent_to_look_at_the_padding() -> None:
    made = sample("chestx")
    where = made.findings[0].where
    assert where is not None
    assert "Look at the right lower zone" in texts(made)

    off = where.model_copy(update={"words": PADDING, "regions": {PADDING: 1.0}})
    said = texts(with_first(made, where=off))

    assert f"Look at the {PADDING}" not in said
    assert TASK_WORDS["chestx"].when_called_nowhere in said
    assert PADDING in said
