"""Flower's app bundle carries settings only: every site runs the code it installed and reviewed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

REPOSITORY = Path(__file__).parents[2]
OFFLINE = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a clean checkout of this tree holds, in a folder of a name that Flower allows."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    copy = tmp_path_factory.mktemp("bundle") / "fovea"
    for name in filter(None, listed.stdout.split("\0")):
        if (REPOSITORY / name).is_file():  # a tracked file may just have been removed
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPOSITORY / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def bundled(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names of the files in the bundle that ``flwr build`` makes of it."""
    home = tmp_path_factory.mktemp("home")
    done = subprocess.run(
        [Path(sys.executable).parent / "flwr", "build"],
        cwd=checkout,
        env=os.environ | OFFLINE | {"FLWR_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,  # Flower's own words say more
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (bundle,) = checkout.glob("*.fab")
    return set(ZipFile(bundle).namelist())


def test_bundle_holds_the_configurations_and_no_code(checkout: Path, bundled: set[str]) -> None:
    configs = {path.relative_to(checkout).as_posix() for path in checkout.glob("configs/**/*.yaml")}
    assert bundled == {"pyproject.toml", "LICENSE", ".info/CONTENT"} | configs
    assert not any(name.endswith(".py") for name in bundled)


def test_checkout_that_was_bundled_has_the_code_that_the_bundle_leaves_out(checkout: Path) -> None:
    for room in ("server", "client", "common/datasets"):
        assert list((checkout / room).glob("*.py"))
