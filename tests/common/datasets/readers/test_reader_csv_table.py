"""CSV tables as text, with errors that name the file, the row and the nearest column."""

import gzip
from pathlib import Path

import pytest

from common.datasets.csv_table import read_csv
from common.errors import DataError


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "table.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_cells_are_text_without_blanks_and_rows_are_numbered_as_in_a_spreadsheet(
    tmp_path: Path,
) -> None:
    table = read_csv(write(tmp_path, "\ufeffname , id\n a,007\n\nNA,1e3\n"))
    assert table.columns == ("name", "id")
    assert list(table.numbered_rows()) == [
        ("table.csv row 2", ("a", "007")),
        ("table.csv row 4", ("NA", "1e3")),
    ]


def test_gzipped_table_is_read(tmp_path: Path) -> None:
    path = tmp_path / "table.csv.gz"
    path.write_bytes(gzip.compress(b"a,b\n1,2\n"))
    assert read_csv(path).rows == ((2, ("1", "2")),)


def test_wrong_column_names_the_nearest_and_all(tmp_path: Path) -> None:
    table = read_csv(write(tmp_path, "image,labels,,\na,b,,\n"))
    with pytest.raises(DataError, match=r"unknown column 'label'.*'labels'.*Known: image, labels"):
        table.position("label")


def test_column_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    table = read_csv(write(tmp_path, "image,image\na,b\n"))
    with pytest.raises(DataError, match="two columns are called 'image'"):
        table.position("image")


def test_quoted_cell_may_hold_commas_and_line_ends(tmp_path: Path) -> None:
    table = read_csv(write(tmp_path, 'a,b\n"1,\n2",3\n'))
    assert table.rows == ((2, ("1,\n2", "3")),)


@pytest.mark.parametrize("row", ["1", "1,2,3"])
def test_row_that_does_not_fit_the_header_is_named(tmp_path: Path, row: str) -> None:
    with pytest.raises(DataError, match=r"table\.csv row 3: \d cells under a header of 2"):
        read_csv(write(tmp_path, f"a,b\n1,2\n{row}\n"))


def test_empty_cells_beyond_the_header_are_harmless(tmp_path: Path) -> None:
    assert read_csv(write(tmp_path, "a,b\n1,2,,\n")).rows[0][1][:2] == ("1", "2")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the table is empty"),
        (b"a,b\n\xff\xfe,1\n", "not UTF-8"),
        (b"\x1f\x8b\x08broken", "not UTF-8"),
    ],
)
def test_unreadable_table_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_csv(path)


def test_broken_gzip_is_named(tmp_path: Path) -> None:
    path = tmp_path / "table.csv.gz"
    path.write_bytes(gzip.compress(b"a,b\n" * 1000)[:-12])
    with pytest.raises(DataError, match="copy it again"):
        read_csv(path)


def test_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.csv: no such table"):
        read_csv(tmp_path / "gone.csv")
