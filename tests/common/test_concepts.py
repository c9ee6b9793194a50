"""Signs: each has a source that teaches it, and what a picture's regions and words make of them."""

from math import isnan
from pathlib import Path

import pytest

from common.concepts import CONCEPTS, concept_targets, concepts_of, shows
from common.config.run import PhantomSource
from common.datasets.idrid import LESIONS
from common.datasets.labels import load_label_table
from common.datasets.phantom_source import DRAWN, open_phantom
from common.tasks import TASKS, task_named

LABELS = Path("configs/labels")
TABLES = {"nih": "chestx", "covid": "chestx", "idrid": "retina", "ebhi": "pathoscan"}
RETINA = concepts_of("retina", TASKS["retina"].concepts)
PHANTOMS = PhantomSource(
    kind="phantom",
    patients=12,
    pictures_per_patient=1,
    scanner_strength=0.0,
    lesion_contrast=1.0,
    roi_fraction=0.5,
    marker_agreement=None,
    prevalence=None,
)


def signs(table: str, *words: str) -> dict[str, bool]:
    task = task_named(TABLES[table])
    return dict(load_label_table(LABELS / f"{table}.yaml", task=task).signs(words))


@pytest.mark.parametrize("task", CONCEPTS)
def test_every_sign_can_be_taught_by_a_source(task: str) -> None:
    told = {
        concept
        for table, its_task in TABLES.items()
        if its_task == task
        for concepts in load_label_table(
            LABELS / f"{table}.yaml", task=task_named(task)
        ).concepts.values()
        for concept in concepts
    }
    outlined = {*DRAWN[task], *(name for _, name in LESIONS.values())}
    for concept in CONCEPTS[task]:
        assert concept.name in told or set(concept.regions) & outlined, concept.name


def test_a_tasks_signs_are_those_of_the_vocabulary_in_its_order() -> None:
    for name, task in TASKS.items():
        assert concepts_of(name, task.concepts) == CONCEPTS[name]


def test_a_region_asserts_its_sign_and_absence_is_known_where_all_is_outlined() -> None:
    found = concept_targets(
        RETINA,
        regions=[("haemorrhage", None), ("optic_disc", None)],
        outlined=("microaneurysm", "haemorrhage", "hard_exudate"),
        signs=(),
    )
    assert found[:3] == (0.0, 1.0, 0.0)
    assert all(map(isnan, found[3:]))


def test_outlines_prevail_over_words_and_words_over_nothing() -> None:
    found = concept_targets(
        RETINA,
        regions=[("haemorrhage", None)],
        outlined=("microaneurysm",),
        signs=(("microaneurysm", True), ("haemorrhage", False), ("soft_exudate", True)),
    )
    assert found[:2] == (0.0, 1.0)
    assert isnan(found[2])
    assert found[3] == 1.0
    assert all(map(isnan, concept_targets(RETINA, regions=[], outlined=(), signs=())))


def test_a_lesion_region_of_a_finding_shows_the_signs_of_that_finding() -> None:
    opacity, consolidation, *_ = concepts_of("chestx", TASKS["chestx"].concepts)
    assert shows(opacity, region="lesion", finding="Pneumonia")
    assert not shows(consolidation, region="lesion", finding="Pneumonia")
    assert not shows(opacity, region="lesion", finding=None)


def test_words_of_outlined_lesions_deny_the_lesions_they_leave_out() -> None:
    assert signs("idrid", "EX", "MA", "DR2") == {
        "microaneurysm": True,
        "haemorrhage": False,
        "hard_exudate": True,
        "soft_exudate": False,
    }
    assert signs("idrid", "DR2", "DME1") == {}


def test_the_two_lowest_grades_mean_nothing_and_microaneurysms_alone() -> None:
    assert not any(signs("idrid", "0").values())
    assert {name for name, present in signs("idrid", "1").items() if present} == {"microaneurysm"}
    assert len(signs("idrid", "0")) == 4


def test_an_opacity_is_denied_by_no_finding_alone() -> None:
    assert signs("nih", "No Finding") == dict.fromkeys(TASKS["chestx"].concepts, False)
    assert signs("nih", "Mass", "Atelectasis") == {
        "consolidation": False,
        "effusion": False,
        "mass": True,
        "nodule": False,
    }
    assert signs("nih", "Infiltration")["opacity"]


def test_ground_glass_is_an_opacity_and_says_nothing_of_the_rest() -> None:
    assert signs("covid", "COVID-19", "Ground glass opacity") == {"opacity": True}


def test_a_class_whose_glands_are_not_described_says_nothing() -> None:
    assert signs("ebhi", "Serrated adenoma") == {}
    assert signs("ebhi", "Low-grade IN") == {"atypical_glands": True, "intact_glands": False}


@pytest.mark.parametrize("name", ["retina", "pathoscan"])
def test_phantoms_tell_their_signs_where_they_are_outlined_alone(name: str) -> None:
    task = task_named(name)
    table = open_phantom(PHANTOMS, task=task, site="north", seed=1).drawn_at(64)
    concepts = concepts_of(name, task.concepts)
    for index in range(len(table)):
        case, drawn = table.load(index), table.draw(index)
        found = concept_targets(
            concepts,
            regions=[(region.name, None) for region in case.regions],
            outlined=case.outlined,
            signs=case.signs,
        )
        if index not in table.outlined:
            assert all(map(isnan, found))
            continue
        names = {lesion.name for lesion in drawn.lesions if lesion.mask.any()}
        for concept, value in zip(concepts, found, strict=True):
            if concept.name == "intact_glands":  # phantoms do not outline them
                assert isnan(value)
            else:
                assert value == float(bool(names & set(concept.regions)))


def test_chest_phantoms_tell_the_signs_of_the_findings_that_are_asked_for() -> None:
    task = task_named("chestx", ("Mass", "Effusion"))
    table = open_phantom(PHANTOMS, task=task, site="north", seed=1).drawn_at(64)
    for index in range(len(table)):
        case = table.load(index)
        mass, effusion = case.targets
        assert dict(case.signs) == {"mass": mass == 1, "effusion": effusion == 1}
