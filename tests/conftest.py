"""Fixtures that every test may ask for."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

# Before torch is loaded: small networks gain nothing from threads, and the suite's processes would
# take each other's cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")


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


@pytest.fixture(scope="session")
def empty_tracking_database(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Return what gives a database with MLflow's tables, made by MLflow itself when first asked.

    Its tables take two seconds to make, and many tests need a database of their own.
    """
    path = tmp_path_factory.mktemp("tracking") / "empty.db"

    def database() -> Path:
        if not path.exists():
            from server.journal import tracking

            tracking.connect(f"sqlite:///{path}")
        return path

    return database


@pytest.fixture(autouse=True)
def quick_tracking_databases(
    empty_tracking_database: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let a run's database begin as a copy of the empty one, where the test has loaded MLflow."""
    tracking = sys.modules.get("server.journal.tracking")
    if tracking is None:
        return
    connect = tracking.connect

    def connect_to_copy(uri: str) -> object:
        path = Path(uri.removeprefix("sqlite:///"))
        if uri.startswith("sqlite:///") and path.parent.is_dir() and not path.exists():
            with monkeypatch.context() as original:
                original.setattr(tracking, "connect", connect)
                shutil.copy(empty_tracking_database(), path)
        return connect(uri)

    monkeypatch.setattr(tracking, "connect", connect_to_copy)
