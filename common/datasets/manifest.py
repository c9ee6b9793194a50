"""Reads any CSV table of pictures, as ``configs/manifest.md`` describes it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from common.config.run import ManifestColumns, ManifestSource
from common.datasets.csv_table import CsvTable, read_csv
from common.datasets.labels import LabelTable, LeftOut, load_label_table
from common.datasets.manifest_outlines import Outlines, read_outlines
from common.datasets.record import Exclusion, Record, Region
from common.datasets.sources import (
    MISSING_PICTURE,
    OWN_PATIENT,
    FileSourceTable,
    file_source,
    left_out,
    named_file,
    source_path,
)
from common.errors import ConfigError, DataError
from common.registry import unknown_name
from common.tasks import Task


@dataclass(frozen=True)
class _Columns:
    """Where each named column stands; None where the configuration names none."""

    image: int
    labels: int
    patient: int | None
    site: int | None
    roi_mask: int | None
    roi_class_mask: int | None
    roi_boxes: int | None
    roi_kind: int | None
    official_split: int | None


@dataclass(frozen=True)
class _Folders:
    """Where the paths of a table start."""

    pictures: Path
    masks: Path
    root: Path  # the data folder: paths that lead outside of it name nothing
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
    if config.columns.roi_class_mask is not None and not labels.class_mask:
        raise ConfigError(
            f"{config_root / config.mapping}: has no section class_mask, which says what the "
            f"values in the masks of column {config.columns.roi_class_mask!r} outline. Add it, or "
            "set columns.roi_class_mask to null."
        )
    table = read_csv(source_path(data_root, config.table))
    columns = _positions(table, config.columns)
    own = table.path.parent
    pictures = own if config.images is None else source_path(data_root, config.images)
    shown = PurePosixPath(config.table).parent if config.images is None else config.images
    folders = _Folders(pictures=pictures, masks=own, root=data_root, shown=PurePosixPath(shown))
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
    image = named_file(name, folder=folders.pictures, data_root=folders.root)
    if image is None:
        return Exclusion(MISSING_PICTURE, row, f"no file {name!r} in {folders.pictures}")
    outlines = Outlines(
        kind=_cell(cells, columns.roi_kind),
        mask=_cell(cells, columns.roi_mask),
        class_mask=_cell(cells, columns.roi_class_mask),
        boxes=_cell(cells, columns.roi_boxes),
    )
    regions = read_outlines(
        row,
        outlines,
        targets,
        labels=labels,
        task=task,
        folder=folders.masks,
        data_root=folders.root,
    )
    if isinstance(regions, Exclusion):
        return regions
    signs = labels.signs(words)
    return Record(
        image=image,
        patient=_cell(cells, columns.patient) or f"{OWN_PATIENT}{folders.shown / name}",
        site=_cell(cells, columns.site) or site,
        targets=targets,
        regions=regions,
        official_split=_cell(cells, columns.official_split) or None,
        row=row,
        outlined=_outlined(regions, signs, labels=labels, task=task),
        signs=signs,
    )


def _outlined(
    regions: Sequence[Region], signs: Sequence[tuple[str, bool]], *, labels: LabelTable, task: Task
) -> tuple[str, ...]:
    """Return the concepts that are absent wherever a picture's class mask has no pixel of them.

    Not those that its words assert: a spot may be too small for a mask that was reduced.
    """
    if not any(region.of_class for region in regions):
        return ()
    asserted = {concept for concept, is_there in signs if is_there}
    return tuple(sorted(labels.signs_of_class_mask(task) - asserted))


def _positions(table: CsvTable, columns: ManifestColumns) -> _Columns:
    outlines = (columns.roi_mask, columns.roi_boxes, columns.roi_class_mask)
    if columns.roi_kind is None and any(outlines):
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
        roi_class_mask=_optional(table, columns.roi_class_mask),
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
