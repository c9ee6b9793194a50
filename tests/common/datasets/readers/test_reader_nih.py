"""ChestX-ray14 in its own layout: both tables, the broken headers, boxes in 1024 pixels."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.config.run import NihSource
from common.datasets.record import Source
from common.datasets.sources import FileSourceTable, open_source
from common.errors import DataError
from common.tasks import NIH_FINDINGS, Task, task_named

CONFIGS = Path(__file__).resolve().parents[4] / "configs"
HEADER_2017 = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,"
    "View Position,OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],\n"
)


def open_nih(
    data_root: Path, *, table: str, images: str, boxes: str | None = None, task: Task | None = None
) -> Source:
    return open_source(
        NihSource(kind="nih", table=table, images=images, boxes=boxes),
        task=task or task_named("chestx"),
        data_root=data_root,
        config_root=CONFIGS,
        site="north",
        seed=0,
    )


def save_pictures(folder: Path, *names: str, side: int = 64) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("L", (side, side), 100).save(folder / name)


def small_archive(tmp_path: Path, rows: str, header: str = HEADER_2017) -> Path:
    (tmp_path / "table.csv").write_text(header + rows)
    save_pictures(tmp_path / "images", "00000001_000.png")
    return tmp_path


def test_whole_real_table_reads_and_counts_the_pictures_that_are_not_there(
    real_data: Path,
) -> None:
    source = open_nih(
        real_data / "native/nih",
        table="Data_Entry_2017_v2020.csv.gz",
        images="images",
        boxes="BBox_List_2017.csv",
    )
    assert len(source) == 10
    assert Counter(e.reason for e in source.exclusions) == {"missing picture": 112_110}
    assert {source.patient(i) for i in range(10)} == {
        "nih-00000001",
        "nih-00000002",
        "nih-00000003",
    }


def test_real_pictures_carry_the_findings_of_the_table(real_data: Path) -> None:
    source = open_nih(
        real_data / "native/nih", table="Data_Entry_2017_v2020.sample.csv", images="images"
    )
    assert isinstance(source, FileSourceTable)
    found = {record.image.name: record.targets for record in source.records}
    expected = {"Cardiomegaly", "Emphysema"}
    assert found["00000001_001.png"] == tuple(float(name in expected) for name in NIH_FINDINGS)


def test_real_table_with_padded_patients_names_the_same_patients(
    real_data: Path, tmp_path: Path
) -> None:
    # sample_labels.csv writes 00001153 and 060Y where Data_Entry writes 1153 and 60.
    native = real_data / "native/nih"
    save_pictures(tmp_path / "images", "00001153_004.png")
    for name in ("sample_labels.csv", "Data_Entry_2017_v2020.sample.csv"):
        (tmp_path / name).symlink_to(native / name)
    padded = open_nih(tmp_path, table="sample_labels.csv", images="images")
    plain = open_nih(tmp_path, table="Data_Entry_2017_v2020.sample.csv", images="images")
    patients = {source.patient(i) for source in (padded, plain) for i in range(len(source))}
    assert (len(padded), len(plain)) == (1, 1)
    assert patients == {"nih-00001153"}


def test_real_list_beside_the_table_names_the_official_split(real_data: Path) -> None:
    source = open_nih(
        real_data / "native/nih", table="Data_Entry_2017_v2020.sample.csv", images="images"
    )
    assert isinstance(source, FileSourceTable)
    splits = {r.image.name: source.official_split(i) for i, r in enumerate(source.records)}
    assert splits["00000001_000.png"] == "train_val"
    assert splits["00000003_000.png"] is None  # of the test list, which is not there


def test_picture_in_both_official_lists_is_refused(tmp_path: Path) -> None:
    root = small_archive(tmp_path, "00000001_000.png,Mass,0,1,,,,,,,,\n")
    for name in ("train_val_list.txt", "test_list.txt"):
        (root / name).write_text("00000001_000.png\n")
    with pytest.raises(DataError, match=r"test_list\.txt: 00000001_000\.png is in train_val_list"):
        open_nih(root, table="table.csv", images="images")


def test_first_table_with_its_trailing_comma_is_read(tmp_path: Path) -> None:
    row = "00000001_000.png,Mass|Nodule,0,1,058Y,M,PA,2682,2749,0.143,0.143,\n"
    source = open_nih(small_archive(tmp_path, row), table="table.csv", images="images")
    target = source.targets(0)
    assert {name for name, value in zip(NIH_FINDINGS, target, strict=True) if value} == {
        "Mass",
        "Nodule",
    }


def test_pictures_are_found_in_the_archives_folders(tmp_path: Path) -> None:
    rows = "a.png,Mass,0,1,,,,,,,,\nb.png,No Finding,0,2,,,,,,,,\n"
    (tmp_path / "table.csv").write_text(HEADER_2017 + rows)
    save_pictures(tmp_path / "raw/images_001/images", "a.png")
    save_pictures(tmp_path / "raw/images_002/images", "b.png")
    assert len(open_nih(tmp_path, table="table.csv", images="raw")) == 2


def test_one_name_in_two_folders_is_refused(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text(HEADER_2017 + "a.png,Mass,0,1,,,,,,,,\n")
    save_pictures(tmp_path / "raw/one", "a.png")
    save_pictures(tmp_path / "raw/two", "a.png")
    with pytest.raises(DataError, match="each name may occur once"):
        open_nih(tmp_path, table="table.csv", images="raw")


def test_real_box_lies_where_the_official_list_says(real_data: Path, tmp_path: Path) -> None:
    native = real_data / "native/nih"
    name = "00013118_008.png"  # first row of the list: 225.08, 547.02, 86.78, 79.19
    save_pictures(tmp_path / "images", name, side=512)
    for table in ("Data_Entry_2017_v2020.sample.csv", "BBox_List_2017.csv"):
        (tmp_path / table).symlink_to(native / table)
    source = open_nih(
        tmp_path,
        table="Data_Entry_2017_v2020.sample.csv",
        images="images",
        boxes="BBox_List_2017.csv",
    )
    (region,) = source.load(0).regions
    assert region.name == "Atelectasis"
    assert region.label == NIH_FINDINGS.index("Atelectasis")
    rows, columns = np.nonzero(region.mask)
    assert (columns.min(), columns.max() + 1) == (113, 156)
    assert (rows.min(), rows.max() + 1) == (274, 313)


def test_all_real_boxes_are_read_and_infiltrate_is_infiltration(
    real_data: Path, tmp_path: Path
) -> None:
    native = real_data / "native/nih"
    lines = (native / "BBox_List_2017.csv").read_text().splitlines()[1:]
    names = {line.split(",")[0] for line in lines}
    save_pictures(tmp_path / "images", *names, side=8)
    for table in ("Data_Entry_2017_v2020.sample.csv", "BBox_List_2017.csv"):
        (tmp_path / table).symlink_to(native / table)
    source = open_nih(
        tmp_path,
        table="Data_Entry_2017_v2020.sample.csv",
        images="images",
        boxes="BBox_List_2017.csv",
    )
    assert isinstance(source, FileSourceTable)
    regions = [region for record in source.records for region in record.regions]
    assert len(regions) == 984
    named = Counter(NIH_FINDINGS[region.label] for region in regions)
    assert named["Infiltration"] == 123
    for record in source.records:
        assert all(record.targets[region.label] == 1.0 for region in record.regions)


@pytest.mark.parametrize(
    "header",
    [
        "Image Index,Finding Label,Bbox [x,y,w,h]",
        "Image Index,Finding Label,Bbox [x,y,w,h],,,",
        'Image Index,Finding Label,"Bbox [x,y,w,h]"',
    ],
)
def test_every_copy_of_the_box_header_is_read(tmp_path: Path, header: str) -> None:
    root = small_archive(tmp_path, "00000001_000.png,Mass,0,1,,,,,,,,\n")
    (root / "boxes.csv").write_text(f"{header}\n00000001_000.png,Mass,512,0,512,256\n")
    source = open_nih(root, table="table.csv", images="images", boxes="boxes.csv")
    assert source.load(0).regions[0].mask.mean() == pytest.approx(1 / 8)


def test_box_of_a_finding_that_the_run_does_not_ask_about_is_passed_over(tmp_path: Path) -> None:
    root = small_archive(tmp_path, "00000001_000.png,Mass,0,1,,,,,,,,\n")
    (root / "boxes.csv").write_text(
        "Image Index,Finding Label,Bbox [x,y,w,h]\n00000001_000.png,Mass,512,0,512,256\n"
    )
    task = task_named("chestx", ("Nodule",))
    source = open_nih(root, table="table.csv", images="images", boxes="boxes.csv", task=task)
    assert source.load(0).regions == ()
    assert source.targets(0) == (0.0,)


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ("Mass,512,0,512", "6|cells"),
        ("Mass,512,0,wide,256", "expected x, y, width, height"),
        ("Mass,512,0,0,256", "positive width"),
        ("Lump,512,0,10,256", "'Lump' is in no section"),
    ],
)
def test_malformed_box_is_named_by_row(tmp_path: Path, box: str, message: str) -> None:
    root = small_archive(tmp_path, "00000001_000.png,Mass,0,1,,,,,,,,\n")
    (root / "boxes.csv").write_text(
        f"Image Index,Finding Label,Bbox [x,y,w,h]\n00000001_000.png,{box}\n"
    )
    with pytest.raises(DataError, match=rf"boxes\.csv row 2.*({message})"):
        open_nih(root, table="table.csv", images="images", boxes="boxes.csv")


def test_unknown_finding_and_missing_patient_are_counted(tmp_path: Path) -> None:
    rows = (
        "00000001_000.png,Mass,0,1,,,,,,,,\n"
        "00000001_000.png,Scoliosis,0,1,,,,,,,,\n"
        "00000001_000.png,Mass,0,,,,,,,,,\n"
    )
    source = open_nih(small_archive(tmp_path, rows), table="table.csv", images="images")
    assert [(e.reason, e.row) for e in source.exclusions] == [
        ("unknown label", "table.csv row 3"),
        ("no patient", "table.csv row 4"),
    ]


def test_wrong_column_names_the_nearest(tmp_path: Path) -> None:
    header = HEADER_2017.replace("Finding Labels", "Finding Label")
    root = small_archive(tmp_path, "00000001_000.png,Mass,0,1,,,,,,,,\n", header)
    with pytest.raises(DataError, match=r"'Finding Labels'.*Did you mean 'Finding Label'"):
        open_nih(root, table="table.csv", images="images")


@pytest.mark.parametrize(
    ("table", "images", "missing"),
    [("gone.csv", "images", "gone.csv"), ("table.csv", "gone", "gone")],
)
def test_missing_table_or_folder_is_named(
    tmp_path: Path, table: str, images: str, missing: str
) -> None:
    root = small_archive(tmp_path, "00000001_000.png,Mass,0,1,,,,,,,,\n")
    with pytest.raises(DataError, match=rf"{missing}: does not exist; correct"):
        open_nih(root, table=table, images=images)


def test_missing_data_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such data folder; give the folder"):
        open_nih(tmp_path / "gone", table="table.csv", images="images")


def test_source_without_one_usable_picture_says_why(real_data: Path) -> None:
    with pytest.raises(DataError, match=r"no picture can be used \(5606 missing picture\)"):
        open_nih(real_data / "native/nih", table="sample_labels.csv", images="images")
