"""IDRiD in its official folders: odd tables, two numberings, lesions that are simply absent."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.config.run import IdridSource
from common.datasets.csv_table import read_csv
from common.datasets.idrid import TWINS, _grades, _twins
from common.datasets.record import Source
from common.datasets.sources import FileSourceTable, open_source
from common.errors import ConfigError, DataError
from common.tasks import task_named

CONFIGS = Path(__file__).resolve().parents[4] / "configs"
TRAINING = "a. Training Set"


def open_idrid(data_root: Path, part: str, root: str = "idrid") -> FileSourceTable:
    source: Source = open_source(
        IdridSource(kind="idrid", root=root, part=part, mapping="labels/idrid.yaml"),
        task=task_named("retina"),
        data_root=data_root,
        config_root=CONFIGS,
        site="valley",
        seed=0,
    )
    assert isinstance(source, FileSourceTable)
    return source


def small_copy(real_data: Path, tmp_path: Path) -> Path:
    """Copy the tables and put tiny pictures and masks of one eye beside them."""
    native = real_data / "native/idrid"
    tables = "B. Disease Grading/2. Groundtruths"
    shutil.copytree(native / tables, tmp_path / "idrid" / tables)
    pictures = tmp_path / "idrid/A. Segmentation/1. Original Images" / TRAINING
    pictures.mkdir(parents=True)
    Image.new("RGB", (16, 12)).save(pictures / "IDRiD_01.jpg")
    save_mask(tmp_path, "1. Microaneurysms", "IDRiD_01_MA.tif", marked=[(2, 3)])
    return tmp_path


def save_mask(tmp_path: Path, lesion: str, name: str, marked: list[tuple[int, int]]) -> None:
    groundtruths = tmp_path / "idrid/A. Segmentation/2. All Segmentation Groundtruths"
    folder = groundtruths / TRAINING / lesion
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((12, 16), np.uint8)
    for row, column in marked:
        pixels[row, column] = 1
    picture = Image.fromarray(pixels).convert("P")
    picture.putdata(pixels.ravel().tolist())
    picture.save(folder / name)


def test_real_grading_tables_are_read_in_spite_of_unnamed_columns(real_data: Path) -> None:
    source = open_idrid(real_data / "native", "grading")
    assert [record.targets for record in source.records] == [(3.0,), (3.0,), (4.0,), (4.0,)]
    assert Counter(e.reason for e in source.exclusions) == {"missing picture": 512}


def test_real_training_table_has_the_header_that_is_expected_here(real_data: Path) -> None:
    folder = real_data / "native/idrid/B. Disease Grading/2. Groundtruths"
    table = read_csv(folder / "a. IDRiD_Disease Grading_Training Labels.csv")
    assert table.columns.count("") == 9
    assert table.position("Risk of macular edema") == 2  # written with a trailing blank
    assert len(table.rows) == 413


def test_one_name_in_both_official_parts_is_two_patients(real_data: Path) -> None:
    source = open_idrid(real_data / "native", "grading")
    names = [record.image.name for record in source.records]
    assert Counter(names) == {"IDRiD_001.jpg": 2, "IDRiD_002.jpg": 2}
    assert len({source.patient(i) for i in range(4)}) == 4


def test_official_part_of_a_picture_is_its_official_split(real_data: Path) -> None:
    source = open_idrid(real_data / "native", "grading")
    assert Counter(source.official_split(i) for i in range(4)) == {
        TRAINING: 2,
        "b. Testing Set": 2,
    }
    assert open_idrid(real_data / "native", "segmentation").official_split(0) == TRAINING


def test_malformed_line_of_the_counterparts_is_named(tmp_path: Path) -> None:
    (tmp_path / "twins.yaml").write_text("IDRiD_01: IDRiD_102\n")
    with pytest.raises(ConfigError, match=r"IDRiD_01: expected a line like"):
        _twins(tmp_path / "twins.yaml")


def test_real_conflicting_copies_are_delivered_as_the_tables_tell_them(real_data: Path) -> None:
    grades = _grades(real_data / "native/idrid")
    pairs = [("021", "391"), ("028", "327"), ("045", "333")]
    told = [tuple(grades[TRAINING, f"IDRiD_{name}"][1] for name in pair) for pair in pairs]
    assert told == [("1", "2"), ("4", "3"), ("2", "2")]  # the third pair differs in oedema only
    assert (TRAINING, "IDRiD_118") in grades
    assert ("b. Testing Set", "IDRiD_064") in grades


def test_real_lesion_masks_are_named_and_the_optic_disc_is_no_lesion(real_data: Path) -> None:
    source = open_idrid(real_data / "native", "segmentation")
    case = source.load(0)
    assert case.image.shape == (2848, 4288, 3)
    found = {region.name: (region.kind, region.label) for region in case.regions}
    assert found == {  # no soft exudates in this eye: the file is not there
        "microaneurysm": ("lesion_mask", 0),
        "haemorrhage": ("lesion_mask", 0),
        "hard_exudate": ("lesion_mask", 0),
        "optic_disc": ("optic_disc", -1),
    }
    pixels = {region.name: int(region.mask.sum()) for region in case.regions}
    assert pixels["microaneurysm"] == 6_941
    assert pixels["haemorrhage"] == 35_430


def test_segmented_eye_has_the_grade_and_patient_of_its_counterpart(real_data: Path) -> None:
    # IDRiD_01 is not IDRiD_001 (grade 3) but IDRiD_102 (grade 2).
    source = open_idrid(real_data / "native", "segmentation")
    assert source.targets(0) == (2.0,)
    assert source.patient(0) == "picture:a. Training Set/IDRiD_102"


def test_segmented_eye_without_counterpart_is_counted(real_data: Path) -> None:
    source = open_idrid(real_data / "native", "segmentation")
    (excluded,) = source.exclusions
    assert excluded.reason == "no label"
    assert "IDRiD_55" in excluded.row


def test_counterparts_have_the_grades_of_the_real_index(real_data: Path) -> None:
    index = read_csv(real_data / "real/index.csv")
    image, source, label = (index.position(name) for name in ("image", "source", "label"))
    listed = {
        Path(cells[image]).stem.removesuffix("_a"): cells[label]
        for _, cells in index.rows
        if cells[source] == "idrid_seg" and cells[label]
    }
    grades = _grades(real_data / "native/idrid")
    twins = _twins(CONFIGS / TWINS)
    assert {name: grades[key][1] for name, key in twins.items()} == listed


def test_missing_lesion_file_means_the_lesion_is_absent(real_data: Path, tmp_path: Path) -> None:
    source = open_idrid(small_copy(real_data, tmp_path), "segmentation")
    assert [region.name for region in source.load(0).regions] == ["microaneurysm"]


def test_signs_are_known_where_their_folder_is_there(real_data: Path, tmp_path: Path) -> None:
    root = small_copy(real_data, tmp_path)
    assert open_idrid(root, "segmentation").load(0).outlined == ("microaneurysm",)
    save_mask(tmp_path, "4. Soft Exudates", "IDRiD_99_SE.tif", marked=[])
    source = open_idrid(root, "segmentation")
    assert source.load(0).outlined == ("microaneurysm", "soft_exudate")


def test_lesion_file_that_marks_nothing_means_the_same(real_data: Path, tmp_path: Path) -> None:
    root = small_copy(real_data, tmp_path)
    save_mask(tmp_path, "4. Soft Exudates", "IDRiD_01_SE.tif", marked=[])
    assert [r.name for r in open_idrid(root, "segmentation").load(0).regions] == ["microaneurysm"]


def test_part_without_any_lesion_folder_is_not_taken_for_healthy(
    real_data: Path, tmp_path: Path
) -> None:
    root = small_copy(real_data, tmp_path)
    shutil.rmtree(root / "idrid/A. Segmentation/2. All Segmentation Groundtruths" / TRAINING)
    with pytest.raises(DataError, match=r"no lesion folders such as '1\. Microaneurysms'; unpack"):
        open_idrid(root, "segmentation")


def test_mask_of_another_size_names_row_and_file(real_data: Path, tmp_path: Path) -> None:
    root = small_copy(real_data, tmp_path)
    masks = root / "idrid/A. Segmentation/2. All Segmentation Groundtruths" / TRAINING
    Image.new("1", (4, 4), 1).save(masks / "1. Microaneurysms/IDRiD_01_MA.tif")
    source = open_idrid(root, "segmentation")
    with pytest.raises(DataError, match=r"IDRiD_01\.jpg: .*IDRiD_01_MA\.tif: mask of 4x4"):
        source.load(0)


def test_folder_that_is_not_idrid_is_refused(tmp_path: Path) -> None:
    (tmp_path / "idrid").mkdir()
    with pytest.raises(DataError, match="must hold IDRiD's official folders"):
        open_idrid(tmp_path, "grading")


def test_wrong_column_is_named(real_data: Path, tmp_path: Path) -> None:
    root = small_copy(real_data, tmp_path)
    table = root / "idrid/B. Disease Grading/2. Groundtruths"
    path = table / "a. IDRiD_Disease Grading_Training Labels.csv"
    path.chmod(0o644)
    path.write_text(path.read_text().replace("Retinopathy grade", "Retinopathy  Grade"))
    with pytest.raises(DataError, match=r"'Retinopathy grade'.*Did you mean 'Retinopathy  Grade'"):
        open_idrid(root, "grading")


def test_name_that_stands_twice_in_a_table_is_refused(real_data: Path, tmp_path: Path) -> None:
    root = small_copy(real_data, tmp_path)
    table = root / "idrid/B. Disease Grading/2. Groundtruths"
    path = table / "b. IDRiD_Disease Grading_Testing Labels.csv"
    path.chmod(0o644)
    path.write_text(path.read_text() + "IDRiD_001,0,0\n")
    with pytest.raises(DataError, match="IDRiD_001 has a row already"):
        open_idrid(root, "grading")


def test_grade_outside_the_scale_is_counted(real_data: Path, tmp_path: Path) -> None:
    root = small_copy(real_data, tmp_path)
    table = root / "idrid/B. Disease Grading/2. Groundtruths"
    path = table / "a. IDRiD_Disease Grading_Training Labels.csv"
    path.chmod(0o644)
    path.write_text(path.read_text().replace("IDRiD_102,2,", "IDRiD_102,5,"))
    with pytest.raises(DataError, match=r"1 unknown label.*'5' is in no section"):
        open_idrid(root, "segmentation")
