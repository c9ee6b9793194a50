"""Which pictures to explain, under which names, and with which expert's masks. Light."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import DataError

# DICOM files often have no suffix at all.
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm", ".dicom", "")
MASK_SUFFIXES = (".png", ".tif", ".tiff")
INDEX = "index"  # the name of the page of all pages


@dataclass(frozen=True)
class Job:
    """One picture and the name of its page, without suffix."""

    picture: Path
    name: str
    region: Path | None  # mask of an expert's region
    disc: Path | None  # mask of the optic disc


def jobs_of(
    paths: Sequence[Path], *, regions: Path | None = None, discs: Path | None = None
) -> tuple[Job, ...]:
    """Return one job per picture, folders searched through, with names that are all different.

    Args:
        paths: Files, taken as they are, and folders, of which files with a known suffix or none
            are taken, hidden ones left out. A picture named twice is explained once.
        regions: A mask, for a single picture, or a folder of masks named like their pictures.
        discs: The same for the optic disc.

    Raises:
        DataError: A path that is not there, no picture at all, or one mask for several pictures.
    """
    pictures = list(dict.fromkeys(picture for path in paths for picture in _found(path)))
    if not pictures:
        places = ", ".join(map(str, paths))
        raise DataError(f"no picture in {places}; files may end in {', '.join(SUFFIXES[:-1])}.")
    for masks in (regions, discs):
        if masks is not None and not masks.exists():
            raise DataError(f"{masks}: no such file or folder; check the path of the masks.")
        if masks is not None and masks.is_file() and len(pictures) > 1:
            raise DataError(
                f"{masks}: one mask cannot belong to {len(pictures)} pictures; give a folder of "
                "masks that are named like their pictures."
            )
    return tuple(
        Job(picture, name, _mask(regions, picture), _mask(discs, picture))
        for picture, name in zip(pictures, _distinct(pictures), strict=True)
    )


def _found(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        if not path.exists():
            raise DataError(f"{path}: no such file or folder; check the path.")
        yield path
        return
    for inside in sorted(path.rglob("*")):
        is_hidden = any(part.startswith(".") for part in inside.relative_to(path).parts)
        if inside.is_file() and not is_hidden and inside.suffix.lower() in SUFFIXES:
            yield inside


def _distinct(pictures: Sequence[Path]) -> Iterator[str]:
    """Name each page after its picture; of equal names all but the first get a number."""
    # Some file systems do not tell upper from lower case.
    taken = {INDEX}
    for picture in pictures:
        number, name = 1, picture.stem
        while name.lower() in taken:
            number += 1
            name = f"{picture.stem}-{number}"
        taken.add(name.lower())
        yield name


def _mask(masks: Path | None, picture: Path) -> Path | None:
    if masks is None or masks.is_file():
        return masks
    found = [masks / f"{picture.stem}{suffix}" for suffix in MASK_SUFFIXES]
    return next((mask for mask in found if mask.is_file()), None)
