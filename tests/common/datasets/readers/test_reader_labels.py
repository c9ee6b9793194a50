"""Label tables say what a word means; what no table names is left out, never guessed."""

import csv
from math import isnan
from pathlib import Path

import pytest

from common.datasets.labels import LabelTable, LeftOut, load_label_table
from common.datasets.record import EVERY_POSITIVE_LABEL
from common.errors import ConfigError
from common.tasks import NIH_FINDINGS, task_named

CONFIGS = Path(__file__).resolve().parents[4] / "configs"
CHESTX = task_named("chestx")


def shipped(name: str, task: str) -> LabelTable:
    return load_label_table(CONFIGS / "labels" / name, task=task_named(task))


def words_in(path: Path, column: str, separator: str) -> set[str]:
    with path.open(encoding="utf-8", newline="") as stream:
        cells = [row[column] for row in csv.DictReader(stream)]
    return {word.strip() for cell in cells for word in cell.split(separator)} - {""}


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "table.yaml"
    path.write_text(text)
    return path


def test_findings_that_an_exhaustive_source_does_not_mention_are_absent() -> None:
    target = shipped("nih.yaml", "chestx").targets(["Mass", "Effusion"], CHESTX)
    assert target == tuple(float(name in ("Mass", "Effusion")) for name in NIH_FINDINGS)


def test_infiltrate_of_the_box_table_is_infiltration() -> None:
    logit = shipped("nih.yaml", "chestx").logit_of("Infiltrate", CHESTX)
    assert logit == NIH_FINDINGS.index("Infiltration")


@pytest.mark.parametrize("name", ["nih.yaml", "covid.yaml"])
def test_no_finding_denies_every_finding(name: str) -> None:
    assert shipped(name, "chestx").targets(["No Finding"], CHESTX) == (0.0,) * 14


def test_findings_that_another_source_does_not_mention_are_unknown() -> None:
    target = shipped("covid.yaml", "chestx").targets(["COVID-19", "Consolidation"], CHESTX)
    assert not isinstance(target, LeftOut)
    known = {name: v for name, v in zip(NIH_FINDINGS, target, strict=True) if not isnan(v)}
    assert known == {"Pneumonia": 1.0, "Consolidation": 1.0}


@pytest.mark.parametrize(
    ("table", "words", "reason"),
    [
        ("nih.yaml", ["Mass", "Scoliosis"], "unknown label"),
        ("nih.yaml", ["No Finding", "Mass"], "contradictory labels"),
        ("nih.yaml", [], "no label"),
        ("nih.yaml", [""], "no label"),
        ("nih.yaml", ["mass"], "unknown label"),
        ("covid.yaml", ["todo"], "label set aside"),
        ("covid.yaml", ["ARDS", "Ground glass opacity"], "no label"),
    ],
)
def test_words_without_a_meaning_leave_the_picture_out(
    table: str, words: list[str], reason: str
) -> None:
    problem = shipped(table, "chestx").targets(words, CHESTX)
    assert isinstance(problem, LeftOut)
    assert problem.reason == reason


def test_restricted_run_passes_over_other_findings() -> None:
    task = task_named("chestx", ("Nodule", "Mass"))
    table = shipped("nih.yaml", "chestx")
    assert table.targets(["Mass", "Hernia"], task) == (0.0, 1.0)
    assert table.targets(["Hernia"], task) == (0.0, 0.0)
    assert table.targets(["No Finding"], task) == (0.0, 0.0)
    assert table.logit_of("Nodule", task) == 0
    assert table.logit_of("Hernia", task) is None


def test_restricted_run_leaves_out_a_picture_that_it_knows_nothing_about() -> None:
    task = task_named("chestx", ("Nodule", "Mass"))
    problem = shipped("covid.yaml", "chestx").targets(["COVID-19"], task)
    assert isinstance(problem, LeftOut)
    assert problem.reason == "no label"


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ("concepts: {Mass: [fracture]}", "unknown concept 'fracture'"),
        ("concepts: {Rib: [mass]}", "in no other section"),
        ("concepts_complete: [masss]", "Did you mean 'mass'"),
    ],
)
def test_a_sign_that_the_task_has_not_is_named(tmp_path: Path, section: str, problem: str) -> None:
    path = write(
        tmp_path, f"task: chestx\nunmentioned: unknown\nwords: {{Mass: Mass}}\n{section}\n"
    )
    with pytest.raises(ConfigError, match=problem):
        load_label_table(path, task=CHESTX)


def test_nameless_outline_explains_the_positive_findings_that_it_outlines() -> None:
    table = shipped("covid.yaml", "chestx")
    task = task_named("chestx", ("Effusion", "Consolidation", "Pneumonia"))
    assert table.logits_of_mask((1.0, 1.0, 1.0), task) == (1, 2)
    assert table.logits_of_mask((1.0, 0.0, float("nan")), task) == ()


def test_nameless_outline_explains_whatever_is_positive_where_the_table_does_not_say() -> None:
    target = (1.0, *(0.0,) * 13)
    table = shipped("nih.yaml", "chestx")
    assert table.logits_of_mask(target, CHESTX) == (EVERY_POSITIVE_LABEL,)


def test_outline_of_a_task_with_one_logit_explains_that_logit() -> None:
    assert shipped("ebhi.yaml", "pathoscan").logits_of_mask((0.0,), task_named("pathoscan")) == (0,)


@pytest.mark.parametrize("grade", range(5))
def test_both_spellings_of_a_grade_mean_the_grade(grade: int) -> None:
    retina = task_named("retina")
    table = shipped("idrid.yaml", "retina")
    assert table.targets([str(grade)], retina) == (float(grade),)
    assert table.targets(["EX", f"DR{grade}", "DME2"], retina) == (float(grade),)


def test_two_grades_on_one_picture_contradict() -> None:
    problem = shipped("idrid.yaml", "retina").targets(["DR1", "DR2"], task_named("retina"))
    assert isinstance(problem, LeftOut)
    assert problem.reason == "contradictory labels"


@pytest.mark.parametrize(
    ("word", "target"),
    [
        ("Normal", 0.0),
        ("Polyp", 0.0),
        ("Serrated adenoma", 0.0),
        ("Low-grade IN", 0.0),
        ("High-grade IN", 1.0),
        ("Adenocarcinoma", 1.0),
    ],
)
def test_colorectal_classes_map_to_malignancy(word: str, target: float) -> None:
    pathoscan = task_named("pathoscan")
    assert shipped("ebhi.yaml", "pathoscan").targets([word], pathoscan) == (target,)


def test_lesion_of_a_task_with_one_logit_explains_that_logit() -> None:
    assert shipped("idrid.yaml", "retina").logit_of("microaneurysm", task_named("retina")) == 0


def test_every_word_of_the_real_covid_table_is_named(real_data: Path) -> None:
    table = shipped("covid.yaml", "chestx")
    for word in words_in(real_data / "native/covid_chestxray/metadata.csv", "finding", ","):
        problem = table.targets([word], CHESTX)
        assert not isinstance(problem, LeftOut) or problem.reason != "unknown label", word


def test_every_word_of_the_real_nih_table_is_named(real_data: Path) -> None:
    table = shipped("nih.yaml", "chestx")
    for word in words_in(real_data / "native/nih/sample_labels.csv", "Finding Labels", "|"):
        assert not isinstance(table.targets([word], CHESTX), LeftOut), word


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("task: chestx\nwords: {}\nunmentoined: negative\n", "Did you mean 'unmentioned'"),
        ("task: chestx\nwords: {Mass: Mas}\nunmentioned: negative\n", "Did you mean 'Mass'"),
        ("task: chestx\nwords: {}\n", "must say negative or unknown"),
        ("task: chestx\nwords: {}\nunmentioned: maybe\n", "negative"),
        ("task: retina\nwords: {}\n", "of task 'retina', not of 'chestx'"),
        ("task: chestx\nwords: {No: Mass}\nunmentioned: negative\n", "put it in quotes"),
        ("task: chestx\nwords: [Mass]\nunmentioned: negative\n", "words"),
        (
            "task: chestx\nwords: {Mass: Mass}\nignored: [Mass]\nunmentioned: negative\n",
            "'Mass' stands there twice",
        ),
        (
            "task: chestx\nunmentioned: negative\nwords:\n  A: Mass\n  A: Nodule\n",
            "'A' stands here twice",
        ),
        ("task: [chestx\n", "not valid YAML"),
        ("", "got NoneType"),
        (
            "task: chestx\nwords: {}\nunmentioned: negative\nmasks_outline: [Pneumonai]\n",
            "masks_outline: .*Did you mean 'Pneumonia'",
        ),
    ],
)
def test_malformed_table_is_refused_with_the_remedy(
    tmp_path: Path, text: str, message: str
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=message) as raised:
        load_label_table(path, task=CHESTX)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("key", ["unmentioned: negative", "masks_outline: [malignant]"])
def test_keys_for_findings_are_refused_where_a_picture_has_one_label(
    tmp_path: Path, key: str
) -> None:
    path = write(tmp_path, f"task: pathoscan\nwords: {{}}\n{key}\n")
    with pytest.raises(ConfigError, match="one label per picture"):
        load_label_table(path, task=task_named("pathoscan"))


def test_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.yaml: cannot be read.*`mapping` is relative to"):
        load_label_table(tmp_path / "gone.yaml", task=CHESTX)
