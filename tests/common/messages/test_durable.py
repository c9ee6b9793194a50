from pathlib import Path

import numpy as np
import pytest

from common.errors import DataError
from common.messages.durable import read_array_file, write_array_file


def test_arrays_and_note_come_back_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "state.safetensors"
    arrays = {"a": np.float32([[1, 2], [3, 4]]).T, "b": np.float32(7).reshape(())}

    write_array_file(path, arrays, {"round": 3})
    read, note = read_array_file(path)

    np.testing.assert_array_equal(read["a"], [[1, 3], [2, 4]])
    assert read["b"].shape == ()
    assert note == {"round": 3}


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    write_array_file(path, {"a": np.float32([1])}, {"round": 1})

    with pytest.raises(ValueError, match="Out of range float"):
        write_array_file(path, {"a": np.float32([2])}, {"score": float("nan")})

    assert read_array_file(path)[0]["a"] == 1
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"damaged", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "])
def test_what_is_not_such_a_file_is_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "state.safetensors"
    path.write_bytes(content)

    with pytest.raises(DataError, match=r"state\.safetensors"):
        read_array_file(path)
