"""A hospital's folder with pictures in files: PNG and DICOM, masks and boxes, a table."""

import csv
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from client.home.folders import SiteHome
from client.home.site import SiteSettings, read_site
from common.config.run import PhantomSource
from common.datasets.phantom_source import open_phantom
from common.tasks import TASKS

SIDE_PX = 96
PATIENTS = 24
COLUMNS = ("image", "labels", "patient", "mask", "boxes", "kind")


@dataclass
class Hospital:
    """A site's folder, and the pictures that its table names."""

    home: SiteHome
    data: Path
    rows: list[dict[str, str]] = field(default_factory=list)

    def write_table(self) -> None:
        with (self.data / "table.csv").open("w", newline="") as stream:
            table = csv.DictWriter(stream, COLUMNS)
            table.writeheader()
            table.writerows(self.rows)

    def change_site(self, **values: object) -> None:
        content = yaml.load(self.home.site_file.read_text(), Loader=yaml.CSafeLoader)
        for key, value in values.items():
            *parents, last = key.split("__")
            place = content
            for parent in parents:
                place = place[parent]
            place[last] = value
        self.home.site_file.write_text(yaml.dump(content, Dumper=yaml.CSafeDumper))

    @property
    def site(self) -> SiteSettings:
        return read_site(self.home.site_file)


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Hospital:
    return make_hospital(tmp_path_factory.mktemp("drawn"))


@pytest.fixture
def hospital(drawn: Hospital, tmp_path: Path) -> Hospital:
    shutil.copytree(drawn.home.root, tmp_path / "site")
    shutil.copytree(drawn.data, tmp_path / "pictures")
    rows = [dict(row) for row in drawn.rows]
    own = Hospital(home=SiteHome(tmp_path / "site"), data=tmp_path / "pictures", rows=rows)
    own.change_site(data=str(own.data))
    return own


@pytest.fixture(scope="session")
def new_hospital() -> Callable[..., Hospital]:
    return make_hospital


def make_hospital(folder: Path, *, patients: int = PATIENTS) -> Hospital:
    home = SiteHome(folder / "site")
    home.trainer.mkdir(parents=True, mode=0o700)
    home.connector.mkdir(mode=0o700)
    home.run.mkdir(mode=0o750)
    hospital = Hospital(home=home, data=folder / "pictures")
    hospital.data.mkdir()
    _draw(hospital, patients)
    hospital.write_table()
    (home.trainer / "words.yaml").write_text(yaml.dump(_label_table(), Dumper=yaml.CSafeDumper))
    home.site_file.write_text(yaml.dump(_site(hospital.data), Dumper=yaml.CSafeDumper))
    return hospital


def _draw(hospital: Hospital, patients: int) -> None:
    task = TASKS["pathoscan"]
    source = open_phantom(
        PhantomSource(
            kind="phantom",
            patients=patients,
            pictures_per_patient=1,
            scanner_strength=0.5,
            lesion_contrast=1.0,
            roi_fraction=1.0,
            marker_agreement=None,
            prevalence=None,
        ),
        task=task,
        site="here",
        seed=1,
    ).drawn_at(SIDE_PX)
    for index in range(patients):
        drawn = source.draw(index)
        is_malignant = drawn.targets[0] == 1.0
        row = dict.fromkeys(COLUMNS, "") | {
            "image": f"picture-{index}.{'dcm' if index % 4 == 0 else 'png'}",
            "labels": "tumour" if is_malignant else "clean",
            "patient": f"secret-{index}",
            "kind": "none",
        }
        if index % 4 == 0:
            write_dicom(hospital.data / row["image"], drawn.image)
        else:
            Image.fromarray(drawn.image).save(hospital.data / row["image"])
        if is_malignant and index % 2:
            row |= {"kind": "lesion_box", "boxes": "[[10, 12, 30, 20]]"}
        elif is_malignant:
            row |= {"kind": "lesion_mask", "mask": f"mask-{index}.png"}
            mask = np.zeros((SIDE_PX, SIDE_PX), dtype=np.uint8)
            mask[20:40, 30:60] = 255
            Image.fromarray(mask).save(hospital.data / row["mask"])
        hospital.rows.append(row)


def write_dicom(path: Path, pixels: NDArray[np.uint8]) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID, file.SOPInstanceUID = (
        meta.MediaStorageSOPClassUID,
        meta.MediaStorageSOPInstanceUID,
    )
    file.Rows, file.Columns = pixels.shape[:2]
    file.SamplesPerPixel, file.PlanarConfiguration = 3, 0
    file.PhotometricInterpretation = "RGB"
    file.BitsAllocated = file.BitsStored = 8
    file.HighBit, file.PixelRepresentation = 7, 0
    file.PixelData = pixels.tobytes()
    file.save_as(path)


def _label_table() -> dict[str, object]:
    return {
        "task": "pathoscan",
        "words": {"tumour": "malignant", "clean": "benign"},
    }


def _site(data: Path) -> dict[str, object]:
    return {
        "name": "north",
        "federation": "trial",
        "task": "pathoscan",
        "labels": None,
        "data": str(data),
        "source": {
            "kind": "manifest",
            "table": "table.csv",
            "images": None,
            "columns": {
                "image": "image",
                "labels": "labels",
                "patient": "patient",
                "site": None,
                "roi_mask": "mask",
                "roi_boxes": "boxes",
                "roi_kind": "kind",
                "official_split": None,
            },
            "where": {},
            "label_separator": "|",
            "mapping": "words.yaml",
        },
        "preparation": {
            "image_size_px": 48,
            "seed": 5,
            "split": {"train": 0.5, "val": 0.25, "test": 0.25},
            "preprocess": {
                "contrast_percentiles": [0.01, 0.99],
                "clahe_clip_limit": 0.01,
                "clahe_tiles": 8,
                "crop_dark_border": False,
                "stain_normalisation": "none",
            },
            "duplicates": {
                "near_distance_bits": 8,
                "near_correlation": 0.94,
                "conflicts": "exclude",
            },
        },
        "machine": {"device": "cpu", "processes": 1, "num_threads": 1},
        "limits": {"request_mb": 200, "request_s": 60.0, "min_free_disk_mb": 10},
    }
