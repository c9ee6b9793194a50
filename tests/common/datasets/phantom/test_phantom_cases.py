"""Phantom pictures: the same arguments give the same picture, and its masks are exact."""

import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from common.datasets.phantom import PHANTOMS
from common.datasets.phantom.case import PhantomCase, Scanner, Shortcut, scanner_for
from common.datasets.phantom.draw import Dice, draw_class, draw_marker
from common.errors import ConfigError
from common.tasks import TASKS, task_named

NAMES = ("chestx", "retina", "pathoscan")
BLURRED = Scanner(blur_px=0.7, gamma=1.2, contrast=0.9, illumination=0.2, stain=(0.9, 1.1))
REACH_PX = 4  # soft edges of a lesion, and 3 standard deviations of the blur


def draw(
    name: str,
    index: int = 0,
    *,
    patient: int | None = None,
    size_px: int = 96,
    scanner: Scanner = BLURRED,
    shortcut: Shortcut | None = None,
    lesion_contrast: float = 1.0,
    prevalence: dict[str, float] | None = None,
    seed: int = 5,
) -> PhantomCase:
    return PHANTOMS.get(name)(
        task=TASKS[name],
        index=index,
        patient=index if patient is None else patient,
        seed=seed,
        size_px=size_px,
        scanner=scanner,
        shortcut=shortcut,
        lesion_contrast=lesion_contrast,
        prevalence=prevalence,
    )


def dice_of(index: int) -> Dice:
    return Dice(seed=5, task="retina", patient=0, index=index)


def changed(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return (first != second).any(axis=2)


def dilated(mask: np.ndarray) -> np.ndarray:
    return binary_dilation(mask, structure=np.ones((3, 3)), iterations=REACH_PX)


def union(case: PhantomCase) -> np.ndarray:
    return np.logical_or.reduce([lesion.mask for lesion in case.lesions])


def positives(name: str, count: int, **arguments: float) -> list[PhantomCase]:
    cases = [draw(name, index, **arguments) for index in range(count)]
    return [case for case in cases if any(case.targets)]


def test_every_task_has_a_phantom() -> None:
    assert set(PHANTOMS) == set(TASKS)


@pytest.mark.parametrize("name", NAMES)
def test_pictures_do_not_depend_on_the_order_in_which_they_are_drawn(name: str) -> None:
    forwards = [draw(name, index, shortcut=Shortcut()) for index in (0, 1, 2)]
    backwards = [draw(name, index, shortcut=Shortcut()) for index in (2, 1, 0)][::-1]
    for one, other in zip(forwards, backwards, strict=True):
        assert np.array_equal(one.image, other.image)
        assert np.array_equal(one.without_lesion, other.without_lesion)
        assert np.array_equal(one.without_marker, other.without_marker)
        assert one.targets == other.targets
        assert all(
            np.array_equal(a.mask, b.mask) for a, b in zip(one.lesions, other.lesions, strict=True)
        )


@pytest.mark.parametrize("name", NAMES)
def test_another_seed_patient_or_index_gives_another_picture(name: str) -> None:
    first = draw(name, 0, patient=0)
    assert changed(first.image, draw(name, 1, patient=0).image).any()
    assert changed(first.image, draw(name, 0, patient=1).image).any()
    assert changed(first.image, draw(name, 0, patient=0, seed=6).image).any()


@pytest.mark.parametrize("size_px", [64, 100, 128, 256])
@pytest.mark.parametrize("name", NAMES)
def test_arrays_have_the_promised_shapes_and_types(name: str, size_px: int) -> None:
    case = draw(name, 1, size_px=size_px, shortcut=Shortcut(agreement=1.0))
    pictures = (case.image, case.without_lesion, case.without_marker)
    masks = (case.anatomy, case.marker, *(lesion.mask for lesion in case.lesions))
    assert {picture.shape for picture in pictures} == {(size_px, size_px, TASKS[name].channels)}
    assert {picture.dtype for picture in pictures} == {np.dtype(np.uint8)}
    assert {mask.shape for mask in masks} == {(size_px, size_px)}
    assert {mask.dtype for mask in masks} == {np.dtype(bool)}
    assert len(case.targets) == TASKS[name].num_logits


@pytest.mark.parametrize("name", NAMES)
def test_removing_lesions_changes_nothing_outside_their_masks(name: str) -> None:
    for case in positives(name, 12):
        allowed = dilated(union(case))
        assert not (changed(case.image, case.without_lesion) & ~allowed).any()


@pytest.mark.parametrize("name", NAMES)
def test_every_lesion_mask_covers_pixels_that_change_when_lesions_go(name: str) -> None:
    for case in positives(name, 12):
        difference = np.abs(case.image.astype(int) - case.without_lesion).max(axis=2)
        for lesion in case.lesions:
            assert difference[lesion.mask].max() >= 12, lesion.name
            assert TASKS[name].logit_names.count(lesion.label) == 1


@pytest.mark.parametrize("name", NAMES)
def test_removing_the_marker_changes_the_marker_alone(name: str) -> None:
    marked = [draw(name, index, shortcut=Shortcut(agreement=0.5)) for index in range(8)]
    for case in (case for case in marked if case.has_marker):
        difference = changed(case.image, case.without_marker)
        assert difference[case.marker].mean() > 0.9
        assert not (difference & ~dilated(case.marker)).any()


@pytest.mark.parametrize("name", NAMES)
def test_the_marker_stays_when_lesions_go_and_lies_off_them(name: str) -> None:
    cases = [
        case for case in positives(name, 8, shortcut=Shortcut(agreement=1.0)) if case.has_marker
    ]
    for case in cases:
        core = case.marker & ~dilated(union(case))
        assert core.sum() > 0.8 * case.marker.sum()
        assert np.array_equal(case.image[core], case.without_lesion[core])


@pytest.mark.parametrize("name", NAMES)
def test_pictures_without_disease_or_marker_have_no_counterparts(name: str) -> None:
    normal = next(
        case for case in (draw(name, index) for index in range(40)) if not any(case.targets)
    )
    assert normal.lesions == ()
    assert not normal.has_marker
    assert not normal.marker.any()
    assert np.array_equal(normal.image, normal.without_lesion)
    assert np.array_equal(normal.image, normal.without_marker)


@pytest.mark.parametrize("name", NAMES)
def test_pictures_of_a_patient_share_the_anatomy(name: str) -> None:
    still = Scanner(noise=0.0)
    first = draw(name, 0, patient=3, scanner=still)
    second = draw(name, 1, patient=3, scanner=still)
    stranger = draw(name, 0, patient=4, scanner=still)
    assert np.array_equal(first.anatomy, second.anatomy)
    assert np.array_equal(first.without_lesion, second.without_lesion)
    assert changed(first.without_lesion, stranger.without_lesion).mean() > 0.2


@pytest.mark.parametrize("name", NAMES)
def test_lesions_lie_within_the_anatomy(name: str) -> None:
    for case in positives(name, 12):
        for lesion in case.lesions:
            # An enlarged heart reaches beyond the lungs.
            if lesion.label != "Cardiomegaly":
                assert not (lesion.mask & ~binary_dilation(case.anatomy, iterations=2)).any()


@pytest.mark.parametrize("name", NAMES)
def test_a_small_picture_shows_the_same_case_as_a_large_one(name: str) -> None:
    small, large = draw(name, 2, size_px=64), draw(name, 2, size_px=256)
    assert small.targets == large.targets
    reduced = large.image.reshape(64, 4, 64, 4, -1).mean(axis=(1, 3))
    pairs = np.corrcoef(small.image.ravel(), reduced.ravel())
    assert pairs[0, 1] > 0.85


@pytest.mark.parametrize("name", NAMES)
def test_lesion_contrast_sets_how_far_lesions_stand_out(name: str) -> None:
    def strength(contrast: float) -> float:
        cases = positives(name, 6, lesion_contrast=contrast, scanner=Scanner(noise=0.0))
        return float(
            np.mean([np.abs(c.image.astype(int) - c.without_lesion).mean() for c in cases])
        )

    assert strength(0.3) < 0.7 * strength(1.0)


@pytest.mark.parametrize("is_positive", [True, False])
@pytest.mark.parametrize("agreement", [0.0, 0.5, 0.9, 1.0])
def test_the_marker_agrees_with_the_label_as_often_as_configured(
    agreement: float, is_positive: bool
) -> None:
    drawn = [
        draw_marker(
            is_positive=is_positive, shortcut=Shortcut(agreement=agreement), dice=dice_of(index)
        )
        for index in range(1000)
    ]
    # Four standard errors of a proportion.
    margin = 4.0 * np.sqrt(agreement * (1.0 - agreement) / len(drawn))
    assert abs(np.mean(np.equal(drawn, is_positive)) - agreement) <= margin


@pytest.mark.parametrize(
    ("name", "positive_from"), [("chestx", 1), ("retina", 2), ("pathoscan", 1)]
)
def test_pictures_carry_the_marker_that_was_drawn_for_them(name: str, positive_from: int) -> None:
    for index in range(12):
        case = draw(name, index, size_px=64, shortcut=Shortcut(agreement=1.0))
        assert case.has_marker == (max(case.targets) >= positive_from)
        assert case.marker.any() == case.has_marker


def test_findings_and_lesions_agree_on_chest_pictures() -> None:
    for index in range(25):
        case = draw("chestx", index, size_px=64)
        found = {
            label for label, on in zip(TASKS["chestx"].labels, case.targets, strict=True) if on
        }
        assert {lesion.label for lesion in case.lesions} == found


def test_restricted_chest_labels_keep_their_order_and_their_draws() -> None:
    task = task_named("chestx", ("Nodule", "Effusion"))
    columns = [TASKS["chestx"].labels.index(label) for label in task.labels]
    for index in range(20):
        case = PHANTOMS.get("chestx")(
            task=task, index=index, patient=0, seed=5, size_px=64, scanner=Scanner()
        )
        everything = draw("chestx", index, patient=0, size_px=64)
        assert case.targets == tuple(everything.targets[column] for column in columns)


@pytest.mark.parametrize(
    ("grade", "expected", "allowed"),
    [
        (0, set(), set()),
        (1, {"microaneurysm"}, set()),
        (2, {"microaneurysm", "haemorrhage"}, {"hard_exudate"}),
        (3, {"microaneurysm", "haemorrhage", "soft_exudate"}, {"hard_exudate"}),
        (4, {"microaneurysm", "haemorrhage", "neovascularisation"}, {"hard_exudate"}),
    ],
)
def test_each_grade_shows_the_lesions_of_its_definition(
    grade: int, expected: set[str], allowed: set[str]
) -> None:
    label = TASKS["retina"].labels[grade]
    for index in range(6):
        case = draw("retina", index, prevalence={label: 1.0})
        names = {lesion.name for lesion in case.lesions}
        assert case.targets == (float(grade),)
        assert expected <= names <= expected | allowed


def test_severe_retinopathy_bleeds_in_all_four_quadrants() -> None:
    case = draw("retina", 0, prevalence={"3 severe": 1.0}, size_px=128)
    bleeding = next(lesion.mask for lesion in case.lesions if lesion.name == "haemorrhage")
    halves = (slice(0, 64), slice(64, 128))
    assert all(bleeding[rows, columns].any() for rows in halves for columns in halves)


@pytest.mark.parametrize("size_px", [64, 96, 128])
def test_microaneurysms_are_never_thinner_than_one_and_a_half_pixels(size_px: int) -> None:
    case = draw("retina", 0, prevalence={"1 mild": 1.0}, size_px=size_px, scanner=Scanner(noise=0))
    mask = case.lesions[0].mask
    # 5 to 10 spots; a disc 1.5 px wide has an area of 1.77 px.
    assert mask.sum() >= 5 * 1.77
    assert np.abs(case.image.astype(int) - case.without_lesion)[mask].max() > 30


def test_tumour_covers_fifteen_to_forty_percent_of_a_malignant_tile() -> None:
    for index in range(12):
        case = draw("pathoscan", index, prevalence={"malignant": 1.0})
        assert 0.15 <= case.lesions[0].mask.mean() <= 0.40


@pytest.mark.parametrize(
    ("name", "prevalence", "expected"),
    [
        ("chestx", {"Nodule": 1.0}, lambda t: t[TASKS["chestx"].labels.index("Nodule")] == 1.0),
        ("retina", {"4 proliferative": 1.0}, lambda t: t == (4.0,)),
        ("pathoscan", {"malignant": 0.0}, lambda t: t == (0.0,)),
    ],
)
def test_prevalence_replaces_the_defaults(name: str, prevalence: dict, expected: object) -> None:
    assert all(expected(draw(name, i, size_px=64, prevalence=prevalence).targets) for i in range(8))


def test_classes_that_prevalence_does_not_name_share_the_rest() -> None:
    grades = [
        draw_class(TASKS["retina"], default={}, prevalence={"1 mild": 0.4}, dice=dice_of(index))
        for index in range(2000)
    ]
    shares = np.bincount(grades, minlength=5) / len(grades)
    assert np.allclose(shares, [0.15, 0.4, 0.15, 0.15, 0.15], atol=4.0 * np.sqrt(0.25 / 2000))


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("chestx", {"size_px": 32}, "size_px"),
        ("chestx", {"lesion_contrast": 0.0}, "lesion_contrast"),
        ("retina", {"index": -1}, "index"),
        ("retina", {"patient": -1}, "patient"),
        ("retina", {"seed": -1}, "seed"),
        ("chestx", {"prevalence": {"Nodul": 0.5}}, "Did you mean 'Nodule'"),
        ("chestx", {"prevalence": {"Hernia": 0.5}}, "no phantom shows 'Hernia'"),
        ("chestx", {"prevalence": {"Nodule": 1.5}}, r"in \[0, 1\]"),
        ("pathoscan", {"prevalence": {"benign": 0.7, "malignant": 0.7}}, "sum to 1"),
        ("pathoscan", {"prevalence": {"benign": 0.2, "malignant": 0.2}}, "sum to 1"),
    ],
)
def test_wrong_arguments_are_named(name: str, arguments: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        draw(name, **{"index": 0, **arguments})


def test_a_generator_refuses_the_task_of_another() -> None:
    with pytest.raises(ConfigError, match="draws chestx, got task 'retina'"):
        PHANTOMS.get("chestx")(
            task=TASKS["retina"], index=0, patient=0, seed=0, size_px=64, scanner=Scanner()
        )


def test_an_impossible_shortcut_is_refused() -> None:
    with pytest.raises(ConfigError, match="agreement"):
        Shortcut(agreement=1.2)


def test_a_scanner_depends_on_the_name_of_its_site_alone() -> None:
    assert scanner_for("north", strength=0.7, seed=1) == scanner_for("north", strength=0.7, seed=1)
    scanners = {scanner_for(f"site-{n}", strength=0.7, seed=1) for n in range(20)}
    assert len(scanners) == 20
    assert scanner_for("north", strength=0.7, seed=2) not in scanners


def test_scanners_do_not_differ_at_strength_zero() -> None:
    north, south = (scanner_for(site, strength=0.0, seed=1) for site in ("north", "south"))
    assert (north.contrast, north.gamma, north.noise) == (south.contrast, south.gamma, south.noise)
    assert (north.contrast, north.brightness, north.blur_px, north.stain) == (1.0, 0.0, 0.0, (1, 1))


def test_scanners_stay_within_the_documented_ranges() -> None:
    for number in range(200):
        scanner = scanner_for(f"site-{number}", strength=1.0, seed=0)
        assert 0.75 <= scanner.contrast <= 1.25
        assert -0.12 <= scanner.brightness <= 0.12
        assert 0.75 <= scanner.gamma <= 1.334
        assert 0.008 <= scanner.noise <= 0.038
        assert 0.0 <= scanner.blur_px <= 0.7
        assert 0.0 <= scanner.illumination <= 0.3
        assert all(0.75 <= factor <= 1.25 for factor in scanner.stain)


def test_scanner_strength_outside_its_range_is_refused() -> None:
    with pytest.raises(ConfigError, match="strength"):
        scanner_for("north", strength=1.5, seed=0)


@pytest.mark.parametrize("name", NAMES)
def test_two_sites_show_the_same_patient_differently(name: str) -> None:
    north = draw(name, 0, scanner=scanner_for("north", strength=1.0, seed=0))
    south = draw(name, 0, scanner=scanner_for("south", strength=1.0, seed=0))
    assert np.abs(north.image.astype(int) - south.image).mean() > 6.0
    assert north.targets == south.targets
