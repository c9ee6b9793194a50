"""Files and folders become jobs with names that never collide, and masks find their pictures."""

from pathlib import Path

import pytest

from common.errors import DataError
from common.explaining.jobs import jobs_of


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_a_folder_is_searched_through_and_other_files_left(tmp_path: Path) -> None:
    wanted = [tmp_path / "a.png", tmp_path / "deep" / "b.JPG", tmp_path / "study" / "IM0001"]
    touch(*wanted, tmp_path / "notes.txt", tmp_path / ".hidden.png", tmp_path / ".x" / "c.png")

    assert [job.picture for job in jobs_of([tmp_path])] == wanted


def test_equal_names_are_made_distinct_whatever_their_case(tmp_path: Path) -> None:
    pictures = [tmp_path / place for place in ("1/Eye.png", "2/eye.png", "3/eye.tif", "index.png")]
    touch(*pictures, tmp_path / "4" / "eye-2.png")

    names = [job.name for job in jobs_of([*pictures, tmp_path / "4"])]

    assert names == ["Eye", "eye-2", "eye-3", "index-2", "eye-2-2"]


def test_a_picture_named_twice_is_explained_once(tmp_path: Path) -> None:
    touch(tmp_path / "a.png")

    assert len(jobs_of([tmp_path, tmp_path / "a.png"])) == 1


def test_masks_are_found_by_the_pictures_name(tmp_path: Path) -> None:
    touch(*(tmp_path / name for name in ("p/a.jpg", "p/b.jpg", "m/a.png", "d/b.tif")))

    first, second = jobs_of([tmp_path / "p"], regions=tmp_path / "m", discs=tmp_path / "d")

    assert (first.region, first.disc) == (tmp_path / "m/a.png", None)
    assert (second.region, second.disc) == (None, tmp_path / "d/b.tif")
    assert jobs_of([tmp_path / "p/a.jpg"], regions=tmp_path / "m/a.png")[0].region is not None


@pytest.mark.parametrize(
    ("pictures", "regions", "words"),
    [
        (["none.png"], None, "no such file"),
        (["empty"], None, "no picture in"),
        (["p"], "mask.png", "one mask cannot belong to 2 pictures"),
        (["p"], "missing", "no such file or folder; check the path of the masks"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    tmp_path: Path, pictures: list[str], regions: str | None, words: str
) -> None:
    touch(*(tmp_path / name for name in ("p/a.png", "p/b.png", "mask.png")))
    (tmp_path / "empty").mkdir()

    with pytest.raises(DataError, match=words):
        jobs_of(
            [tmp_path / name for name in pictures],
            regions=tmp_path / regions if regions else None,
        )
