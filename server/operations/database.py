"""Keeps the SuperLink's SQLite file small: what Flower has freed goes back to the disk.

Only SQLite's own housekeeping happens here, never a change of a row: which rows are no longer
needed is Flower's to say (it drops a finished run's messages when runs are listed).
"""

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from common.errors import RunError

MEGABYTE = 2**20
FREE_MB = 32.0  # free space inside the file that is left alone: the next round needs it again
STEP_PAGES = 2048  # given back at once; the file is locked for writing only so long
BUSY_S = 2.0  # how long housekeeping waits for Flower's own writes
_INCREMENTAL = 2  # SQLite's number for auto_vacuum = INCREMENTAL


@dataclass(frozen=True)
class DatabaseSize:
    """What the file takes and what of it holds nothing."""

    file_mb: float
    log_mb: float  # SQLite's write-ahead log beside it
    free_mb: float  # inside the file


def prepare(path: Path) -> None:
    """Make the file ready before the SuperLink opens it: whole, compact, able to shrink later.

    Nobody else may have it open. Raises RunError when it is damaged or cannot be opened.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        with closing(_open(path)) as database:
            problems = [row[0] for row in database.execute("PRAGMA quick_check(1)")]
        if problems != ["ok"]:
            raise sqlite3.DatabaseError(problems[0])
        # Another connection: SQLite refuses to empty the log on one that has just checked it.
        with closing(_open(path)) as database:
            shrinks = _number(database, "auto_vacuum") == _INCREMENTAL
            if not shrinks or _size(database, path).free_mb > FREE_MB:
                database.execute(f"PRAGMA auto_vacuum = {_INCREMENTAL}").fetchall()
                database.execute("VACUUM")  # only now does the setting above take hold
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except sqlite3.Error as error:
        raise RunError(
            f"{path}: the SuperLink's database cannot be used ({error}). Move it away and start "
            "again: admitted sites are registered anew, runs go on with `fovea resume`."
        ) from error


def tidy(path: Path, *, free_mb: float = FREE_MB) -> DatabaseSize:
    """Give free space back while the SuperLink works; return what the file takes then.

    Space beyond ``free_mb`` goes back in short steps, and the write-ahead log is emptied unless
    somebody reads from it just now. A busy file is left for the next time.
    """
    try:
        with closing(_open(path)) as database:
            page_mb = _number(database, "page_size") / MEGABYTE
            surplus = int(_size(database, path).free_mb / page_mb - free_mb / page_mb)
            while surplus > 0:
                step = min(surplus, STEP_PAGES)
                # A script: `execute` would stop after the first page.
                database.executescript(f"PRAGMA incremental_vacuum({step});")
                surplus -= step
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            return _size(database, path)
    except sqlite3.OperationalError as error:
        if "locked" not in str(error):
            raise RunError(f"{path}: housekeeping failed ({error}).") from error
        return size(path)


def size(path: Path) -> DatabaseSize:
    """Return what the file takes. Raises RunError when it is no database."""
    try:
        with closing(_open(path)) as database:
            return _size(database, path)
    except sqlite3.Error as error:
        raise RunError(f"{path}: cannot be read ({error}).") from error


def _open(path: Path) -> sqlite3.Connection:
    # isolation_level None: VACUUM and pragmas must not stand in a transaction.
    return sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)


def _size(database: sqlite3.Connection, path: Path) -> DatabaseSize:
    page_mb = _number(database, "page_size") / MEGABYTE
    log = path.with_name(path.name + "-wal")
    return DatabaseSize(
        file_mb=path.stat().st_size / MEGABYTE,
        log_mb=log.stat().st_size / MEGABYTE if log.exists() else 0.0,
        free_mb=_number(database, "freelist_count") * page_mb,
    )


def _number(database: sqlite3.Connection, pragma: str) -> int:
    return int(database.execute(f"PRAGMA {pragma}").fetchone()[0])
