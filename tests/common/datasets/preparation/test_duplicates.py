"""Duplicates are found on real pictures, and different patients are not taken for one."""

import csv
import io
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from common.config.run import DuplicateConfig
from common.datasets.duplicates import DuplicateReport, Signature, find_duplicates, signature
from common.datasets.record import Case

Found = list[tuple[dict[str, str], Signature]]


def read(path: Path) -> NDArray[np.uint8]:
    picture = Image.open(path)
    pixels = np.asarray(picture if picture.mode in ("L", "RGB") else picture.convert("RGB"))
    return pixels[..., None] if pixels.ndim == 2 else pixels


@pytest.fixture(scope="module")
def index(real_data: Path) -> list[dict[str, str]]:
    with (real_data / "real" / "index.csv").open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def compared(real_data: Path, index: list[dict[str, str]]) -> dict[str, Found]:
    """Per modality: its rows and their signatures."""
    return {
        modality: [
            (row, signature(read(real_data / "real" / row["image"])))
            for row in index
            if row["modality"] == modality
        ]
        for modality in ("cxr", "fundus", "histology")
    }


def report_of(
    found: Found, config: DuplicateConfig, *, split: str | None = None
) -> DuplicateReport:
    patients = [row["patient_id"] or row["image"] for row, _ in found]
    return find_duplicates(
        [sign for _, sign in found],
        patients=patients,
        targets=np.zeros((len(found), 1)),
        config=config,
        splits=[row[split] or None for row, _ in found] if split else None,
    )


def stems(found: Found, pairs: Iterable[tuple[int, int]]) -> set[tuple[str, ...]]:
    return {
        tuple(sorted(found[row][0]["image"].split("/")[-1].split(".")[0] for row in pair))
        for pair in pairs
    }


def test_chest_xrays_of_different_patients_are_not_near_duplicates(
    compared: dict[str, Found], duplicate_config: DuplicateConfig
) -> None:
    report = report_of(compared["cxr"], duplicate_config)
    assert report.shared_pictures == 0


def test_thumbnails_and_originals_of_one_xray_are_found(
    compared: dict[str, Found], duplicate_config: DuplicateConfig
) -> None:
    found = compared["cxr"]
    report = report_of(found, duplicate_config)
    assert len(report.near_pairs) == 23
    same_patient = [
        found[a][0]["patient_id"] == found[b][0]["patient_id"] for a, b in report.near_pairs
    ]
    assert all(same_patient)


def test_an_xray_in_two_official_splits_is_counted(
    compared: dict[str, Found], duplicate_config: DuplicateConfig
) -> None:
    report = report_of(compared["cxr"], duplicate_config, split="official_split")
    assert report.straddling_patients == 22


def test_a_retina_filed_twice_is_an_exact_duplicate(
    compared: dict[str, Found], duplicate_config: DuplicateConfig
) -> None:
    found = compared["fundus"]
    report = report_of(found, duplicate_config)
    assert stems(found, report.exact_pairs) == {("IDRiD_079_a", "IDRiD_279_a")}


def test_two_photographs_of_one_eye_are_near_duplicates_across_the_parts_of_idrid(
    compared: dict[str, Found], duplicate_config: DuplicateConfig
) -> None:
    found = compared["fundus"]
    report = report_of(found, duplicate_config)
    assert stems(found, report.near_pairs) == {
        ("IDRiD_26_a", "IDRiD_299_a"),
        ("IDRiD_271_a", "IDRiD_39_a"),
    }


def test_tissue_tiles_have_no_duplicates(
    compared: dict[str, Found], duplicate_config: DuplicateConfig
) -> None:
    assert report_of(compared["histology"], duplicate_config).groups == ()


@pytest.mark.parametrize(
    ("one", "other", "conflicts"),
    [("021", "391", (0, 1)), ("028", "327", (0, 1)), ("045", "333", ())],
    ids=["grades 1 and 2", "grades 4 and 3", "grade 2 twice, macular edema 0 and 1"],
)
def test_equal_files_that_idrid_grades_differently_conflict(
    real_data: Path,
    duplicate_config: DuplicateConfig,
    one: str,
    other: str,
    conflicts: tuple[int, ...],
) -> None:
    # These files are byte for byte equal in IDRiD; one real retina stands for both of them.
    folder = real_data / "native" / "idrid" / "B. Disease Grading" / "2. Groundtruths"
    with (folder / "a. IDRiD_Disease Grading_Training Labels.csv").open() as stream:
        grades = {row[0]: float(row[1]) for row in list(csv.reader(stream))[1:] if row[0]}
    pixels = read(real_data / "real/fundus/idrid_grading/images/IDRiD_021_a.jpg")
    names = [f"IDRiD_{one}", f"IDRiD_{other}"]
    report = find_duplicates(
        [signature(pixels), signature(pixels)],
        patients=names,
        targets=np.array([[grades[name]] for name in names]),
        config=duplicate_config,
    )
    assert (report.exact_pairs, report.conflicts) == (((0, 1),), conflicts)


def test_a_picture_in_both_official_splits_is_counted(
    make_case: Callable[..., Case], duplicate_config: DuplicateConfig
) -> None:
    # As train 118 = test 064 in IDRiD.
    pixels = make_case(0).image
    report = find_duplicates(
        [signature(pixels), signature(pixels)],
        patients=["train 118", "test 064"],
        targets=np.zeros((2, 1)),
        config=duplicate_config,
        splits=["train", "test"],
    )
    assert (report.straddling_pictures, report.shared_pictures) == (1, 1)


@pytest.mark.parametrize("quality", [90, 60])
def test_a_recompressed_and_shrunk_xray_is_found(
    real_data: Path, index: list[dict[str, str]], duplicate_config: DuplicateConfig, quality: int
) -> None:
    row = next(row for row in index if row["source"] == "nih_full")
    original = Image.open(real_data / "real" / row["image"]).convert("L")
    stream = io.BytesIO()
    original.resize((300, 300)).save(stream, "JPEG", quality=quality)
    copy = np.asarray(Image.open(stream))[..., None]
    report = find_duplicates(
        [signature(np.asarray(original)[..., None]), signature(copy)],
        patients=["covid-285", "covid-339"],
        targets=np.zeros((2, 1)),
        config=duplicate_config,
    )
    assert (report.near_pairs, report.shared_pictures) == (((0, 1),), 1)


def test_labels_conflict_only_where_both_are_known(
    make_case: Callable[..., Case], duplicate_config: DuplicateConfig
) -> None:
    same = signature(make_case(0).image)
    report = find_duplicates(
        [same, same],
        patients=["a", "b"],
        targets=np.array([[1.0, np.nan], [1.0, 0.0]]),
        config=duplicate_config,
    )
    assert (report.groups, report.conflicts) == (((0, 1),), ())


@pytest.mark.parametrize(
    ("labels", "conflicts"),
    [
        ((1.0, 1.0, 0.0), (0, 1, 2)),
        ((1.0, 0.0, 1.0), (0, 1, 2)),
        ((np.nan, 1.0, 0.0), (0, 1, 2)),
        ((np.nan, 1.0, 1.0), ()),
    ],
)
def test_labels_are_judged_over_all_equal_pictures(
    make_case: Callable[..., Case],
    duplicate_config: DuplicateConfig,
    labels: tuple[float, ...],
    conflicts: tuple[int, ...],
) -> None:
    report = find_duplicates(
        [signature(make_case(0).image)] * 3,
        patients=["a", "b", "c"],
        targets=np.array(labels)[:, None],
        config=duplicate_config,
    )
    assert report.conflicts == conflicts


def test_a_near_picture_is_compared_with_every_copy_of_its_like(
    make_case: Callable[..., Case], duplicate_config: DuplicateConfig
) -> None:
    pixels = make_case(0).image
    touched = pixels.copy()
    touched[0, 0] ^= 1
    report = find_duplicates(
        [signature(pixels), signature(pixels), signature(touched)],
        patients=["p1", "p2", "p1"],
        targets=np.array([[1.0], [1.0], [0.0]]),
        config=duplicate_config,
    )
    assert report.near_pairs == ((0, 2),)
    assert report.conflicts == (0, 1, 2)


def test_near_pictures_of_one_patient_may_have_different_labels(
    make_case: Callable[..., Case], duplicate_config: DuplicateConfig
) -> None:
    pixels = make_case(0).image
    touched = pixels.copy()
    touched[0, 0] ^= 1
    signatures = [signature(pixels), signature(touched)]
    labels = np.array([[0.0], [1.0]])
    one = find_duplicates(signatures, patients=["a", "a"], targets=labels, config=duplicate_config)
    two = find_duplicates(signatures, patients=["a", "b"], targets=labels, config=duplicate_config)
    assert (one.near_pairs, one.conflicts, two.conflicts) == (((0, 1),), (), (0, 1))


def test_equal_bytes_of_another_shape_are_another_picture(
    duplicate_config: DuplicateConfig,
) -> None:
    pixels = np.arange(64, dtype=np.uint8)
    tall, wide = pixels.reshape(16, 4, 1), pixels.reshape(4, 16, 1)
    assert signature(tall).digest != signature(wide).digest


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_groups_are_the_connected_pictures(seed: int) -> None:
    rng = np.random.default_rng(seed)
    originals = rng.integers(0, 256, (6, 16, 16, 1), dtype=np.uint8)
    which = rng.integers(0, 6, 12)
    report = find_duplicates(
        [signature(originals[number]) for number in which],
        patients=[str(row) for row in range(12)],
        targets=np.zeros((12, 1)),
        config=DuplicateConfig(near_distance_bits=0, near_correlation=1.0, conflicts="keep"),
    )
    expected = {
        tuple(np.flatnonzero(which == number).tolist())
        for number in range(6)
        if (which == number).sum() > 1
    }
    assert set(report.groups) == expected


def test_nothing_to_compare_gives_an_empty_report(duplicate_config: DuplicateConfig) -> None:
    report = find_duplicates([], patients=[], targets=np.zeros((0, 1)), config=duplicate_config)
    assert report.groups == ()
