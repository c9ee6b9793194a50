"""Checksums find every way in which a shard's files can differ from what was written."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from common.config.run import DataConfig
from common.datasets.checksums import verify_shard
from common.datasets.prepare import prepare_shard
from common.datasets.record import Case, Source
from common.datasets.shard import SITE_PARTS
from common.tasks import TASKS


@pytest.fixture
def folder(
    held_source: Callable[..., Source],
    make_case: Callable[..., Case],
    data_config: DataConfig,
    tmp_path: Path,
) -> Path:
    prepare_shard(
        held_source([make_case(number) for number in range(10)]),
        task=TASKS["pathoscan"],
        parts=dict(zip(SITE_PARTS, (0.8, 0.1, 0.1), strict=True)),
        data=data_config,
        seed=3,
        out=tmp_path / "shard",
    )
    return tmp_path / "shard"


def test_a_fresh_shard_has_no_problem(folder: Path) -> None:
    assert verify_shard(folder) == []


def test_the_sums_are_those_that_sha256sum_checks(folder: Path) -> None:
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=folder, check=True)


@pytest.mark.parametrize("name", ["images.npy", "targets.npy", "signatures.npy", "part.npy"])
def test_a_single_changed_bit_is_found(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    assert verify_shard(folder) == [f"{name} is not as it was written"]


def test_a_changed_description_is_found(folder: Path) -> None:
    path = folder / "meta.json"
    path.write_text(path.read_text() + "\n")
    assert verify_shard(folder) == ["meta.json is not as it was written"]


def test_missing_added_and_unlisted_files_are_found(folder: Path) -> None:
    (folder / "signatures.npy").unlink()
    np.save(folder / "stranger.npy", np.zeros(3))
    assert verify_shard(folder) == [
        "stranger.npy has no checksum",
        "signatures.npy cannot be read (No such file or directory)",
    ]


def test_a_shard_without_sums_or_that_cannot_be_opened_is_a_problem(folder: Path) -> None:
    (folder / "SHA256SUMS").unlink()
    assert len(verify_shard(folder)) == 1
    shutil.rmtree(folder)
    assert "no shard here" in verify_shard(folder)[0]


def test_sums_that_point_elsewhere_are_refused(folder: Path) -> None:
    (folder / "SHA256SUMS").write_text(f"{'0' * 64}  ../../etc/passwd\n")
    assert "damaged" in verify_shard(folder)[0]
