"""Reviews are read as the page saves them; what is none is named, and the rest go on."""

import json
from pathlib import Path

import pytest

from common.errors import DataError
from common.pages.review import LARGEST_FILE, read_review, read_reviews

REVIEW = {
    "format": 1,
    "made_at": "2026-03-02T09:30:00.123000Z",
    "reader": "r-07",
    "picture_sha256": "a" * 64,
    "weights_sha256": "b" * 64,
    "explained_at": "2026-03-02T09:00:00+00:00",
    "run": "demo",
    "task": "chestx",
    "finding": "Mass",
    "method": "evidence",
    "region": "partly",
    "rationale": "yes",
    "confidence_before": 40,
    "confidence_after": 75,
    "remark": "",
}


def saved(folder: Path, name: str, **changes: object) -> Path:
    path = folder / name
    path.write_text(json.dumps(REVIEW | changes), encoding="utf-8")
    return path


def test_a_review_is_read_whole(tmp_path: Path) -> None:
    review = read_review(saved(tmp_path, "one.json", remark="scar"))
    assert review.model_dump(mode="json") == REVIEW | {"remark": "scar"}
    assert review.item == ("a" * 64, "b" * 64, "chestx", "Mass", "evidence")


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"region": "maybe"}, "region"),
        ({"confidence_after": 101}, "confidence_after"),
        ({"confidence_before": "40"}, "confidence_before"),
        ({"reader": "Dr Smith, ward 3"}, "reader"),
        ({"picture_sha256": "a" * 63}, "picture_sha256"),
        ({"format": 2}, "format"),
        ({"patient": "x"}, "patient"),
        ({"remark": "x" * 2001}, "remark"),
        ({"made_at": "yesterday"}, "made_at"),
    ],
)
def test_a_review_with_a_wrong_value_is_refused_by_its_key(
    tmp_path: Path, changes: dict[str, object], key: str
) -> None:
    path = saved(tmp_path, "one.json", **changes)
    with pytest.raises(DataError, match=rf"one\.json: {key}: .*fill the form in again"):
        read_review(path)


def test_an_error_never_repeats_a_remark(tmp_path: Path) -> None:
    path = saved(tmp_path, "one.json", remark="patient Miller " * 200)
    with pytest.raises(DataError) as error:
        read_review(path)
    assert "Miller" not in str(error.value)


def test_bad_files_are_named_and_the_rest_go_on(tmp_path: Path) -> None:
    saved(tmp_path, "good.json")
    (tmp_path / "below").mkdir()
    saved(tmp_path / "below", "other.json", reader="r-08")
    (tmp_path / "cut.json").write_text('{"format": 1,', encoding="utf-8")
    (tmp_path / "huge.json").write_bytes(b" " * (LARGEST_FILE + 1))
    (tmp_path / "link.json").symlink_to(tmp_path / "good.json")
    (tmp_path / "notes.txt").write_text("no review", encoding="utf-8")
    reading = read_reviews([tmp_path])
    assert sorted(review.reader for review in reading.reviews) == ["r-07", "r-08"]
    assert [path.name for path, _ in reading.failures] == ["cut.json", "huge.json", "link.json"]
    assert all(str(path) in why for path, why in reading.failures)


def test_a_pages_own_json_is_no_review_and_no_failure(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("", encoding="utf-8")
    (tmp_path / "page.json").write_text("{}", encoding="utf-8")
    reading = read_reviews([tmp_path])
    assert (reading.reviews, reading.failures) == ((), ())


def test_the_last_word_of_a_reader_counts(tmp_path: Path) -> None:
    # Later by the clock, though not by the letters.
    saved(tmp_path, "a.json", made_at="2026-03-02T10:00:00.5Z", region="yes")
    saved(tmp_path, "b.json", made_at="2026-03-02T10:00:00Z", region="no")
    saved(tmp_path, "c.json", finding="Nodule")
    reading = read_reviews([tmp_path, tmp_path / "a.json"])
    assert {(one.finding, one.region) for one in reading.reviews} == {
        ("Mass", "yes"),
        ("Nodule", "partly"),
    }
    assert reading.superseded == 1


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone: not there"):
        read_reviews([tmp_path / "gone"])
