"""Reads any CSV table of pictures, as ``configs/manifest.md`` describes it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path, PurePosixPath
from typing import get_args

from common.config import ManifestColumns, ManifestSource
from common.datasets.csv_table import CsvTable, read_csv
from common.datasets.labels import LabelTable, LeftOut, load_label_table
from common.datasets.record import EVERY_POSITIVE_LABEL, Exclusion, Record, Region, RoiKind
from common.datasets.sources import (
    MISSING_MASK,
    MISSING_PICTURE,
    OWN_PATIENT,
    FileSourceTable,
    file_source,
    left_out,
    source_path,
)
from common.errors import ConfigError, DataError
from common.registry import unknown_name
from common.tasks import Task

NO_ROI = ("", "none")
ROI_KINDS: dict[str, RoiKind] = {kind: kind for kind in get_args(RoiKind)}


@dataclass(frozen=True)
class _Columns:
    """Where each named column stands; None where the configuration names none."""

    image: int
    labels: int
    patient: int | None
    site: int | None
    roi_mask: int | None
    roi_boxes: int | None
    roi_kind: int | None
    official_split: int | None


@dataclass(frozen=True)
class _Folders:
    """Where the paths of a table start."""

    pictures: Path
    masks: Path
    shown: PurePosixPath  # of the pictures, below the data folder: tells equal names apart


def open_manifest(
    config: ManifestSource, *, task: Task, data_root: Path, config_root: Path, site: str, seed: int
) -> FileSourceTable:
    """Read a table of pictures. Paths in it are relative to the table's own folder.

    Where the configuration names a folder of ``images``, pictures start from that instead.

    Raises DataError or ConfigError naming file, column or row and the remedy: a column or folder
    that is not there, a ``where`` value that no row has, a malformed box, an unknown region kind.
    """
    del seed
    labels = load_label_table(config_root / config.mapping, task=task)
    table = read_csv(source_path(data_root, config.table))
    columns = _positions(table, config.columns)
    own = table.path.parent
    pictures = own if config.images is None else source_path(data_root, config.images)
    shown = PurePosixPath(config.table).parent if config.images is None else config.images
    folders = _Folders(pictures=pictures, masks=own, shown=PurePosixPath(shown))
    records: list[Record] = []
    exclusions: list[Exclusion] = []
    for row, cells in _selected(table, config.where):
        found = _record(
            row, cells, columns, config.label_separator, labels=labels, task=task, folders=folders,
            site=site,
        )  # fmt: skip
        if isinstance(found, Record):
            records.append(found)
        else:
            exclusions.append(found)
    return file_source(name=str(table.path), task=task, records=records, exclusions=exclusions)


def _record(
    row: str,
    cells: tuple[str, ...],
    columns: _Columns,
    separator: str,
    *,
    labels: LabelTable,
    task: Task,
    folders: _Folders,
    site: str,
) -> Record | Exclusion:
    words = [word.strip() for word in cells[columns.labels].split(separator)]
    targets = labels.targets(words, task)
    if isinstance(targets, LeftOut):
        return left_out(row, targets)
    name = cells[columns.image]
    image = folders.pictures / name
    if not name or not image.is_file():
        return Exclusion(MISSING_PICTURE, row, f"no file {name!r} in {folders.pictures}")
    regions = _regions(row, cells, columns, targets, labels=labels, task=task, folder=folders.masks)
    if isinstance(regions, Exclusion):
        return regions
    return Record(
        image=image,
        patient=_cell(cells, columns.patient) or f"{OWN_PATIENT}{folders.shown / name}",
        site=_cell(cells, columns.site) or site,
        targets=targets,
        regions=regions,
        official_split=_cell(cells, columns.official_split) or None,
        row=row,
        signs=labels.signs(words),
    )


def _regions(
    row: str,
    cells: tuple[str, ...],
    columns: _Columns,
    targets: tuple[float, ...],
    *,
    labels: LabelTable,
    task: Task,
    folder: Path,
) -> tuple[Region, ...] | Exclusion:
    written = _cell(cells, columns.roi_kind)
    if written in NO_ROI:
        return ()
    if written not in ROI_KINDS:
        known = {**ROI_KINDS, "none": None}
        raise DataError(f"{row}: {unknown_name('kind of region', written, known)}")
    kind = ROI_KINDS[written]
    mask, boxes = _cell(cells, columns.roi_mask), _cell(cells, columns.roi_boxes)
    if not mask and not boxes:
        return Exclusion(MISSING_MASK, row, f"kind {kind} without a mask or boxes")
    if mask and not (folder / mask).is_file():
        return Exclusion(MISSING_MASK, row, f"no file {mask!r} beside the table")
    is_lesion = kind in ("lesion_mask", "lesion_box")
    nameless = labels.logits_of_mask(targets, task) if is_lesion else (EVERY_POSITIVE_LABEL,)
    usual_name = "lesion" if is_lesion else kind
    regions: list[Region] = []
    if mask:
        mask_kind = "lesion_mask" if is_lesion else kind
        regions += [
            Region(mask_kind, usual_name, logit, folder / mask, None, None) for logit in nameless
        ]
    box_kind = "lesion_box" if is_lesion else kind
    for box, name in _boxes(row, boxes):
        logits = nameless
        if is_lesion and name:
            logit = labels.logit_of(name, task)
            if isinstance(logit, LeftOut):
                return left_out(row, logit)
            logits = () if logit is None else (logit,)  # None: the run does not ask about it
        regions += [
            Region(box_kind, name or usual_name, logit, None, box, None) for logit in logits
        ]
    return tuple(regions)


def _boxes(row: str, cell: str) -> list[tuple[tuple[float, float, float, float], str]]:
    if not cell:
        return []
    remedy = f'{row}: boxes must be JSON like [[x, y, width, height, "Mass"]], got {cell!r}.'
    try:
        loaded = json.loads(cell)
        boxes = []
        for x, y, width, height, *name in loaded:
            box = (float(x), float(y), float(width), float(height))
            if not all(map(isfinite, box)) or box[2] <= 0 or box[3] <= 0 or len(name) > 1:
                raise DataError(remedy)
            boxes.append((box, str(name[0]) if name else ""))
    except (ValueError, TypeError) as error:
        raise DataError(remedy) from error
    return boxes


def _positions(table: CsvTable, columns: ManifestColumns) -> _Columns:
    if columns.roi_kind is None and (columns.roi_mask or columns.roi_boxes):
        raise ConfigError(
            f"{table.path}: columns.roi_kind must name the column that says what masks and boxes "
            "show (lesion_mask, lesion_box, organ_mask_lung ...); a lung mask is not a lesion."
        )
    return _Columns(
        image=table.position(columns.image),
        labels=table.position(columns.labels),
        patient=_optional(table, columns.patient),
        site=_optional(table, columns.site),
        roi_mask=_optional(table, columns.roi_mask),
        roi_boxes=_optional(table, columns.roi_boxes),
        roi_kind=_optional(table, columns.roi_kind),
        official_split=_optional(table, columns.official_split),
    )


def _optional(table: CsvTable, column: str | None) -> int | None:
    return None if column is None else table.position(column)


def _cell(cells: tuple[str, ...], position: int | None) -> str:
    return "" if position is None else cells[position]


def _selected(
    table: CsvTable, where: Mapping[str, tuple[str, ...]]
) -> list[tuple[str, tuple[str, ...]]]:
    wanted = [(table.position(column), column, values) for column, values in where.items()]
    for position, column, values in wanted:
        present = {cells[position]: None for _, cells in table.numbered_rows()}
        for value in values:
            if value not in present:
                problem = unknown_name(f"value of column {column}", value, present)
                raise DataError(f"{table.path}: `where`: {problem}")
    return [
        (row, cells)
        for row, cells in table.numbered_rows()
        if all(cells[position] in values for position, _, values in wanted)
    ]
