"""Fixtures that every test may ask for."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real pictures: ``real/`` (one index) and ``native/`` (the sources' own layouts).

    A folder that is named and not there is a failure; where none is named and none lies beside the
    repository, the test is skipped with the reason, which ``-ra`` shows.
    """
    named = os.environ.get("FOVEA_SHARED_DATA")
    folder = Path(named) if named else REPOSITORY.parent / "shared" / "data"
    found = all((folder / part).exists() for part in ("real/index.csv", "native"))
    if found:
        return folder
    missing = (
        f"real pictures are missing: {folder} holds no real/index.csv and native/. Set "
        "FOVEA_SHARED_DATA to a folder that does; without it the readers are not tested on real "
        "files."
    )
    if named:
        pytest.fail(missing)
    pytest.skip(missing)
