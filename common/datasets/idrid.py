"""Reads IDRiD in its official folders: disease grading, or lesion segmentation."""

from pathlib import Path

from common.config.run import IdridSource
from common.datasets.csv_table import read_csv
from common.datasets.labels import LabelTable, LeftOut, load_label_table
from common.datasets.record import EVERY_POSITIVE_LABEL, Exclusion, Record, Region
from common.datasets.sources import (
    MISSING_PICTURE,
    OWN_PATIENT,
    FileSourceTable,
    file_source,
    left_out,
    source_path,
)
from common.errors import ConfigError, DataError
from common.files.yaml_file import read_yaml
from common.tasks import Task

TWINS = "labels/idrid_twins.yaml"

GRADING = "B. Disease Grading"
TRAINING_SET, TESTING_SET = "a. Training Set", "b. Testing Set"
GRADE_TABLES = {
    TRAINING_SET: "a. IDRiD_Disease Grading_Training Labels.csv",
    TESTING_SET: "b. IDRiD_Disease Grading_Testing Labels.csv",
}
SEGMENTATION = "A. Segmentation"
LESIONS = {  # folder → suffix of its files, what it shows
    "1. Microaneurysms": ("MA", "microaneurysm"),
    "2. Haemorrhages": ("HE", "haemorrhage"),
    "3. Hard Exudates": ("EX", "hard_exudate"),
    "4. Soft Exudates": ("SE", "soft_exudate"),
}
OPTIC_DISC = ("5. Optic Disc", "OD", "optic_disc")

Key = tuple[str, str]  # official part and name: the same name is another eye in each part


def open_idrid(
    config: IdridSource, *, task: Task, data_root: Path, config_root: Path, site: str, seed: int
) -> FileSourceTable:
    """Read the official folders of IDRiD (Porwal et al. 2018, doi:10.3390/data3030025).

    Both official parts (training and testing) are delivered, each named as the official split of
    its pictures. A lesion without a file is absent. IDRiD names no patients: every picture
    is its own. The segmentation part has no grades and its own numbering; a table of counterparts
    gives each picture the grade, and the patient, of the same eye in the grading part, so that a
    split by patient never parts the two. Pictures without a counterpart are counted exclusions.

    Raises DataError or ConfigError naming file, column or row and the remedy.
    """
    del seed
    labels = load_label_table(config_root / config.mapping, task=task)
    root = source_path(data_root, config.root)
    if config.part == "grading":
        records, exclusions = _graded(root, labels=labels, task=task, site=site)
    else:
        twins = _twins(config_root / TWINS)
        records, exclusions = _segmented(root, twins=twins, labels=labels, task=task, site=site)
    return file_source(
        name=f"{root} ({config.part})", task=task, records=records, exclusions=exclusions
    )


def _graded(
    root: Path, *, labels: LabelTable, task: Task, site: str
) -> tuple[list[Record], list[Exclusion]]:
    records: list[Record] = []
    exclusions: list[Exclusion] = []
    for (part, name), (row, word) in _grades(root).items():
        targets = labels.targets([word], task)
        image = root / GRADING / "1. Original Images" / part / f"{name}.jpg"
        if isinstance(targets, LeftOut):
            exclusions.append(left_out(row, targets))
        elif not image.is_file():
            exclusions.append(Exclusion(MISSING_PICTURE, row, f"no {part}/{image.name}"))
        else:
            patient = _patient(part, name)
            records.append(
                Record(
                    image,
                    patient,
                    site,
                    targets,
                    regions=(),
                    official_split=part,
                    row=row,
                    signs=labels.signs([word]),
                )
            )
    return records, exclusions


def _segmented(
    root: Path, *, twins: dict[str, Key], labels: LabelTable, task: Task, site: str
) -> tuple[list[Record], list[Exclusion]]:
    folder = _folder(root / SEGMENTATION / "1. Original Images")
    grades = _grades(root)
    records: list[Record] = []
    exclusions: list[Exclusion] = []
    for image in sorted(folder.glob("*/*.jpg")):
        row = f"{SEGMENTATION}/{image.parent.name}/{image.name}"
        twin = twins.get(image.stem)
        _, word = grades.get(twin, ("", "")) if twin else ("", "")
        targets = labels.targets([word], task)
        if isinstance(targets, LeftOut):
            exclusions.append(left_out(row, targets))
            continue
        patient = _patient(*twin) if twin else OWN_PATIENT + row
        masks = root / SEGMENTATION / "2. All Segmentation Groundtruths" / image.parent.name
        regions = _regions(masks, image.stem)
        official_split = image.parent.name
        records.append(
            Record(
                image,
                patient,
                site,
                targets,
                regions,
                official_split,
                row,
                outlined=_outlined(masks),
                signs=labels.signs([word]),
            )
        )
    return records, exclusions


def _regions(masks: Path, name: str) -> tuple[Region, ...]:
    # A file that is not there means that the lesion is absent, so a part that was not unpacked
    # would look like healthy eyes: at least one kind of lesion must be there for the part.
    if not any((masks / folder).is_dir() for folder in LESIONS):
        raise DataError(f"{masks}: no lesion folders such as {next(iter(LESIONS))!r}; unpack them.")
    regions = [
        Region("lesion_mask", lesion, label=0, mask=path, box=None, box_frame=None)
        for folder, (suffix, lesion) in LESIONS.items()
        if (path := masks / folder / f"{name}_{suffix}.tif").is_file()
    ]
    folder, suffix, disc = OPTIC_DISC
    path = masks / folder / f"{name}_{suffix}.tif"
    if path.is_file():
        regions.append(Region("optic_disc", disc, EVERY_POSITIVE_LABEL, path, None, None))
    return tuple(regions)


def _outlined(masks: Path) -> tuple[str, ...]:
    """Return the lesions that an official part outlines: those whose folder is there."""
    return tuple(name for folder, (_, name) in LESIONS.items() if (masks / folder).is_dir())


def _grades(root: Path) -> dict[Key, tuple[str, str]]:
    folder = _folder(root / GRADING / "2. Groundtruths")
    grades: dict[Key, tuple[str, str]] = {}
    for part, table_name in GRADE_TABLES.items():
        table = read_csv(folder / table_name)
        name, grade = table.position("Image name"), table.position("Retinopathy grade")
        for row, cells in table.numbered_rows():
            key = (part, cells[name])
            if key in grades:
                raise DataError(f"{row}: {cells[name]} has a row already, {grades[key][0]}.")
            grades[key] = (row, cells[grade])
    return grades


def _twins(path: Path) -> dict[str, Key]:
    loaded = read_yaml(path)
    twins: dict[str, Key] = {}
    for name, value in loaded.items():
        if not (isinstance(value, list) and len(value) == 2):
            raise ConfigError(
                f"{path}: {name}: expected a line like IDRiD_01: [{TRAINING_SET!r}, IDRiD_102], "
                f"got {value!r}."
            )
        twins[name] = (str(value[0]), str(value[1]))
    return twins


def _folder(path: Path) -> Path:
    if not path.is_dir():
        raise DataError(
            f"{path}: no such folder; `root` must hold IDRiD's official folders "
            f"{SEGMENTATION!r} and {GRADING!r}."
        )
    return path


def _patient(part: str, name: str) -> str:
    return f"{OWN_PATIENT}{part}/{name}"
