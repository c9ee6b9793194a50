"""A provisioned federation and a small run's configuration."""

from pathlib import Path

import pytest

from server.operations.home import CoordinatorHome
from tests.server.operations.coordinators import RUN, provisioned


@pytest.fixture
def home(tmp_path: Path) -> CoordinatorHome:
    return provisioned(tmp_path)


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(RUN)
    return path
