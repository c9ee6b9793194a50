"""EBHI-Seg in its own folders: class by folder, patient by file name, masks beside."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.config.run import EbhiSource
from common.datasets.csv_table import read_csv
from common.datasets.ebhi import PATIENT
from common.datasets.sources import FileSourceTable, open_source
from common.errors import DataError
from common.tasks import task_named

CONFIGS = Path(__file__).resolve().parents[4] / "configs"


def open_ebhi(data_root: Path, root: str = "EBHI-SEG") -> FileSourceTable:
    source = open_source(
        EbhiSource(kind="ebhi", root=root, mapping="labels/ebhi.yaml"),
        task=task_named("pathoscan"),
        data_root=data_root,
        config_root=CONFIGS,
        site="coast",
        seed=0,
    )
    assert isinstance(source, FileSourceTable)
    return source


def save_case(tmp_path: Path, class_name: str, name: str, *, with_mask: bool = True) -> None:
    for kind in ("image", "label"):
        (tmp_path / "EBHI-SEG" / class_name / kind).mkdir(parents=True, exist_ok=True)
    folder = tmp_path / "EBHI-SEG" / class_name
    Image.new("RGB", (8, 8), (200, 120, 180)).save(folder / "image" / name)
    if with_mask:
        Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save(folder / "label" / name)


def test_real_classes_become_malignancy(real_data: Path) -> None:
    source = open_ebhi(real_data / "native/ebhi")
    found = {record.image.parent.parent.name: record.targets for record in source.records}
    assert len(source) == 12
    assert found == {
        "Adenocarcinoma": (1.0,),
        "High-grade IN": (1.0,),
        "Low-grade IN": (0.0,),
        "Normal": (0.0,),
        "Polyp": (0.0,),
        "Serrated adenoma": (0.0,),
    }


def test_real_masks_of_healthy_tissue_are_no_lesions(real_data: Path) -> None:
    source = open_ebhi(real_data / "native/ebhi")
    for record in source.records:
        (region,) = record.regions
        is_normal = record.image.parent.parent.name == "Normal"
        assert region.kind == ("region_mask_normal" if is_normal else "lesion_mask")
        assert region.label == (-1 if is_normal else 0)


def test_real_masks_cover_most_of_the_picture(real_data: Path) -> None:
    source = open_ebhi(real_data / "native/ebhi")
    areas = [source.load(i).regions[0].mask.mean() for i in range(len(source))]
    assert 0.4 < np.mean(areas) < 0.8


def test_every_real_file_name_begins_with_its_patient(real_data: Path) -> None:
    index = read_csv(real_data / "real/index.csv")
    kind, path, patient = (index.position(n) for n in ("source", "source_path", "patient_id"))
    rows = [cells for _, cells in index.rows if cells[kind] == "ebhi_seg"]
    assert len(rows) == 329
    spellings = set()
    for cells in rows:
        found = PATIENT.match(Path(cells[path]).name)
        assert found is not None
        spellings.add(found[1])
        assert found[1].upper() + found[2] == cells[patient]
    assert {"GTxc", "GTXC"} <= spellings


def test_two_spellings_of_a_prefix_are_one_patient(tmp_path: Path) -> None:
    save_case(tmp_path, "Polyp", "GTxc2013496-3-400-001.png")
    save_case(tmp_path, "Normal", "GTXC2013496-1-400-002.png")
    source = open_ebhi(tmp_path)
    assert {source.patient(0), source.patient(1)} == {"GTXC2013496"}


def test_picture_without_mask_is_counted(tmp_path: Path) -> None:
    save_case(tmp_path, "Polyp", "GT2001837-1-400-001.png")
    save_case(tmp_path, "Polyp", "GT2001837-1-400-002.png", with_mask=False)
    (excluded,) = open_ebhi(tmp_path).exclusions
    assert excluded.reason == "missing mask"
    assert excluded.row == "Polyp/image/GT2001837-1-400-002.png"


def test_unknown_class_and_unknown_patient_are_counted(tmp_path: Path) -> None:
    save_case(tmp_path, "Polyp", "GT2001837-1-400-001.png")
    save_case(tmp_path, "Lymphoma", "GT2001838-1-400-001.png")
    save_case(tmp_path, "Polyp", "scan 7.png")
    assert sorted(e.reason for e in open_ebhi(tmp_path).exclusions) == [
        "no patient",
        "unknown label",
    ]


def test_folder_without_classes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "EBHI-SEG").mkdir()
    with pytest.raises(DataError, match="no class folders; expected Adenocarcinoma/image"):
        open_ebhi(tmp_path)


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="EBHI-SEG: does not exist"):
        open_ebhi(tmp_path)


def test_unreadable_picture_names_row_file_and_remedy(tmp_path: Path) -> None:
    save_case(tmp_path, "Polyp", "GT2001837-1-400-001.png")
    broken = tmp_path / "EBHI-SEG/Polyp/image/GT2001837-1-400-001.png"
    broken.write_bytes(broken.read_bytes()[:40])
    source = open_ebhi(tmp_path)
    with pytest.raises(DataError, match=r"^Polyp/image/GT2001837-1-400-001\.png: .*copy the file"):
        source.load(0)
