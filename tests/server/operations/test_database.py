"""The SuperLink's database over many rounds: Flower's own object store, real files."""

import sqlite3
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.object_store.sql_object_store import SqlObjectStore

from common.errors import RunError
from server.operations.database import prepare, size, tidy

# Alembic says it of the settings that Flower ships.
pytestmark = pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning")

EXCHANGES = 8
MODEL_FLOATS = 5 * 2**20 // 4  # 5 MB of them


def exchange(store: SqlObjectStore, run_id: int) -> None:
    """What a model leaves in the database: registered, stored, and dropped with its run."""
    model = Array(np.random.default_rng(run_id).standard_normal(MODEL_FLOATS).astype(np.float32))
    store.preregister(run_id, get_object_tree(model))
    for object_id, part in get_all_nested_objects(model).items():
        store.put(object_id, part.deflate())
    store.delete_objects_in_run(run_id)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "superlink" / "state.db"
    prepare(path)
    return path


def opened(path: Path) -> SqlObjectStore:
    store = SqlObjectStore(str(path))
    store.initialize()
    return store


def test_file_stays_small_over_many_exchanges(path: Path) -> None:
    store = opened(path)

    taken = []
    for run_id in range(1, EXCHANGES + 1):
        exchange(store, run_id)
        taken.append(tidy(path, free_mb=1.0))

    assert max(one.file_mb + one.log_mb for one in taken) < 3  # each exchange moved 5 MB
    assert len(store) == 0
    exchange(store, EXCHANGES + 1)  # Flower still works with it


def test_without_housekeeping_the_file_keeps_what_it_once_took(path: Path) -> None:
    store = opened(path)
    exchange(store, 1)
    taken = size(path)
    assert taken.file_mb + taken.log_mb > 5


def test_file_of_a_superlink_that_knew_no_housekeeping_is_compacted_before_start(
    tmp_path: Path,
) -> None:
    path = tmp_path / "state.db"
    store = opened(path)
    for run_id in range(1, 3):
        exchange(store, run_id)
    assert store._engine is not None
    store._engine.dispose()

    prepare(path)

    assert size(path).file_mb < 2
    exchange(opened(path), 3)


def test_rows_are_left_as_they_are(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE kept (value TEXT)")
        database.executemany("INSERT INTO kept VALUES (?)", [("a",), ("b",)])
    database.close()

    tidy(path)
    prepare(path)

    with sqlite3.connect(path) as database:
        assert database.execute("SELECT value FROM kept").fetchall() == [("a",), ("b",)]
    database.close()


def test_busy_file_is_left_for_the_next_time(path: Path) -> None:
    opened(path)
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("CREATE TABLE filled (value BLOB)")
    writer.execute("INSERT INTO filled VALUES (zeroblob(3000000))")
    writer.execute("DROP TABLE filled")
    writer.execute("BEGIN IMMEDIATE")

    taken = tidy(path, free_mb=0.0)

    writer.execute("COMMIT")
    writer.close()
    assert taken.free_mb > 1


def test_damaged_file_is_named_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(b"no database at all" * 1000)
    with pytest.raises(RunError, match="Move it away and start again"):
        prepare(path)
