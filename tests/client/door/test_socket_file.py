"""Where the trainer is to listen, nothing that others put there keeps it from starting."""

import os
import socket
from pathlib import Path

import pytest

from client.home.socket_file import clear
from common.errors import SiteError


@pytest.fixture
def path(short_path: Path) -> Path:
    return short_path / "trainer.sock"


def test_a_plain_file_and_links_are_removed_and_not_followed(path: Path) -> None:
    target = path.with_name("target")
    target.write_text("kept")
    for make in (
        lambda: path.write_text("a file"),
        lambda: path.symlink_to(path.with_name("nowhere")),
        lambda: path.symlink_to(target),
        lambda: os.mkfifo(path),
    ):
        make()
        clear(path)
        assert not path.is_symlink()
        assert not path.exists()
    assert target.read_text() == "kept"


def test_a_folder_is_put_out_of_the_way_with_what_is_in_it(path: Path) -> None:
    (path / "inner").mkdir(parents=True)

    clear(path)

    assert not path.exists()
    assert [aside.name for aside in path.parent.glob("*.aside-*/*")] == ["inner"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a file another user's")
def test_a_listener_of_another_user_is_no_trainer(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.bind(str(path))
        stranger.listen()
        os.chown(path, 12345, 12345)

        clear(path)

    assert not path.exists()


def test_a_listener_of_this_user_is_one_even_if_it_takes_no_calls(path: Path) -> None:
    waiting = []
    with socket.socket(socket.AF_UNIX) as living:
        living.bind(str(path))
        living.listen(0)
        for _ in range(4):  # until its queue is full
            caller = socket.socket(socket.AF_UNIX)
            caller.setblocking(False)
            caller.connect_ex(str(path))
            waiting.append(caller)

        with pytest.raises(SiteError, match="another trainer answers"):
            clear(path)
    for caller in waiting:
        caller.close()
    assert path.exists()
