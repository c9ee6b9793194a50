"""Reads EBHI-Seg in its own folders: one per class, each with ``image`` and ``label``."""

import re
from pathlib import Path

from common.config.run import EbhiSource
from common.datasets.labels import LeftOut, load_label_table
from common.datasets.record import EVERY_POSITIVE_LABEL, Exclusion, Record, Region
from common.datasets.sources import (
    MISSING_MASK,
    NO_PATIENT,
    FileSourceTable,
    file_source,
    left_out,
    source_path,
)
from common.errors import DataError
from common.tasks import Task

NORMAL = "Normal"  # its masks outline healthy glands: never a lesion
PATIENT = re.compile(r"(GT[A-Za-z]*)(\d+)-")  # GT2001837-1-400-002.png, GTxc2013496-3-400-001.png


def open_ebhi(
    config: EbhiSource, *, task: Task, data_root: Path, config_root: Path, site: str, seed: int
) -> FileSourceTable:
    """Read the folders of EBHI-Seg (Shi et al. 2023, doi:10.3389/fmed.2023.1114673).

    The folder's name is the label word. The patient is the file name's prefix in capitals, because
    GTxc and GTXC are one numbering. A picture without its mask is a counted exclusion. Masks of
    class Normal are regions of kind ``region_mask_normal``; those of the other classes are lesion
    masks of the one logit, whether the class maps to malignant or not: a loss or measure that asks
    where the malignancy is must look at positive pictures only.

    Raises DataError or ConfigError naming folder or file and the remedy.
    """
    del seed
    labels = load_label_table(config_root / config.mapping, task=task)
    root = source_path(data_root, config.root)
    records: list[Record] = []
    exclusions: list[Exclusion] = []
    for folder in _class_folders(root):
        targets = labels.targets([folder.name], task)
        for image in sorted((folder / "image").glob("*.png")):
            row = f"{folder.name}/image/{image.name}"
            mask = folder / "label" / image.name
            patient = PATIENT.match(image.name)
            if isinstance(targets, LeftOut):
                exclusions.append(left_out(row, targets))
            elif not mask.is_file():
                exclusions.append(Exclusion(MISSING_MASK, row, f"no {folder.name}/label file"))
            elif patient is None:
                detail = "the file name does not begin with a patient such as GT2001837-"
                exclusions.append(Exclusion(NO_PATIENT, row, detail))
            else:
                records.append(
                    Record(
                        image=image,
                        patient=patient[1].upper() + patient[2],
                        site=site,
                        targets=targets,
                        regions=(_region(mask, class_name=folder.name),),
                        official_split=None,
                        row=row,
                        signs=labels.signs([folder.name]),
                    )
                )
    return file_source(name=str(root), task=task, records=records, exclusions=exclusions)


def _class_folders(root: Path) -> list[Path]:
    folders = sorted(path.parent for path in root.glob("*/image") if path.is_dir())
    if not folders:
        raise DataError(
            f"{root}: no class folders; expected Adenocarcinoma/image, Normal/image and so on "
            "(the folder EBHI-SEG of the published archive)."
        )
    return folders


def _region(mask: Path, *, class_name: str) -> Region:
    is_normal = class_name == NORMAL
    return Region(
        kind="region_mask_normal" if is_normal else "lesion_mask",
        name=class_name,
        label=EVERY_POSITIVE_LABEL if is_normal else 0,
        mask=mask,
        box=None,
        box_frame=None,
    )
