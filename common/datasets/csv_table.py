"""A CSV table as text cells, with errors that name the file, the row and the nearest column."""

import csv
import gzip
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from common.errors import DataError
from common.registry import unknown_name


@dataclass(frozen=True)
class CsvTable:
    """Header and rows of a CSV file; every cell is text without surrounding blanks."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[tuple[int, tuple[str, ...]], ...]  # number as a spreadsheet shows it, and cells

    def position(self, column: str) -> int:
        """Return where a column stands. Raises DataError naming the nearest and all columns."""
        if column not in self.columns or not column:
            known = {name: None for name in self.columns if name}
            raise DataError(f"{self.path}: {unknown_name('column', column, known)}")
        if self.columns.count(column) > 1:
            raise DataError(
                f"{self.path}: two columns are called {column!r}; rename or remove one of them."
            )
        return self.columns.index(column)

    def numbered_rows(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Yield ("index.csv row 2", cells), at least as many cells as there are columns."""
        for number, cells in self.rows:
            yield f"{self.path.name} row {number}", cells


def read_csv(path: Path, *, rows_may_be_longer: bool = False) -> CsvTable:
    """Read a comma-separated table, gzipped where the name ends in ``.gz``.

    Blank lines are skipped. Cells beyond the header are an error where they hold anything, because
    a shifted row would be read under the wrong names; ``rows_may_be_longer`` is for tables whose
    official header is shorter than their rows.

    Raises DataError for a missing, unreadable, undecodable or empty file, and for a row whose
    number of cells does not fit the header.
    """
    try:
        text = _read_text(path)
        lines = [
            (number, tuple(cell.strip() for cell in cells))
            for number, cells in enumerate(csv.reader(io.StringIO(text, newline="")), start=1)
        ]
    except csv.Error as error:
        raise DataError(f"{path}: not a CSV table ({error}); save it as plain CSV.") from error
    if not lines or not any(lines[0][1]):
        raise DataError(f"{path}: the table is empty; its first line must name the columns.")
    columns = lines[0][1]
    named = max(position for position, name in enumerate(columns, start=1) if name)
    rows: list[tuple[int, tuple[str, ...]]] = []
    for number, cells in lines[1:]:
        if not any(cells):
            continue
        too_long = any(cells[len(columns) :]) and not rows_may_be_longer
        if len(cells) < named or too_long:
            raise DataError(
                f"{path} row {number}: {len(cells)} cells under a header of {named}; "
                "quote cells that contain commas, and separate cells by commas."
            )
        rows.append((number, cells + ("",) * (len(columns) - len(cells))))
    return CsvTable(path=path, columns=columns, rows=tuple(rows))


def _read_text(path: Path) -> str:
    if not path.is_file():
        raise DataError(f"{path}: no such table; check the path and the data folder (--data).")
    try:
        raw = path.read_bytes()
        if path.suffix == ".gz":
            raw = gzip.decompress(raw)
        # utf-8-sig: spreadsheets put a byte order mark before the first column's name.
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error}); save it as UTF-8 CSV.") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}); copy it again.") from error
