"""Keeps prepared pictures by content, so that preparing again reads only what has changed.

One SQLite file: every picture is durable against a killed process as soon as it is put, none is a
file of its own, and what is deleted is overwritten. Each entry carries a SHA-256; a damaged one
counts as missing. Names of files are kept as digests only.
"""

import hashlib
import logging
import os
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Self

from common.datasets.picture_entry import KeptPicture, decode_picture, encode_picture
from common.errors import DataError

log = logging.getLogger(__name__)

STORE = "pictures.sqlite"
LAYOUT = 1  # of the tables below; raise it when they change
BLOCK_BYTES = 2**20  # read at once while a file is hashed
_TABLES = """
CREATE TABLE IF NOT EXISTS files (
    path BLOB PRIMARY KEY, size INTEGER, mtime_ns INTEGER, inode INTEGER, digest BLOB);
CREATE TABLE IF NOT EXISTS pictures (
    key BLOB PRIMARY KEY, settings BLOB, checksum BLOB, content BLOB);
CREATE INDEX IF NOT EXISTS pictures_by_settings ON pictures (settings);
"""


class StoreDamagedError(DataError):
    """The picture store cannot be read: delete its folder; the pictures are then read anew."""


@dataclass(frozen=True)
class PictureKey:
    """What a prepared picture depends on."""

    settings: bytes  # digest of code, size, channels and preprocessing
    content: bytes  # digest of the picture's file

    @property
    def digest(self) -> bytes:
        """The name of the entry."""
        return hashlib.sha256(self.settings + self.content).digest()


@dataclass(frozen=True)
class FileState:
    """By what a file is known to be unchanged without reading it."""

    size: int
    mtime_ns: int
    inode: int


def file_state(path: Path) -> FileState:
    """Return a file's state. Raises DataError when it is not there."""
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); mend path or rights."
        ) from error
    return FileState(status.st_size, status.st_mtime_ns, status.st_ino)


class PictureStore:
    """The kept pictures of one site. Threads may share it, processes must not."""

    def __init__(self, folder: Path, *, verify: bool = False) -> None:
        """Open or make the store.

        Args:
            folder: Its folder, for its owner alone; it is made.
            verify: Whether to hash every file again even if its size and time are unchanged.

        Raises:
            StoreDamagedError: What lies there is not a store that can be read.
        """
        self.taken = 0  # pictures that did not have to be read
        self.damaged = 0  # entries whose checksum was wrong
        self._path = folder / STORE
        self._verify = verify
        self._lock = Lock()
        self._used_pictures: set[bytes] = set()
        self._used_files: set[bytes] = set()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # SQLite gives its journals the rights of the database, so that is made first.
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
        with self._explained():
            self._database = sqlite3.connect(
                self._path, isolation_level=None, check_same_thread=False
            )
            try:
                self._prepare_tables()
            except BaseException:
                self._database.close()
                raise

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the store."""
        with self._lock:  # SQLite does not survive being closed under a thread that reads
            self._database.close()

    def file_digest(self, path: Path) -> bytes:
        """Return the SHA-256 of a file's content, remembered while size, time and inode stay.

        Raises:
            DataError: The file cannot be read.
        """
        name = hashlib.sha256(os.fsencode(path.absolute())).digest()
        state = file_state(path)
        now = (state.size, state.mtime_ns, state.inode)
        with self._lock, self._explained():
            self._used_files.add(name)
            row = self._database.execute(
                "SELECT size, mtime_ns, inode, digest FROM files WHERE path = ?", (name,)
            ).fetchone()
        if row is not None and tuple(row[:3]) == now and not self._verify:
            return bytes(row[3])
        digest = _hashed(path)
        with self._lock, self._explained():
            self._database.execute(
                "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)", (name, *now, digest)
            )
        return digest

    def take(self, key: PictureKey, *, outlines: Collection[bytes]) -> KeptPicture | None:
        """Return a kept picture, None where it or one of these outlines is not kept."""
        picture = self._get(key)
        if picture is None or not set(outlines) <= picture.outlines.keys():
            return None
        with self._lock:
            self.taken += 1
        return picture

    def put(self, key: PictureKey, picture: KeptPicture) -> None:
        """Keep a picture, beside the outlines that were kept of it before."""
        former = self._get(key)
        if former is not None:
            picture = replace(picture, outlines={**former.outlines, **picture.outlines})
        content = encode_picture(picture)
        checksum = _checksum(key, content)
        with self._lock, self._explained():
            self._database.execute(
                "INSERT OR REPLACE INTO pictures (key, settings, checksum, content) "
                "VALUES (?, ?, ?, ?)",
                (key.digest, key.settings, checksum, content),
            )

    def count(self, settings: bytes) -> int:
        """Return how many pictures are kept of these settings."""
        with self._lock, self._explained():
            (count,) = self._database.execute(
                "SELECT COUNT(*) FROM pictures WHERE settings = ?", (settings,)
            ).fetchone()
        return int(count)

    def prune(self) -> int:
        """Erase what nobody has asked for since the store was opened; return how many pictures."""
        with self._lock, self._explained():
            with self._database:
                self._database.execute("BEGIN")
                removed = self._keep_only("pictures", "key", self._used_pictures)
                self._keep_only("files", "path", self._used_files)
            # Both give space back to the disk. `execute` would free a single page of it.
            self._database.executescript("PRAGMA incremental_vacuum")
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return removed

    def _get(self, key: PictureKey) -> KeptPicture | None:
        with self._lock, self._explained():
            self._used_pictures.add(key.digest)
            row = self._database.execute(
                "SELECT checksum, content FROM pictures WHERE key = ?", (key.digest,)
            ).fetchone()
        if row is None:
            return None
        checksum, content = row
        if _checksum(key, content) == checksum:
            return decode_picture(content)
        with self._lock, self._explained():
            self.damaged += 1
            self._database.execute("DELETE FROM pictures WHERE key = ?", (key.digest,))
        log.warning("a kept picture is damaged, read anew", extra={"action": "picture_damaged"})
        return None

    def _prepare_tables(self) -> None:
        execute = self._database.execute
        execute("PRAGMA auto_vacuum = INCREMENTAL")  # before the first table, or never
        execute("PRAGMA journal_mode = WAL")
        execute("PRAGMA synchronous = NORMAL")
        execute("PRAGMA secure_delete = ON")
        (layout,) = execute("PRAGMA user_version").fetchone()
        if layout not in (0, LAYOUT):
            raise StoreDamagedError(f"{self._path}: of another version; delete its folder.")
        self._database.executescript(_TABLES)
        execute(f"PRAGMA user_version = {LAYOUT}")

    def _keep_only(self, table: str, column: str, used: Collection[bytes]) -> int:
        execute = self._database.execute
        execute("CREATE TEMP TABLE used (name BLOB PRIMARY KEY)")
        self._database.executemany("INSERT INTO used VALUES (?)", ((name,) for name in used))
        # Table and column are this file's own words.
        cursor = execute(f"DELETE FROM {table} WHERE {column} NOT IN (SELECT name FROM used)")  # noqa: S608
        execute("DROP TABLE used")
        return cursor.rowcount

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what SQLite says into what the reader can do."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
            if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                raise StoreDamagedError(
                    f"{self._path}: the picture store is damaged; delete its folder and prepare "
                    "again."
                ) from error
            if code == sqlite3.SQLITE_FULL:
                raise DataError(
                    f"{self._path}: the disk is full; make room and prepare again: what was read "
                    "so far is kept."
                ) from error
            raise DataError(
                f"{self._path}: the picture store cannot be used ({error}); check the rights of "
                "its folder and the disk."
            ) from error


def _checksum(key: PictureKey, content: bytes) -> bytes:
    # The key belongs to it: a content under another picture's name is as wrong as a broken one.
    return hashlib.sha256(key.digest + content).digest()


def _hashed(path: Path) -> bytes:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while block := stream.read(BLOCK_BYTES):
                digest.update(block)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); mend path or rights."
        ) from error
    return digest.digest()
