"""Phantom sources: same seed same patients, other site other patients, outlines for some."""

import numpy as np
import pytest

from common.config.run import PhantomSource
from common.datasets.phantom_source import PhantomTable, open_phantom
from common.datasets.source_traits import identity_of
from common.errors import ConfigError
from common.tasks import TASKS, task_named

CONFIG = PhantomSource(
    kind="phantom",
    patients=12,
    pictures_per_patient=2,
    scanner_strength=0.5,
    lesion_contrast=1.0,
    roi_fraction=0.5,
    marker_agreement=None,
    prevalence=None,
)


def opened(
    site: str = "north", *, seed: int = 1, task: str = "chestx", **changes: object
) -> PhantomTable:
    config = CONFIG.model_copy(update=changes)
    return open_phantom(config, task=TASKS[task], site=site, seed=seed).drawn_at(64)


@pytest.mark.parametrize("task", list(TASKS))
def test_a_case_fits_its_task(task: str) -> None:
    source = opened(task=task)
    case = source.load(3)
    assert case.image.shape == (64, 64, TASKS[task].channels)
    assert case.targets == source.targets(3)
    assert len(case.targets) == TASKS[task].num_logits


def test_the_same_site_draws_the_same_patients() -> None:
    assert (opened().load(5).image == opened().load(5).image).all()


def test_another_site_draws_other_patients() -> None:
    north, south = opened("north"), opened("south")
    assert not {north.patient(row) for row in range(24)} & {south.patient(row) for row in range(24)}
    assert (north.load(5).image != south.load(5).image).any()


def test_pictures_of_one_patient_differ() -> None:
    source = opened()
    assert source.patient(4) == source.patient(5) != source.patient(6)
    assert (source.load(4).image != source.load(5).image).any()


def test_exactly_the_asked_share_of_patients_is_outlined() -> None:
    source = opened(task="pathoscan", prevalence={"malignant": 1.0})
    outlined = {source.patient(row) for row in range(24) if source.load(row).regions}
    assert len(outlined) == 6
    assert len(source) == 24


def test_a_region_explains_its_own_finding() -> None:
    task = task_named("chestx", ("Mass", "Effusion"))
    config = CONFIG.model_copy(
        update={"roi_fraction": 1.0, "prevalence": {"Effusion": 1.0, "Mass": 0.0}}
    )
    case = open_phantom(config, task=task, site="north", seed=1).drawn_at(64).load(0)
    assert [region.label for region in case.regions] == [1]
    assert case.targets == (0.0, 1.0)


@pytest.mark.parametrize("task", list(TASKS))
def test_only_reference_sets_tell_anatomy_and_marker(task: str) -> None:
    site = opened(task=task, marker_agreement=1.0)
    reference = opened("reference-x", task=task, marker_agreement=1.0)
    layout = {"anatomy_mask", "marker_mask"}
    for row in range(0, 24, 6):
        drawn, case = reference.draw(row), reference.load(row)
        masks = {region.kind: region.mask for region in case.regions if region.kind in layout}
        assert (masks["anatomy_mask"] == drawn.anatomy).all()
        assert ("marker_mask" in masks) == drawn.has_marker
        if drawn.has_marker:
            assert (masks["marker_mask"] == drawn.marker).all()
        assert not layout & {region.kind for region in site.load(row).regions}


def test_the_marker_follows_the_label() -> None:
    source = opened(marker_agreement=1.0)
    drawn = [source.draw(row) for row in range(24)]
    assert all(case.has_marker == any(case.targets) for case in drawn)


def test_identity_tells_sites_sizes_and_seeds_apart() -> None:
    sources = [opened(), opened("south"), opened(seed=2), opened().drawn_at(96), opened(patients=9)]
    assert len({identity_of(source) for source in sources}) == 5
    assert identity_of(opened()) == identity_of(opened())


def test_labels_do_not_depend_on_the_size() -> None:
    small, large = opened(), opened().drawn_at(96)
    assert np.array_equal(small.targets(7), large.targets(7))


def test_an_impossible_contrast_is_refused() -> None:
    with pytest.raises(ConfigError, match="lesion_contrast"):
        opened(lesion_contrast=5.0).load(0)
