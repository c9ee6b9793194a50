"""A provisioned federation and a small run's configuration."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.operations.home import CoordinatorHome
from tests.server.operations.coordinators import RUN, provisioned


@pytest.fixture(autouse=True)
def _mask_of_new_files_stays() -> Iterator[None]:
    """`fovea serve` closes its files to others for its whole life; here other tests come after."""
    former = os.umask(0o022)
    os.umask(former)
    yield
    os.umask(former)


@pytest.fixture
def home(tmp_path: Path) -> CoordinatorHome:
    return provisioned(tmp_path)


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(RUN)
    return path
