"""The store gives back what was put, notices damage, and forgets what nobody uses."""

import os
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.datasets.duplicates import signature
from common.datasets.picture_entry import (
    KeptOutline,
    KeptPicture,
    decode_picture,
    encode_picture,
)
from common.datasets.picture_store import PictureKey, PictureStore, StoreDamagedError
from common.errors import DataError

KEY = PictureKey(settings=b"s" * 32, content=b"c" * 32)
CRASH_WHILE_PUTTING = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from common.datasets.picture_entry import decode_picture
from common.datasets.picture_store import PictureKey, PictureStore
store = PictureStore(Path(sys.argv[1]))
picture = decode_picture(Path(sys.argv[2]).read_bytes())
for number in range(10**6):
    store.put(PictureKey(b"s" * 32, number.to_bytes(32, "big")), picture)
    print(number, flush=True)
"""


def picture(number: int = 0, *, outlines: tuple[bytes, ...] = ()) -> KeptPicture:
    draw = np.random.default_rng(number)
    return KeptPicture(
        image=draw.integers(0, 256, (17, 17, 3), dtype=np.uint8),
        width=400,
        height=300,
        signature=signature(draw.integers(0, 256, (40, 40, 3), dtype=np.uint8)),
        skipped=("stain normalisation: too little tissue",),
        outlines={
            name: KeptOutline(mask=draw.random((17, 17)) < 0.5, is_marked=True) for name in outlines
        },
    )


def assert_same(one: KeptPicture, other: KeptPicture) -> None:
    np.testing.assert_array_equal(one.image, other.image)
    np.testing.assert_array_equal(one.signature.detail, other.signature.detail)
    assert (one.signature.digest, one.signature.perceptual) == (
        other.signature.digest,
        other.signature.perceptual,
    )
    assert (one.width, one.height, one.skipped) == (other.width, other.height, other.skipped)
    assert one.outlines.keys() == other.outlines.keys()
    for name in one.outlines:
        np.testing.assert_array_equal(one.outlines[name].mask, other.outlines[name].mask)
        assert one.outlines[name].is_marked == other.outlines[name].is_marked


def test_a_picture_comes_back_as_it_was() -> None:
    kept = picture(outlines=(b"a" * 32, b"b" * 32))
    assert_same(decode_picture(encode_picture(kept)), kept)


@pytest.mark.parametrize("length", [0, 3, 40, 1200])
def test_a_picture_cut_short_is_refused(length: int) -> None:
    content = encode_picture(picture(outlines=(b"a" * 32,)))
    with pytest.raises(DataError):
        decode_picture(content[:length])


def test_what_is_put_is_there_after_opening_again(tmp_path: Path) -> None:
    with PictureStore(tmp_path) as store:
        store.put(KEY, picture())
    with PictureStore(tmp_path) as store:
        kept = store.take(KEY, outlines=())
    assert kept is not None
    assert_same(kept, picture())


def test_a_picture_without_the_outline_that_is_asked_for_is_not_there(tmp_path: Path) -> None:
    with PictureStore(tmp_path) as store:
        store.put(KEY, picture(outlines=(b"a" * 32,)))
        assert store.take(KEY, outlines=[b"a" * 32]) is not None
        assert store.take(KEY, outlines=[b"b" * 32]) is None
        assert store.taken == 1


def test_outlines_add_up_so_that_two_rows_of_one_file_do_not_chase_each_other(
    tmp_path: Path,
) -> None:
    with PictureStore(tmp_path) as store:
        store.put(KEY, picture(outlines=(b"a" * 32,)))
        store.put(KEY, picture(outlines=(b"b" * 32,)))
        assert store.take(KEY, outlines=[b"a" * 32, b"b" * 32]) is not None


def test_another_setting_or_content_is_another_picture(tmp_path: Path) -> None:
    with PictureStore(tmp_path) as store:
        store.put(KEY, picture())
        assert store.take(replace(KEY, settings=b"t" * 32), outlines=()) is None
        assert store.take(replace(KEY, content=b"d" * 32), outlines=()) is None
        assert (store.count(b"s" * 32), store.count(b"t" * 32)) == (1, 0)


def test_a_picture_under_anothers_name_is_damage(tmp_path: Path) -> None:
    other = replace(KEY, content=b"d" * 32)
    with PictureStore(tmp_path) as store:
        store.put(KEY, picture())
    with sqlite3.connect(tmp_path / "pictures.sqlite") as database:
        database.execute("UPDATE pictures SET key = ?", (other.digest,))
    with PictureStore(tmp_path) as store:
        assert store.take(other, outlines=()) is None
        assert store.damaged == 1
        store.put(other, picture())
        assert store.take(other, outlines=()) is not None
        assert store.damaged == 1


def test_only_what_was_asked_for_survives_pruning(tmp_path: Path) -> None:
    keys = [replace(KEY, content=bytes([number]) * 32) for number in range(5)]
    with PictureStore(tmp_path) as store:
        for key in keys:
            store.put(key, picture())
        assert store.prune() == 0
    with PictureStore(tmp_path) as store:
        store.take(keys[0], outlines=())
        assert store.prune() == 4
        assert store.count(KEY.settings) == 1


def test_pruned_pixels_are_overwritten(tmp_path: Path) -> None:
    kept = picture()
    with PictureStore(tmp_path) as store:
        store.put(KEY, kept)
    assert kept.image.tobytes()[:200] in (tmp_path / "pictures.sqlite").read_bytes()
    with PictureStore(tmp_path) as store:
        store.prune()
    for path in tmp_path.iterdir():
        assert kept.image.tobytes()[:200] not in path.read_bytes()


def test_a_file_is_hashed_again_only_when_its_state_changes(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(b"one")
    status = path.stat()
    with PictureStore(tmp_path / "store") as store:
        first = store.file_digest(path)
        with path.open("r+b") as stream:  # same inode, same length
            stream.write(b"two")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert store.file_digest(path) == first
        os.utime(path, ns=(0, 1))
        assert store.file_digest(path) != first
    with PictureStore(tmp_path / "store", verify=True) as store:
        path.write_bytes(b"one")
        assert store.file_digest(path) == first


def test_a_file_that_is_gone_is_said(tmp_path: Path) -> None:
    with (
        PictureStore(tmp_path) as store,
        pytest.raises(DataError, match="cannot be read"),
    ):
        store.file_digest(tmp_path / "gone.png")


def test_a_store_killed_while_writing_keeps_every_picture_it_had_put(tmp_path: Path) -> None:
    (tmp_path / "entry").write_bytes(encode_picture(picture()))
    code = CRASH_WHILE_PUTTING.format(root=str(Path(__file__).resolve().parents[4]))
    command = [sys.executable, "-c", code, str(tmp_path / "store"), str(tmp_path / "entry")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while int(process.stdout.readline()) < 50:
            pass
        process.kill()
        process.wait()
    with PictureStore(tmp_path / "store") as store:
        for number in range(50):
            key = PictureKey(b"s" * 32, number.to_bytes(32, "big"))
            assert store.take(key, outlines=()) is not None
        assert store.damaged == 0


@pytest.mark.parametrize("content", [b"nonsense" * 1000, b"SQLite format 3\0" + b"\xff" * 5000])
def test_something_else_in_its_place_is_said(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "pictures.sqlite").write_bytes(content)
    with pytest.raises(StoreDamagedError, match="delete its folder"):
        PictureStore(tmp_path)


def test_another_versions_store_is_refused(tmp_path: Path) -> None:
    PictureStore(tmp_path).__exit__(None, None, None)
    with sqlite3.connect(tmp_path / "pictures.sqlite") as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreDamagedError, match="version"):
        PictureStore(tmp_path)
