"""Digests of the code that makes shards: after an update they are prepared again."""

import hashlib
from functools import cache
from importlib.metadata import version
from pathlib import Path

# What decides the pixels of one prepared picture; tables, splits and cards do not.
PIXEL_MODULES = (
    "dicom_file.py",
    "duplicates.py",
    "image_file.py",
    "kept_reading.py",
    "picture_entry.py",
    "picture_size.py",
    "preprocess.py",
    "roi_file.py",
    "sources.py",
    "window.py",
)
PIXEL_LIBRARIES = (
    "ImageHash",
    "numpy",
    "pillow",
    "pydicom",
    "pylibjpeg",
    "pylibjpeg-openjpeg",
    "scikit-image",
    "scipy",
    "torchstain",
)


def code_digest() -> str:
    """Return a digest of all modules that decide a shard's content."""
    here = Path(__file__).parent
    return _digest([*sorted(here.rglob("*.py")), here.parent / "concepts.py"])


@cache
def pixel_code_digest() -> str:
    """Return a digest of the modules and libraries that decide one prepared picture's pixels."""
    here = Path(__file__).parent
    modules = _digest([here / name for name in PIXEL_MODULES])
    libraries = [(name, version(name)) for name in PIXEL_LIBRARIES]
    return hashlib.sha256(repr((modules, libraries)).encode()).hexdigest()


def _digest(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()
