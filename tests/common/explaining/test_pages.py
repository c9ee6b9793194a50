"""One bad file never ends a folder: it is reported with a remedy, and the rest go on."""

import shutil
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import common.explaining.pages as under_test
from common.errors import DataError
from common.explaining.asked import Asked
from common.explaining.jobs import Job, jobs_of
from common.explaining.pages import Done, explain_files
from common.explaining.picture_file import PreparedPicture, prepare_picture
from common.explanation.files import read_explanation
from common.package.loading import LoadedModel

NOW = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)


@pytest.fixture
def jobs(tmp_path: Path) -> tuple[Job, ...]:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (64, 64), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return jobs_of([folder])


def explained(
    model: LoadedModel, jobs: tuple[Job, ...], out: Path, **wanted: object
) -> tuple[Done, ...]:
    asked = Asked(task="pathoscan", **({"trust": "none"} | wanted))  # type: ignore[arg-type]
    return explain_files(model, jobs, asked, out=out, now=lambda: NOW, progress=lambda _done: None)


def breaking(raised: BaseException) -> Callable[..., PreparedPicture]:
    """Prepares every picture but the second, for which a library raises."""

    def prepare(path: Path, **named: object) -> PreparedPicture:
        if path.name == "1.png":
            raise raised
        return prepare_picture(path, **named)  # type: ignore[arg-type]

    return prepare


@pytest.mark.parametrize("error", [RuntimeError, ValueError, AssertionError, KeyError])
def test_whatever_a_library_raises_for_a_file_the_rest_go_on(
    model: LoadedModel,
    jobs: tuple[Job, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: type[Exception],
) -> None:
    monkeypatch.setattr(under_test, "prepare_picture", breaking(error("Smith^John, born 1951")))
    # With trust, the files are opened before their turn as well, to be held against each other.
    trust = "own" if error is RuntimeError else "none"

    done = explained(model, jobs, tmp_path / "out", trust=trust, random_orders=2)

    assert [one.page is None for one in done] == [False, True, False]
    said = done[1].failure
    assert said.startswith(f"{jobs[1].picture}: explaining it broke down ({error.__name__} in ")
    assert "save it anew, or leave it out" in said
    index = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "1 file could not be explained" in " ".join(index.split())
    assert "Smith" not in said + index


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupt_and_a_lack_of_memory_end_the_folder(
    model: LoadedModel,
    jobs: tuple[Job, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: type[BaseException],
) -> None:
    monkeypatch.setattr(under_test, "prepare_picture", breaking(error()))

    with pytest.raises(error):
        explained(model, jobs, tmp_path / "out")

    assert (tmp_path / "out" / "0.html").exists()


def test_a_page_that_cannot_be_written_is_said_with_its_place(
    model: LoadedModel, jobs: tuple[Job, ...], tmp_path: Path
) -> None:
    (tmp_path / "out" / "1.html").mkdir(parents=True)

    done = explained(model, jobs, tmp_path / "out")

    assert [one.page is None for one in done] == [False, True, False]
    assert "1.html: cannot be written" in done[1].failure
    assert "free space or name another folder" in done[1].failure


def test_pictures_of_a_folder_are_held_against_each_other(
    model: LoadedModel, jobs: tuple[Job, ...], tmp_path: Path
) -> None:
    explained(model, jobs, tmp_path / "out", trust="own", random_orders=2)
    explained(model, jobs[:1], tmp_path / "alone", trust="own", random_orders=2)

    measured = [
        read_explanation(path).findings[0].methods[0].stability
        for path in (tmp_path / "out" / "0.json", tmp_path / "alone" / "0.json")
    ]
    together, alone = measured
    assert together is not None
    assert alone is not None
    assert len(together.other_pictures) == 2
    assert "explained along with it" in together.others
    assert alone.other_pictures == ()
    assert alone.noise == together.noise


def test_copies_of_one_picture_are_no_other_pictures(
    model: LoadedModel, jobs: tuple[Job, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[int] = []

    def keep(pictures: Sequence[PreparedPicture], *, words: str) -> None:
        kept.append(len({one.sha256 for one in pictures}))

    def refused(*_: object, **__: object) -> None:
        raise DataError("not asked here.")

    folder = jobs[0].picture.parent
    for number in range(10):
        shutil.copy(jobs[0].picture, folder / f"copy {number}.png")
    monkeypatch.setattr(under_test, "OtherPictures", keep)
    monkeypatch.setattr(under_test, "explain_picture", refused)

    explained(model, jobs_of([folder]), tmp_path / "out", trust="own")

    assert kept == [3]  # all that there are, however many copies come first


def test_a_setting_decides_how_many_random_orders_there_are(
    model: LoadedModel, jobs: tuple[Job, ...], tmp_path: Path
) -> None:
    (done,) = explained(model, jobs[:1], tmp_path, trust="own", random_orders=3)

    assert done.explanation is not None
    measured = done.explanation.findings[0].methods[0].faithfulness
    assert measured is not None
    assert len(measured.random_areas) == 3
