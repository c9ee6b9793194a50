"""Reads NIH ChestX-ray14 in its own layout: Data_Entry table, BBox_List, folders of PNG files."""

from math import isfinite
from pathlib import Path

from common.config.run import NihSource
from common.datasets.csv_table import read_csv
from common.datasets.labels import LabelTable, LeftOut, load_label_table
from common.datasets.record import Exclusion, Record, Region
from common.datasets.sources import (
    MISSING_PICTURE,
    NO_PATIENT,
    FileSourceTable,
    file_source,
    left_out,
    source_path,
)
from common.errors import DataError
from common.tasks import Task

MAPPING = "labels/nih.yaml"
BOX_FRAME = (1024, 1024)  # BBox_List is in pixels of the published 1024x1024 pictures
SPLIT_LISTS = {"train_val": "train_val_list.txt", "test": "test_list.txt"}

Box = tuple[str, tuple[float, float, float, float], str]  # finding, x y width height, row


def open_nih(
    config: NihSource, *, task: Task, data_root: Path, config_root: Path, site: str, seed: int
) -> FileSourceTable:
    """Read the tables of ChestX-ray14 (Wang et al. 2017, arXiv:1705.02315).

    Both published tables are read (2017 and v2020), plain or gzipped, and samples of them; only the
    columns ``Image Index``, ``Finding Labels`` and ``Patient ID`` are used. Pictures may lie in one
    folder or in the archive's ``images_001/images`` and so on. Rows whose picture is not there are
    counted exclusions, so that a part of the archive can be used with the whole table. Where the
    archive's ``train_val_list.txt`` and ``test_list.txt`` lie beside the table, they name the
    official split.

    Raises DataError or ConfigError naming file, column or row and the remedy.
    """
    del seed
    labels = load_label_table(config_root / MAPPING, task=task)
    table = read_csv(source_path(data_root, config.table))
    image, findings, patient = (
        table.position(name) for name in ("Image Index", "Finding Labels", "Patient ID")
    )
    pictures = _pictures(source_path(data_root, config.images))
    boxes = _boxes(source_path(data_root, config.boxes)) if config.boxes else {}
    splits = _official_splits(table.path.parent)
    records: list[Record] = []
    exclusions: list[Exclusion] = []
    for row, cells in table.numbered_rows():
        if cells[image] not in pictures:
            detail = f"{cells[image]} is not below {config.images}"
            exclusions.append(Exclusion(MISSING_PICTURE, row, detail))
            continue
        words = [word.strip() for word in cells[findings].split("|")]
        targets = labels.targets(words, task)
        if isinstance(targets, LeftOut):
            exclusions.append(left_out(row, targets))
            continue
        if not cells[patient].isdecimal():
            exclusions.append(Exclusion(NO_PATIENT, row, f"Patient ID is {cells[patient]!r}"))
            continue
        regions = _regions(boxes.get(cells[image], []), labels=labels, task=task)
        records.append(
            Record(
                image=pictures[cells[image]],
                # "13" in one table is "00000013" in another.
                patient=f"nih-{int(cells[patient]):08d}",
                site=site,
                targets=targets,
                regions=regions,
                official_split=splits.get(cells[image]),
                row=row,
                signs=labels.signs(words),
            )
        )
    return file_source(name=str(table.path), task=task, records=records, exclusions=exclusions)


def _pictures(folder: Path) -> dict[str, Path]:
    pictures: dict[str, Path] = {}
    for path in sorted(folder.rglob("*.png")):
        if path.name in pictures:
            raise DataError(
                f"{path}: also at {pictures[path.name]}; the table names pictures without folders, "
                "so each name may occur once. Remove one."
            )
        pictures[path.name] = path
    return pictures


def _official_splits(folder: Path) -> dict[str, str]:
    splits: dict[str, str] = {}
    for split, file_name in SPLIT_LISTS.items():
        path = folder / file_name
        if not path.is_file():
            continue
        try:
            names = path.read_text(encoding="utf-8").split()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: cannot be read ({error}); copy it again.") from error
        for name in names:
            if splits.setdefault(name, split) != split:
                raise DataError(f"{path}: {name} is in {SPLIT_LISTS[splits[name]]} too; keep one.")
    return splits


def _boxes(path: Path) -> dict[str, list[Box]]:
    # The header's "Bbox [x,y,w,h]" falls into several cells, differently in each copy of the
    # table, so the four numbers are taken by their place after the finding.
    table = read_csv(path, rows_may_be_longer=True)
    image, finding = table.position("Image Index"), table.position("Finding Label")
    boxes: dict[str, list[Box]] = {}
    for row, cells in table.numbered_rows():
        numbers = cells[finding + 1 : finding + 5]
        try:
            x, y, width, height = (float(number) for number in numbers)
        except ValueError as error:
            raise DataError(
                f"{path}, {row}: expected x, y, width, height after the finding, got {numbers}."
            ) from error
        if not (all(map(isfinite, (x, y, width, height))) and width > 0 and height > 0):
            raise DataError(f"{path}, {row}: a box needs a positive width and height: {numbers}.")
        boxes.setdefault(cells[image], []).append((cells[finding], (x, y, width, height), row))
    return boxes


def _regions(boxes: list[Box], *, labels: LabelTable, task: Task) -> tuple[Region, ...]:
    regions = []
    for finding, box, row in boxes:
        logit = labels.logit_of(finding, task)
        if isinstance(logit, LeftOut):
            raise DataError(f"{row}: {logit.detail}; add it to {MAPPING}.")
        if logit is not None:  # None: a finding this run does not ask about
            regions.append(
                Region(
                    kind="lesion_box",
                    name=finding,
                    label=logit,
                    mask=None,
                    box=box,
                    box_frame=BOX_FRAME,
                )
            )
    return tuple(regions)
