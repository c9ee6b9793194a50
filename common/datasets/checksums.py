"""The checksums of a shard's files, so that a damaged disk is found before a model learns from it.

They lie in ``SHA256SUMS`` beside the arrays, in the form that ``sha256sum --check`` reads.
"""

import hashlib
import os
from pathlib import Path

from common.datasets.shard import META, open_shard
from common.errors import DataError

SUMS = "SHA256SUMS"
BLOCK_BYTES = 2**20


def write_checksums(folder: Path) -> None:
    """Write the checksums of a whole shard, and make its files durable."""
    names = [META, *sorted(path.name for path in folder.glob("*.npy"))]
    lines = [f"{_checksum(folder / name)}  {name}\n" for name in names]
    (folder / SUMS).write_text("".join(lines), encoding="ascii")
    for path in (*(folder / name for name in names), folder / SUMS, folder):
        _make_durable(path)


def verify_shard(folder: Path) -> list[str]:
    """Return what is wrong with a prepared shard, one sentence each; every byte of it is read."""
    try:
        shard = open_shard(folder)
        expected = _read_sums(folder / SUMS)
    except DataError as error:
        return [str(error)]
    del shard
    present = {META, *(path.name for path in folder.glob("*.npy"))}
    problems = [f"{name} has no checksum" for name in sorted(present - expected.keys())]
    for name, checksum in expected.items():
        try:
            if _checksum(folder / name) != checksum:
                problems.append(f"{name} is not as it was written")
        except OSError as error:
            problems.append(f"{name} cannot be read ({error.strerror})")
    return problems


def _read_sums(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read; prepare the shard again.") from error
    sums = {name: checksum for checksum, _, name in (line.partition("  ") for line in lines)}
    if not sums or any(Path(name).name != name for name in sums):
        raise DataError(f"{path}: damaged; prepare the shard again.")
    return sums


def _checksum(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _make_durable(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
