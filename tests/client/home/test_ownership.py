"""What root does in a user's folder: only what that user could have done."""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.home.ownership import Owner, as_owner, hand_over, make_folder, owner_of, person
from common.errors import SiteError

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root acts as others")
USER, GROUP = 12345, 12346  # nobody's: numbers without names, as in containers


@pytest.fixture
def root() -> Iterator[Path]:
    """A folder that every user may enter."""
    folder = Path(tempfile.mkdtemp(prefix="fovea-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def theirs(root: Path) -> Path:
    folder = root / "theirs"
    folder.mkdir(mode=0o700)
    os.chown(folder, USER, GROUP)
    return folder


def test_root_has_the_owners_rights_and_gets_its_own_back(root: Path, theirs: Path) -> None:
    secret = root / "secret"
    secret.write_text("root's")
    secret.chmod(0o600)
    (theirs / "link").symlink_to(secret)
    before = os.getgroups()

    with as_owner(theirs / "new"):
        (theirs / "new").write_text("")
        assert os.getgroups() == []
        with pytest.raises(PermissionError):
            (theirs / "link").read_text()
        with pytest.raises(PermissionError):
            secret.chmod(0o666)

    status = (theirs / "new").stat()
    assert (status.st_uid, status.st_gid) == (USER, GROUP)
    (root / "after").write_text("")
    status = (root / "after").stat()
    assert (status.st_uid, status.st_gid, os.getgroups()) == (0, os.getegid(), before)


def test_rights_come_back_after_an_error(theirs: Path) -> None:
    with pytest.raises(ZeroDivisionError), as_owner(theirs):
        raise ZeroDivisionError
    made = theirs.parent / "made"
    made.write_text("")
    assert made.stat().st_uid == 0


def test_only_this_thread_and_those_it_starts_are_concerned(root: Path, theirs: Path) -> None:
    entered, done = threading.Event(), threading.Event()

    def work_as_root() -> None:
        entered.wait()
        (root / "by-another").write_text("")
        done.set()

    def work_as_owner() -> None:
        with as_owner(theirs):  # already
            (theirs / "by-own").write_text("")

    other = threading.Thread(target=work_as_root)
    other.start()
    with as_owner(theirs):
        entered.set()
        assert done.wait(10)
        own = threading.Thread(target=work_as_owner)
        own.start()
        own.join(10)
    other.join()

    assert ((root / "by-another").stat().st_uid, (theirs / "by-own").stat().st_uid) == (0, USER)


def test_root_without_the_capability_is_told_so(theirs: Path) -> None:
    code = f"""
from pathlib import Path
from client.home.ownership import as_owner
from common.errors import SiteError
try:
    with as_owner(Path({str(theirs)!r})): print("acts")
except SiteError as error: print(error)
"""
    for lost in ("-setuid", "-setgid"):
        done = subprocess.run(
            ["setpriv", f"--bounding-set={lost}", sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
        )
        assert "capabilities SETUID and SETGID" in done.stdout


def test_a_link_of_a_user_leads_root_no_further_than_that_user(root: Path, theirs: Path) -> None:
    (root / "roots").mkdir()
    link = theirs / "state"
    link.symlink_to(root / "roots")
    os.lchown(link, USER, GROUP)

    with pytest.raises(PermissionError):
        make_folder(link / "approvals")

    assert not (root / "roots" / "approvals").exists()


def test_owner_is_the_last_user_on_the_way(root: Path, theirs: Path) -> None:
    inner = theirs / "inner"
    inner.mkdir()
    (root / "to-theirs").symlink_to("theirs")
    (root / "loop").symlink_to("loop")

    assert owner_of(root / "missing" / "file") is None
    assert owner_of(root / "loop" / "file") is None
    assert owner_of(inner / "file") == Owner(USER, GROUP)
    assert owner_of(root / "to-theirs" / "inner") == Owner(USER, GROUP)
    os.chown(inner, USER + 1, GROUP)
    assert owner_of(inner) == Owner(USER + 1, GROUP)


def test_only_plain_files_and_folders_are_handed_over(root: Path, theirs: Path) -> None:
    secret = root / "secret"
    secret.write_text("root's")
    (theirs / "link").symlink_to(secret)
    os.link(secret, theirs / "second-name")
    (theirs / "plain").write_text("")

    for name in ("link", "second-name"):
        with pytest.raises(SiteError, match=name):
            hand_over(theirs / name)
    hand_over(theirs / "plain")

    assert secret.stat().st_uid == 0
    assert ((theirs / "plain").stat().st_uid, (theirs / "plain").stat().st_gid) == (USER, GROUP)


def test_who_types_stays_the_same_person(theirs: Path) -> None:
    before = person()
    with as_owner(theirs):
        assert person() == before
