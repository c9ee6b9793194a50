"""Opens a source by its kind, and the source that reads its pictures from files."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from common.config.run import FileSource
from common.datasets.image_file import read_image
from common.datasets.labels import LeftOut
from common.datasets.record import Case, CaseRegion, Exclusion, Record, Source
from common.datasets.roi_file import all_region_pixels
from common.errors import DataError
from common.registry import Registry
from common.tasks import Task

# Why a row of a table is left out, beside the reasons of the label tables.
MISSING_PICTURE = "missing picture"
MISSING_MASK = "missing mask"
NO_PATIENT = "no patient"

# A picture whose table names no patient is a patient of its own; the prefix says that it is so.
OWN_PATIENT = "picture:"


class OpenSource(Protocol):
    """Reads a source's tables; pixels are read later, one by one."""

    def __call__(
        self,
        config: FileSource,
        *,
        task: Task,
        data_root: Path,
        config_root: Path,
        site: str,
        seed: int,
    ) -> Source:
        """Return the source. Raises DataError or ConfigError naming file, column and remedy."""
        ...


SOURCES: Registry[OpenSource] = Registry(
    "source kind",
    {
        "phantom": "common.datasets.phantom_source:open_phantom",
        "nih": "common.datasets.nih:open_nih",
        "idrid": "common.datasets.idrid:open_idrid",
        "ebhi": "common.datasets.ebhi:open_ebhi",
        "manifest": "common.datasets.manifest:open_manifest",
    },
)


def open_source(
    config: FileSource,
    *,
    task: Task,
    data_root: Path,
    config_root: Path,
    site: str,
    seed: int,
) -> Source:
    """Read the tables of a source and return its cases, pixels unread.

    Args:
        config: What the source is; paths in it are relative to ``data_root``.
        task: The task as the run restricts it.
        data_root: Folder of the pictures (``--data``).
        config_root: Folder of ``default.yaml``; label tables are named from it.
        site: Name for records whose table names no site.
        seed: For generated sources.

    Raises:
        DataError: A table, folder or column is missing, or no row can be used.
        ConfigError: The label table is missing, malformed or of another task.
    """
    opener = SOURCES.get(config.kind)
    return opener(
        config, task=task, data_root=data_root, config_root=config_root, site=site, seed=seed
    )


@dataclass(frozen=True)
class FileSourceTable:
    """A source whose pictures lie in files. Stateless: it can be sent to worker processes."""

    name: str  # for messages
    channels: int
    records: tuple[Record, ...]
    exclusions: Sequence[Exclusion]

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self.records)

    def patient(self, index: int) -> str:
        """Return the patient of a record."""
        return self.records[index].patient

    def targets(self, index: int) -> tuple[float, ...]:
        """Return the target vector of a record."""
        return self.records[index].targets

    def official_split(self, index: int) -> str | None:
        """Return the split that the source's own tables name for a record, None where none."""
        return self.records[index].official_split

    def load(self, index: int) -> Case:
        """Read a record's pixels. Raises DataError naming row, file and remedy.

        A region without a single pixel says nothing and is dropped: an empty lesion mask means that
        the lesion is absent.
        """
        record = self.records[index]
        image, masks = read_pixels(record, channels=self.channels)
        regions = [
            CaseRegion(kind=region.kind, name=region.name, label=region.label, mask=mask)
            for region, mask in zip(record.regions, masks, strict=True)
            if mask.any()
        ]
        return Case(
            image=image,
            patient=record.patient,
            site=record.site,
            targets=record.targets,
            regions=tuple(regions),
            row=record.row,
            outlined=record.outlined,
            signs=record.signs,
        )


def read_pixels(
    record: Record, *, channels: int
) -> tuple[NDArray[np.uint8], list[NDArray[np.bool_]]]:
    """Return a record's picture (H, W, C) and the mask (H, W) of each of its regions.

    Raises DataError naming row, file and remedy.
    """
    try:
        image = read_image(record.image, channels=channels)
        size = (image.shape[1], image.shape[0])
        return image, all_region_pixels(record.regions, size=size)
    except DataError as error:
        raise DataError(f"{record.row}: {error}") from error


def file_source(
    *, name: str, task: Task, records: Sequence[Record], exclusions: Sequence[Exclusion]
) -> FileSourceTable:
    """Return the source of these records. Raises DataError where not one is left, saying why."""
    if not records:
        counts = Counter(exclusion.reason for exclusion in exclusions)
        why = ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
        example = f" First: {exclusions[0].row}: {exclusions[0].detail}." if exclusions else ""
        raise DataError(f"{name}: no picture can be used ({why or 'the table is empty'}).{example}")
    return FileSourceTable(
        name=name, channels=task.channels, records=tuple(records), exclusions=tuple(exclusions)
    )


def left_out(row: str, problem: LeftOut) -> Exclusion:
    """Return the exclusion of a row whose words give no target."""
    return Exclusion(reason=problem.reason, row=row, detail=problem.detail)


def named_file(name: str, *, folder: Path, data_root: Path) -> Path | None:
    """Return the file that a cell of a table names from a folder, None where there is none.

    What lies outside of the data folder is none: a table may come from somebody else, and must not
    choose among all files of a hospital. Links inside of it are followed, wherever they lead.
    """
    path = Path(os.path.normpath(folder / name))  # "link/.." would lead to where the link leads
    if not Path(os.path.abspath(path)).is_relative_to(os.path.abspath(data_root)):
        return None
    try:
        return path if name and path.is_file() else None
    except OSError:  # a name that no file can have, or a folder that may not be looked into
        return None


def source_path(data_root: Path, name: str) -> Path:
    """Return a source's file or folder. Raises DataError where the data folder or it is missing."""
    if not data_root.is_dir():
        raise DataError(f"{data_root}: no such data folder; give the folder of pictures (--data).")
    path = data_root / name
    if not path.exists():
        raise DataError(f"{path}: does not exist; correct the source's path or the data folder.")
    return path
