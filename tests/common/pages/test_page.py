"""A page says nothing that its JSON does not hold, and is whole in itself."""

import base64
import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from pydantic import JsonValue
from read_html import Html, taken_apart

from common.errors import DataError
from common.explanation.schema import Explanation, GridMap
from common.pages.answer import SETTLED
from common.pages.curves import EDGE, HEIGHT, WIDTH
from common.pages.page import write_page
from sample import picture, sample

VARIANTS = {
    "chest": {"task": "chestx"},
    "novel fundus": {"task": "retina", "is_novel": True},
    "histology": {"task": "pathoscan"},
    "not calibrated": {"task": "chestx", "is_calibrated": False},
    "no methods": {"task": "retina", "has_methods": False},
    "no signs": {"task": "pathoscan", "has_concepts": False},
    "no region": {"task": "chestx", "has_roi": False},
}


def made(folder: Path, explanation: Explanation) -> tuple[Html, JsonValue]:
    path = folder / "page.html"
    write_page(explanation, picture(explanation.task), path)
    document = json.loads((folder / "page.json").read_text(encoding="utf-8"))
    return taken_apart(path.read_text(encoding="utf-8")), document


@pytest.fixture(scope="module", params=VARIANTS.values(), ids=VARIANTS.keys())
def variant(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Html, JsonValue]:
    return made(tmp_path_factory.mktemp("page"), sample(**request.param))


def at(document: JsonValue, pointer: str) -> JsonValue:
    for part in pointer.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        document = document[int(key)] if isinstance(document, list) else document[key]
    return document


def recomputed(document: JsonValue, source: str) -> float:
    """The value of a source, by numpy and without the page's own code."""
    if "(" not in source:
        return at(document, source)
    name, inside = source.rstrip(")").split("(")
    values = [np.array(at(document, pointer), dtype=object) for pointer in inside.split(",")]
    first = values[0]
    return {
        "count": lambda: first.size,
        "mean": lambda: first.astype(float).mean(),
        "least": lambda: first.astype(float).min(),
        "most": lambda: first.astype(float).max(),
        "largest": lambda: first.astype(float).clip(min=0).max(),
        "largest_against": lambda: (-first.astype(float)).clip(min=0).max(),
        "total_for": lambda: first.astype(float).clip(min=0).sum(),
        "total_against": lambda: (-first.astype(float)).clip(min=0).sum(),
        "area": lambda: np.trapezoid(values[1].astype(float), first.astype(float)),
    }[name]()


def says(text: str, value: float) -> bool:
    """Does a shown text say this value, to the last digit that it shows?"""
    words = {
        "under 1 %": 0 <= value < 0.01,
        "over 99 %": 0.99 < value <= 1,
        "exceptionally unlikely": value < 0.01,
        "very unlikely": value < 0.1,
        "unlikely": 0.09 < value < 0.33,
        "about as likely as not": 0.32 < value < 0.67,
        "likely": 0.66 < value < 0.9,
        "very likely": value > 0.89,
        "virtually certain": value > 0.99,
    }
    if text in words:
        return bool(words[text])
    number, _, unit = text.replace("−", "-").partition(" ")
    scale = {"": 1.0, "%": 0.01, "ms": 0.001, "s": 1.0}[unit]
    digits = len(number.partition(".")[2])
    return abs(float(number) * scale - value) <= (0.5 * 10**-digits + 1e-9) * scale


def test_every_number_on_a_page_can_be_recomputed_from_the_json_beside_it(
    variant: tuple[Html, JsonValue],
) -> None:
    html, document = variant
    numbers = html.shown("data")
    assert len(numbers) > 20
    for number in numbers:
        source, value = number.attributes["data-from"], float(number.attributes["value"])
        assert value == pytest.approx(recomputed(document, source), rel=1e-9, abs=1e-12), source
        assert says(number.text, value), (source, number.text, value)


def test_what_the_json_says_of_trust_follows_from_its_own_values(
    variant: tuple[Html, JsonValue],
) -> None:
    _, document = variant
    for finding in document["findings"]:
        for method in finding["methods"]:
            if curves := method["faithfulness"]:
                areas = np.array(curves["random_areas"])
                deletion, insertion, chance = (
                    np.trapezoid(curves[name], curves["shares"])
                    for name in ("deletion", "insertion", "random_deletion")
                )
                beaten = (deletion < areas) & (areas < insertion)
                assert curves["beaten_orders"] == beaten.sum()
                assert areas.mean() == pytest.approx(chance, rel=1e-5)
                assert curves["random_insertion"] == curves["random_deletion"][::-1]
            if found := method["completeness"]:
                missing = found["parts"] + found["constants"] - found["whole"]
                gap = abs(missing) / max(abs(found["whole"]), 0.1)
                assert found["gap"] == pytest.approx(gap, rel=1e-5)


def test_no_figure_stands_on_a_page_without_its_source(variant: tuple[Html, JsonValue]) -> None:
    html, _ = variant
    assert [text for text in html.outside if re.search(r"\d", text)] == []


def test_every_text_with_a_source_is_the_text_of_its_source(
    variant: tuple[Html, JsonValue],
) -> None:
    html, document = variant
    for piece in html.shown("span") + html.shown("option"):
        if "data-from" not in piece.attributes:
            continue
        source, wording = piece.attributes["data-from"], piece.attributes["data-as"]
        text = at(document, source)
        if wording in ("plain", "sentence"):
            assert piece.text.replace("\N{NO-BREAK SPACE}", " ") == text
        elif wording == "digest":
            assert len(piece.text) == 12
            assert text.startswith(piece.text)
        else:
            letters = re.sub(r"\W", "", piece.text.lower())
            assert letters
            assert set(re.findall(r"\d+", piece.text)) <= set(re.findall(r"\d+", text))
    for piece in html.pieces:
        if "data-key-of" in piece.attributes:
            assert piece.text in at(document, piece.attributes["data-key-of"])


def test_curves_and_bars_are_drawn_where_the_json_says(variant: tuple[Html, JsonValue]) -> None:
    html, document = variant
    lines = html.shown("polyline")
    assert len(lines) >= 4
    for line in lines:
        drawn = np.array([p.split(",") for p in line.attributes["points"].split()], dtype=float)
        share = (drawn[:, 0] - EDGE) / (WIDTH - 2 * EDGE)
        value = (HEIGHT - EDGE - drawn[:, 1]) / (HEIGHT - 2 * EDGE)
        assert share == pytest.approx(np.array(at(document, line.attributes["data-x"])), abs=5e-4)
        assert value == pytest.approx(np.array(at(document, line.attributes["data-y"])), abs=1e-3)
    bars = [one for one in html.shown("rect") if "data-width" in one.attributes]
    assert len(bars) == len(document["findings"])
    for bar in bars:
        wanted = 100 * at(document, bar.attributes["data-width"])
        assert float(bar.attributes["width"]) == pytest.approx(wanted, abs=0.05)


def test_every_sentence_stands_once_and_names_what_it_rests_on(
    variant: tuple[Html, JsonValue],
) -> None:
    html, document = variant
    sources = [one.attributes.get("data-from") for one in html.shown("span")]
    pointers = [one.text for one in html.shown("code")]
    ids = {one.attributes["id"] for one in html.pieces if "id" in one.attributes}
    assert document["rationale"]
    for number, sentence in enumerate(document["rationale"]):
        assert sources.count(f"/rationale/{number}/text") >= 1
        assert set(sentence["uses"]) <= set(pointers)
    links = [one.attributes["href"] for one in html.shown("a") if "href" in one.attributes]
    assert links
    assert {link.removeprefix("#") for link in links} <= ids


def test_no_two_elements_have_one_id(variant: tuple[Html, JsonValue]) -> None:
    html, _ = variant
    ids = [one.attributes["id"] for one in html.pieces if "id" in one.attributes]
    assert len(ids) == len(set(ids))


def test_the_embedded_json_is_the_file_beside_the_page(variant: tuple[Html, JsonValue]) -> None:
    html, document = variant
    assert json.loads(html.one(id="explanation").text) == document
    Explanation.model_validate(document)


def test_a_page_allows_itself_its_own_style_and_script_and_nothing_else(
    variant: tuple[Html, JsonValue],
) -> None:
    html, _ = variant
    policy = html.one(**{"http-equiv": "Content-Security-Policy"}).attributes["content"]
    (style,) = html.shown("style")
    (script,) = (one for one in html.shown("script") if "type" not in one.attributes)
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    hashes = [
        base64.b64encode(hashlib.sha256(one.text.encode()).digest()).decode()
        for one in (style, script)
    ]
    assert rules == {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": f"'sha256-{hashes[0]}'",
        "script-src": f"'sha256-{hashes[1]}'",
        "form-action": "'none'",
        "base-uri": "'none'",
    }
    for one in html.pieces:
        assert "style" not in one.attributes  # the policy would leave it out
        assert not any(name.startswith("on") for name in one.attributes)
        for name in ("src", "href"):
            address = one.attributes.get(name, "#") or ""
            assert address.startswith(("#", "data:image/png;base64,")), address


def test_names_cannot_break_out_of_their_place(tmp_path: Path) -> None:
    evil = '</script><script>alert("1")</script><img src=x onerror=alert(1)>'
    html, document = made(tmp_path, sample("chestx", name=evil))
    assert document["picture"]["name"] == evil
    assert len([one for one in html.shown("script") if "type" not in one.attributes]) == 1
    assert [one.attributes["src"][:5] for one in html.shown("img")] == ["data:", "data:"]
    (kicker,) = (one for one in html.pieces if one.attributes.get("class") == "kicker")
    assert evil in kicker.text


@pytest.mark.parametrize(
    ("variant_of", "said"),
    [
        ({"task": "retina", "is_novel": True}, ["Unlike the pictures it knows", "Not sure"]),
        ({"task": "pathoscan"}, [f"Sure: {SETTLED}"]),
        ({"task": "chestx", "is_calibrated": False}, ["has not been measured", "Not calibrated"]),
    ],
)
def test_how_far_the_answer_holds_is_said_in_words(
    tmp_path: Path, variant_of: dict[str, object], said: list[str]
) -> None:
    html, _ = made(tmp_path, sample(**variant_of))  # type: ignore[arg-type]
    (standing,) = (one for one in html.pieces if one.attributes.get("class") == "standing")
    lines = [one.text for one in html.shown("li") if one.text in standing.text and one.text]
    assert [words for words in said if any(words in line for line in lines)] == said


def test_a_question_with_both_answers_left_is_shown_as_open(tmp_path: Path) -> None:
    html, _ = made(tmp_path, sample("chestx"))
    (answers,) = (one for one in html.shown("dl") if one.attributes.get("class") == "set")
    terms = re.findall(r"Present|Left open|Absent", answers.text)
    rest = re.split(r"Present|Left open|Absent", answers.text)[1:]
    groups = dict(zip(terms, rest, strict=True))
    assert groups == {
        "Present": "Effusion: present",
        "Left open": "Mass: presentMass: absent",
        "Absent": "Pneumothorax: absent",
    }


def test_an_answer_that_its_probability_speaks_against_is_shown_as_open(tmp_path: Path) -> None:
    whole = sample("chestx")
    (place,) = (n for n, one in enumerate(whole.findings) if one.name == "Effusion")
    doubted = whole.findings[place].model_copy(update={"is_called": False})
    findings = (*whole.findings[:place], doubted, *whole.findings[place + 1 :])
    html, _ = made(tmp_path, whole.model_copy(update={"findings": findings}))
    (answers,) = (one for one in html.shown("dl") if one.attributes.get("class") == "set")
    assert answers.text.startswith("Left open")
    assert "Effusion: present" in answers.text


@pytest.mark.parametrize(
    ("variant_of", "is_said"),
    [
        ({"task": "chestx"}, True),
        ({"task": "chestx", "is_calibrated": False}, False),
        ({"task": "retina", "is_novel": True}, False),
    ],
)
def test_likelihood_is_said_of_probabilities_that_are_ones_alone(
    tmp_path: Path, variant_of: dict[str, object], is_said: bool
) -> None:
    html, _ = made(tmp_path, sample(**variant_of))  # type: ignore[arg-type]
    tables = [one.text for one in html.shown("table")]
    assert any("likely" in text for text in tables) is is_said


@pytest.mark.parametrize("task", ["chestx", "retina", "pathoscan"])
@pytest.mark.parametrize("is_calibrated", [True, False])
def test_a_probability_is_the_sum_that_the_page_writes_out(
    tmp_path: Path, task: str, *, is_calibrated: bool
) -> None:
    explanation = sample(task, is_calibrated=is_calibrated)
    html, document = made(tmp_path, explanation)
    temperature = at(document, "/temperature") or 1.0
    sources = [str(number.attributes["data-from"]) for number in html.shown("data")]
    written_out = [source for source in sources if re.fullmatch(r"/findings/\d+/shift", source)]
    shifted = []
    for place, finding in enumerate(explanation.findings):
        values = at(document, f"/findings/{place}")
        answer = (values["logit"] - values["threshold"] - values["shift"]) / temperature
        assert finding.probability == pytest.approx(1 / (1 + np.exp(-answer)), rel=1e-5)
        if values["shift"]:
            shifted.append(f"/findings/{place}/shift")
    assert written_out == shifted
    assert bool(shifted) is (is_calibrated and task != "pathoscan")


def test_a_map_is_held_against_random_orders_and_other_pictures(tmp_path: Path) -> None:
    html, _ = made(tmp_path, sample("chestx"))
    words = " ".join(one.text for one in html.shown("p"))
    assert "This map is better than each of 8 random orders." in words
    assert re.search(r"no better than chance: better than \d of 8 random orders", words)
    assert "Held against the maps of other pictures (3): small changes leave the map more" in words
    assert "Held against the maps of other pictures (3): one of those is as like this map" in words
    cells = [one.text for one in html.shown("td")]
    assert "0.420.31 to 0.52" in cells
    assert any(re.fullmatch(r"0\.28chance 0\.47\d\.\d\d to \d\.\d\d", cell) for cell in cells)

    alone, _ = made(tmp_path, sample("retina"))
    words = " ".join(one.text for one in alone.shown("p"))
    assert "is not known: no other picture was explained with it." in words
    assert "Held against" not in words


@pytest.mark.parametrize(
    ("beaten", "words"),
    [
        (8, "better than each of 8 random orders"),
        (5, "better than 5 of 8 random orders only: not clearly more than chance"),
        (4, "no better than chance: better than 4 of 8 random orders"),
    ],
)
def test_the_word_for_a_map_rests_on_the_orders_that_it_beats(
    beaten: int, words: str, tmp_path: Path
) -> None:
    explanation = sample("pathoscan")
    own = explanation.findings[0].methods[0]
    assert own.faithfulness is not None
    curves = own.faithfulness.model_copy(update={"beaten_orders": beaten})
    html, _ = made(tmp_path, with_own(explanation, faithfulness=curves))
    assert f"This map is {words}." in [one.text for one in html.shown("p")]


def test_a_region_without_its_like_elsewhere_says_so(tmp_path: Path) -> None:
    explanation = sample("pathoscan")
    first = explanation.findings[0].model_copy(update={"region_drop": 1.25, "elsewhere_drop": None})
    findings = (first, *explanation.findings[1:])
    html, _ = made(tmp_path, explanation.model_copy(update={"findings": findings}))
    words = " ".join(one.text for one in html.shown("p"))
    assert "takes 1.25 from the logit; there is no equal area elsewhere" in words


def with_own(made: Explanation, **parts: object) -> Explanation:
    """The explanation with something else known of its first finding's own map."""
    own, *others = made.findings[0].methods
    methods = (own.model_copy(update=parts), *others)
    first = made.findings[0].model_copy(update={"methods": methods})
    return made.model_copy(update={"findings": (first, *made.findings[1:])})


def test_parts_that_do_not_add_up_stand_beside_their_map(tmp_path: Path) -> None:
    html, _ = made(tmp_path, sample("chestx"))
    legends = [
        one
        for one in html.shown("p")
        if one.attributes.get("data-layer") == "method:4" and "data-side" in one.attributes
    ]
    (legend,) = legends
    assert "Approximate for this picture: its parts add up to 0.62 logits; the logit's" in (
        legend.text
    )
    assert "is 1.55. Gap 0.60." in legend.text
    assert any("measuring it broke down (RuntimeError)" in one.text for one in html.shown("p"))


def test_the_calibrations_note_stands_where_probability_and_set_are(tmp_path: Path) -> None:
    html, document = made(tmp_path, sample("chestx"))
    note = document["calibrated_on"]["note"]
    (asked,) = (
        one for one in html.shown("section") if one.attributes["aria-labelledby"] == "asked"
    )
    assert note in asked.text
    assert "Calibrated on 160 pictures of 80 patients. On 64 others" in asked.text

    bare, document = made(tmp_path, sample("chestx", is_calibrated=False))
    why = document["why_not_calibrated"]
    (asked,) = (
        one for one in bare.shown("section") if one.attributes["aria-labelledby"] == "asked"
    )
    (header,) = bare.shown("header")
    assert why in asked.text
    assert f"No prediction set. {why}" in header.text


def test_a_finding_without_a_set_of_its_own_says_why(tmp_path: Path) -> None:
    whole = sample("chestx")
    assert whole.prediction_set is not None
    left_out = {"Mass": "The calibration part has 4 patients with the answer; 9 are needed."}
    answers = whole.prediction_set.model_copy(
        update={"questions": ("Effusion", "Pneumothorax"), "left_out": left_out}
    )
    html, _ = made(tmp_path, whole.model_copy(update={"prediction_set": answers}))
    (header,) = html.shown("header")
    assert f"Not covered are Mass: {left_out['Mass']}" in header.text


def test_a_failed_method_says_why_and_cannot_be_chosen(tmp_path: Path) -> None:
    html, document = made(tmp_path, sample("chestx"))
    (failed,) = (one for one in html.shown("option") if "failed" in one.text)
    assert "disabled" in failed.attributes
    assert document["findings"][0]["methods"][3]["map"] is None
    reasons = [one for one in html.shown("td") if "has no rule" in one.text]
    assert len(reasons) == 1


def test_a_map_without_anything_that_speaks_for_it_says_so(tmp_path: Path) -> None:
    explanation = sample("chestx", has_methods=False, has_concepts=False)
    finding = explanation.findings[2]
    own = finding.methods[0]
    empty = GridMap(rows=2, columns=2, unit="shares", values=(0.0, 0.0, 0.0, 0.0))
    changed = finding.model_copy(update={"methods": (own.model_copy(update={"map": empty}),)})
    findings = (*explanation.findings[:2], changed)
    html, _ = made(tmp_path, explanation.model_copy(update={"findings": findings}))
    (legend,) = (
        one
        for one in html.shown("p")
        if one.attributes.get("data-finding") == "2" and "data-side" in one.attributes
    )
    assert "Nothing in the picture speaks for Pneumothorax by this method." in legend.text


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((8, 8), dtype=np.uint8),
        np.zeros((8, 8, 2), dtype=np.uint8),
        np.zeros((8, 8, 3), dtype=np.float32),
    ],
)
def test_a_picture_of_another_shape_is_refused_and_nothing_written(
    tmp_path: Path, wrong: np.ndarray
) -> None:
    with pytest.raises(DataError, match=r"picture \(S, S, 1 or 3\) of bytes, got"):
        write_page(sample("chestx"), wrong, tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []


def test_a_finding_without_the_models_own_map_is_refused(tmp_path: Path) -> None:
    explanation = sample("pathoscan")
    (finding,) = explanation.findings
    lost = finding.methods[0].model_copy(update={"map": None, "failure": "lost"})
    changed = finding.model_copy(update={"methods": (lost, *finding.methods[1:])})
    with pytest.raises(DataError, match="must be the model's own"):
        made(tmp_path, explanation.model_copy(update={"findings": (changed,)}))
    assert list(tmp_path.iterdir()) == []
