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
        for method in finding["methods"]:
            if method["faithfulness"] is not None:
                method["faithfulness"]["beaten_orders"] = int(rng.integers(9))
            if method["stability"] is not None and coin():
                method["stability"]["other_pictures"] = []
            if coin():
                method["unmeasured"] = "Zebras broke down."
        for concept in finding["concepts"]:
            concept["stance"] = ("supports", "against", "neither", "unknown")[rng.integers(4)]
    if document["prediction_set"] is not None:
        members = document["prediction_set"]["members"]
        document["prediction_set"]["members"] = [one for one in members if coin()]
        asked = document["prediction_set"]["questions"]
        if coin() and len(asked) > 1:
            document["prediction_set"]["left_out"] = {asked.pop(): "It has 3 patients of 9."}
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
        value = resolve(document, path)
        numbers |= {str(len(value))} if isinstance(value, list) else set()  # how many there are
        for leaf in leaves(value):
            if isinstance(leaf, str):
                words += [leaf, spoken_name(leaf)]
            elif isinstance(leaf, int | float) and not isinstance(leaf, bool):
                numbers |= {str(leaf)} if isinstance(leaf, int) else set()
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
    if isinstance(value, int):
        return value + 1 if value < 4 else value - 4
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


def with_own(made: Explanation, **parts: object) -> Explanation:
    """The sample with something else known of its first finding's own map."""
    own, *others = made.findings[0].methods
    return with_first(made, methods=(own.model_copy(update=parts), *others))


@pytest.mark.parametrize(
    ("beaten", "words"),
    [
        (8, "more faithful than each of 8 random orders; a map of noise is so in at most one"),
        (7, "more faithful than 7 of 8 random orders only, which a map of noise may well be"),
        (5, "more faithful than 5 of 8 random orders only"),
        (4, "no better than chance: more faithful than 4 of 8 random orders"),
        (0, "no better than chance: more faithful than 0 of 8 random orders"),
    ],
)
def test_the_word_for_faithfulness_rests_on_the_random_orders_that_were_beaten(
    beaten: int, words: str
) -> None:
    made = sample("pathoscan")
    measured = made.findings[0].methods[0].faithfulness
    assert measured is not None

    said = texts(with_own(made, faithfulness=measured.model_copy(update={"beaten_orders": beaten})))

    assert f"the map for malignant is {words}" in said
    assert said.count("more faithful than") == 1


@pytest.mark.parametrize(
    ("others", "words"),
    [
        (
            (0.44, 0.31),
            "With the maps of other pictures (2) the similarity is 0.31 to 0.44: it follows its",
        ),
        ((0.44,), "the similarity is 0.44: it follows its own picture."),
        (
            (0.44, 0.83),
            "the similarity is 0.44 to 0.83: a map of quite another picture is as like it",
        ),
        ((), "What that is worth is not known: other pictures,"),
    ],
)
def test_stability_is_held_against_the_maps_of_other_pictures(
    others: tuple[float, ...], words: str
) -> None:
    made = sample("chestx")  # .83 under a small shift
    measured = made.findings[0].methods[0].stability
    assert measured is not None

    said = texts(with_own(made, stability=measured.model_copy(update={"other_pictures": others})))

    assert words in said


def test_parts_that_do_not_add_up_are_said_beside_the_others() -> None:
    made = sample("pathoscan")
    assert "The map by deep-lift for malignant is approximate for this picture: its parts" in texts(
        made
    )
    *others, lift = made.findings[0].methods
    assert lift.completeness is not None
    small = lift.completeness.model_copy(update={"gap": 0.04})
    kept = (*others, lift.model_copy(update={"completeness": small}))

    assert "approximate for this picture" not in texts(with_first(made, methods=kept))


def test_what_the_calibration_rests_on_and_its_note_are_said() -> None:
    made = sample("chestx")
    assert made.calibrated_on is not None
    said = texts(made)
    assert "calibrated on 160 pictures of 80 patients; on 64 others they lay 0.03 off" in said
    assert made.calibrated_on.note in said

    bare = made.calibrated_on.model_copy(update={"error": None, "note": ""})
    said = texts(made.model_copy(update={"calibrated_on": bare}))
    assert "calibrated on 160 pictures of 80 patients." in said
    assert made.calibrated_on.note not in said

    without = sample("chestx", is_calibrated=False)
    assert f"not calibrated. {without.why_not_calibrated}" in texts(without)


def test_why_there_is_no_set_is_said() -> None:
    made = sample("chestx").model_copy(
        update={"prediction_set": None, "why_no_set": "Mass: 4 patients, 9 are needed."}
    )
    assert "There is no prediction set. Mass: 4 patients, 9 are needed." in texts(made)

    whole = sample("chestx")
    assert whole.prediction_set is not None
    part = whole.prediction_set.model_copy(
        update={"questions": ("Mass",), "left_out": {"Effusion": "It has 4 patients."}}
    )
    said = texts(whole.model_copy(update={"prediction_set": part}))
    assert "how far an answer to Effusion is covered. It has 4 patients." in said


def test_a_finding_that_no_place_carries_still_tells_of_its_context() -> None:
    said = texts(with_first(sample("chestx"), where=None, context_share=0.9))

    assert "No place of the picture speaks for Effusion." in said
    assert "Of what decides on Effusion 90 % is context" in said


def test_a_reader_is_sent_to_every_place_that_holds_a_fifth_of_the_evidence() -> None:
    made = sample("chestx")
    where = made.findings[0].where
    assert where is not None
    shares = {"left mid zone": 0.4, "right mid zone": 0.35, PADDING: 0.2, "left upper zone": 0.05}

    said = texts(with_first(made, where=where.model_copy(update={"regions": shares})))

    assert "Look at the left mid zone and right mid zone at full resolution" in said


@pytest.mark.parametrize("task", TASKS)
def test_where_the_model_is_not_sure_nobody_is_sent_away_on_its_word(task: str) -> None:
    made = sample(task)
    findings = tuple(one.model_copy(update={"is_called": False}) for one in made.findings)
    open_ = made.model_copy(update={"findings": findings})
    said = " ".join(one.text for one in rationale(open_) if one.about == "next")

    assert "as usual" in said
    assert not re.search("without signs|interval|no need|not needed", said)


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
