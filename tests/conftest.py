"""Fixtures that every test may ask for."""

import copy
import fcntl
import functools
import gc
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common.files import yaml_file

REPOSITORY = Path(__file__).resolve().parents[1]

# Before torch is loaded: small networks gain nothing from threads, and the suite's processes would
# take each other's cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Files whose tests wait for processes that they have started, the longest first: started first,
# they wait while other workers compute, and none of them is what the whole suite waits for at last.
WAITING = (
    "deployment/test_whole_run.py",
    "server/operations/test_serve.py",
    "federation/test_bad_input.py",
    "client/network/test_connector.py",
    "federation/test_federation.py",
    "client/operations/test_supervisor.py",
    "common/package/test_onnx.py",
    "client/training/test_parallel.py",
    "common/studies/test_audit.py",
    "client/records/test_ledger.py",
    "server/planning/test_preparation.py",
    "architecture/test_light_rooms.py",
)


# What a test writes need not outlast a power cut, and waiting for the disk thousands of times takes
# half a minute. Tests of what is waited for put functions of their own in its place.
os.fsync = lambda _handle: None

# Hundreds of tests begin with the shipped configuration, and its text takes 30 ms to parse.
_parse = functools.lru_cache(maxsize=64)(yaml_file.parse_yaml)
yaml_file.parse_yaml = lambda text: copy.deepcopy(_parse(text))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Collect without looking for garbage: there is none yet among a million objects that stay."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that wait for processes."""
    first = {REPOSITORY / "tests" / file: place for place, file in enumerate(WAITING)}
    items.sort(key=lambda item: first.get(item.path, len(first)))


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

    Its tables take seconds to make, and many tests need a database of their own. All workers of
    one run share one: the first that asks makes it, under a lock.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    path = shared / "empty-tracking.db"

    def database() -> Path:
        with (shared / "empty-tracking.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                from server.journal import tracking

                made = base / "empty-tracking-made.db"
                tracking.connect(f"sqlite:///{made}")
                made.rename(path)
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
