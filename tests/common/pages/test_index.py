"""The index of a folder names every picture, those that could not be explained too."""

from pathlib import Path

import pytest
from read_html import Html, taken_apart

from common.errors import DataError
from common.pages.answer import SETTLED
from common.pages.index import IndexEntry, write_index

SURE = IndexEntry("a b#1.html", "a b#1.png", "malignant", is_novel=False, is_sure=True, failure="")
OPEN = IndexEntry("c.html", "c.png", "not sure", is_novel=False, is_sure=False, failure="")
NOVEL = IndexEntry(
    "d.html", "d.png", "unlike what it knows", is_novel=True, is_sure=True, failure=""
)
FAILED = IndexEntry("", "<e>.png", "", is_novel=False, is_sure=False, failure="cut off at byte 9")


def index_of(folder: Path, *entries: IndexEntry) -> Html:
    path = folder / "index.html"
    write_index(entries, path)
    return taken_apart(path.read_text(encoding="utf-8"))


def test_every_picture_has_its_line_and_says_how_far_its_answer_holds(tmp_path: Path) -> None:
    html = index_of(tmp_path, SURE, OPEN, NOVEL)
    lines = [piece.text for piece in html.shown("tr")][1:]
    assert [line.partition(" ")[0] for line in lines] == ["a", "c.pngNot", "d.pngUnlike"]
    assert [line.rpartition("●")[2] for line in lines[:1]] == [f" sure: {SETTLED}"]
    assert lines[1].endswith("◐ not sure")
    assert lines[2].endswith("▲ unlike the pictures it knows")
    assert any("3 pictures, 2 of them not sure" in piece.text for piece in html.shown("p"))


def test_what_was_not_measured_is_not_called_unsure(tmp_path: Path) -> None:
    plain = IndexEntry("f.html", "f.png", "benign", is_novel=None, is_sure=None, failure="")
    html = index_of(tmp_path, SURE, OPEN, plain)
    assert [piece.text for piece in html.shown("tr")][-1].endswith("no prediction set")
    said = html.shown("p")[0].text
    assert "3 pictures, 1 of them not sure" in said
    assert "How sure it is was not measured of 1." in said


def test_a_link_leads_to_the_page_whatever_its_name_holds(tmp_path: Path) -> None:
    html = index_of(tmp_path, SURE)
    assert [piece.attributes["href"] for piece in html.shown("a")] == ["a%20b%231.html"]


def test_a_failed_picture_is_named_with_its_reason(tmp_path: Path) -> None:
    html = index_of(tmp_path, OPEN, FAILED)
    assert [piece.text for piece in html.shown("li")] == ["<e>.png: cut off at byte 9"]
    assert any("1 file could not be explained" in piece.text for piece in html.shown("p"))


def test_an_index_of_failures_alone_says_so(tmp_path: Path) -> None:
    html = index_of(tmp_path, FAILED)
    assert html.shown("table") == []
    assert any(piece.text == "No picture could be explained." for piece in html.shown("p"))


def test_an_index_asks_for_nothing_and_runs_nothing(tmp_path: Path) -> None:
    html = index_of(tmp_path, SURE, FAILED)
    policy = html.one(**{"http-equiv": "Content-Security-Policy"}).attributes["content"]
    assert "default-src 'none'" in policy
    assert "script-src 'none'" in policy
    assert html.shown("script") == []


def test_an_entry_without_page_and_failure_is_refused(tmp_path: Path) -> None:
    empty = IndexEntry("", "x.png", "", is_novel=False, is_sure=False, failure="")
    with pytest.raises(DataError, match=r"x\.png: has neither a page nor a failure"):
        write_index([empty], tmp_path / "index.html")
