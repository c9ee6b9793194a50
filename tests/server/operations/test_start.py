"""What becomes of a run when the SuperLink falls silent while it is asked to start it."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from common.errors import RunError
from common.messages.admission import read_admission
from server.operations import flower_control, start
from server.operations.admitted import admit
from server.operations.home import CoordinatorHome, RunFolder
from server.operations.launch import launch
from server.operations.resuming import resume
from server.operations.run_status import Phase, read_status
from server.operations.start import UncertainStartError
from tests.server.operations.control_api import control_api
from tests.server.operations.coordinators import Registry, admission_file

NOW = datetime.now(UTC)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flower_control, "TIMEOUT_S", 0.5)
    monkeypatch.setattr(start, "LOOK_FOR_S", 0.2)
    monkeypatch.setattr(start, "LOOK_S", 0.1)


@pytest.fixture
def staffed(home: CoordinatorHome, tmp_path: Path) -> CoordinatorHome:
    admission = read_admission(admission_file(tmp_path, "north", "chestx"))
    admit(home, admission, Registry(), NOW)
    return home


def launched(home: CoordinatorHome, config: Path) -> RunFolder:
    begun = launch(home, config, sites=["north"], overrides=(), data_root=None, days=None, now=NOW)
    return begun.folder


def test_run_that_flower_started_without_saying_so_is_kept_and_goes_on(
    staffed: CoordinatorHome, run_file: Path
) -> None:
    with control_api(staffed) as api:
        folder = launched(staffed, run_file)

        assert folder.order.is_file()
        assert [run.override_config["run"].string for run in api.runs] == [folder.name]

        later = datetime(2126, 1, 1, tzinfo=UTC)  # the launch is long over
        resume(staffed, folder, renews_manifest=True, now=later)
        assert len(api.runs) == 2
    status = read_status(folder.status)
    assert status is not None
    assert (status.phase, status.launched_at) == (Phase.LAUNCHED, later)


def test_run_that_flower_did_not_start_leaves_no_folder(
    staffed: CoordinatorHome, run_file: Path
) -> None:
    with control_api(staffed) as api:
        api.starts_runs = False
        with pytest.raises(RunError, match="does not answer"):
            launched(staffed, run_file)
    assert list(staffed.runs.iterdir()) == []


def test_resumed_run_is_not_taken_for_its_former_process(
    staffed: CoordinatorHome, run_file: Path
) -> None:
    with control_api(staffed) as api:
        folder = launched(staffed, run_file)
        before = folder.status.read_bytes()
        api.starts_runs = False
        later = datetime(2126, 1, 1, tzinfo=UTC)
        with pytest.raises(RunError, match="does not answer"):
            resume(staffed, folder, renews_manifest=True, now=later)
    assert folder.status.read_bytes() == before


def test_run_is_kept_when_nobody_knows_whether_flower_started_it(
    staffed: CoordinatorHome, run_file: Path
) -> None:
    with control_api(staffed) as api:
        api.is_silent_after_start = True
        with pytest.raises(UncertainStartError, match="`fovea status small-"):
            launched(staffed, run_file)
    (folder,) = staffed.runs.iterdir()
    assert (folder / "order.json").is_file()
