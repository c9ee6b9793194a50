"""What became of a run, as the lock of its process and its status.json tell."""

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from common.errors import DataError, RunError
from common.files.lock import Lock
from server.cli import main
from server.exchange.participation import Outcome, Reply, Status
from server.operations import reported_progress
from server.operations.home import CoordinatorHome, RunFolder
from server.operations.reported_progress import ReportedProgress
from server.operations.run_status import Phase, RunStatus, launched, read_status, write_status
from server.operations.runs import RunState, lock_file, run_named, view_run, view_runs

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)


class Silent:
    def waiting_for(self, sites: object) -> None: ...
    def round_started(self, server_round: int, *, rounds: int, sites: object) -> None: ...
    def site_answered(self, site: str) -> None: ...
    def evaluating(self, server_round: int, *, sites: object) -> None: ...
    def round_finished(self, server_round: int, *, replies: object) -> None: ...


@pytest.fixture
def home(tmp_path: Path) -> CoordinatorHome:
    return CoordinatorHome(tmp_path)


def run_of(home: CoordinatorHome, name: str = "demo-00000001", **changed: object) -> RunFolder:
    folder = home.run(name)
    folder.root.mkdir(parents=True)
    sites = (("north", "chestx"), ("valley", "retina"))
    status = launched(run=name, rounds=3, sites=sites, now=NOW)
    write_status(folder.status, RunStatus.model_validate(status.model_dump() | changed))
    return folder


def state_of(folder: RunFolder, *, after: timedelta = timedelta()) -> RunState:
    return view_run(folder, NOW + after).state


def test_launched_run_is_starting_until_its_process_should_be_there(home: CoordinatorHome) -> None:
    folder = run_of(home)
    assert state_of(folder) is RunState.STARTING
    assert state_of(folder, after=timedelta(minutes=5)) is RunState.INTERRUPTED


def test_run_lives_as_long_as_its_lock_is_held(home: CoordinatorHome) -> None:
    folder = run_of(home, phase=Phase.TRAINING)
    with Lock(lock_file(folder), "held"):
        assert state_of(folder) is RunState.RUNNING
    view = view_run(folder, NOW)
    assert view.state is RunState.INTERRUPTED
    assert view.advice == "fovea resume demo-00000001"


def test_running_process_without_heartbeat_is_pointed_out(home: CoordinatorHome) -> None:
    folder = run_of(home, phase=Phase.TRAINING)
    with Lock(lock_file(folder), "held"):
        advice = view_run(folder, NOW + timedelta(minutes=4)).advice
    assert advice.startswith("no heartbeat for 240 s")


@pytest.mark.parametrize(
    ("changed", "state"),
    [
        ({"phase": Phase.ENDED, "verdict": Status.COMPLETE}, RunState.COMPLETE),
        ({"phase": Phase.ENDED, "verdict": Status.PARTIAL}, RunState.PARTIAL),
        ({"phase": Phase.ENDED, "verdict": Status.FAILED}, RunState.FAILED),
        ({"phase": Phase.STOPPED, "verdict": Status.PARTIAL}, RunState.STOPPED),
        ({"phase": Phase.BROKEN, "reasons": ("no disk",)}, RunState.FAILED),
    ],
)
def test_run_that_is_over_says_how_it_ended(
    home: CoordinatorHome, changed: dict[str, object], state: RunState
) -> None:
    assert state_of(run_of(home, **changed)) is state


def test_runs_are_listed_with_the_last_launched_first(home: CoordinatorHome) -> None:
    run_of(home, "old-00000001", launched_at=NOW - timedelta(days=2))
    run_of(home, "new-00000002")
    assert [view.name for view in view_runs(home, NOW)] == ["new-00000002", "old-00000001"]
    assert run_named(home, None, NOW).name == "new-00000002"
    with pytest.raises(RunError, match="Did you mean 'new-00000002'"):
        run_named(home, "new-00000003", NOW)


def test_status_written_by_something_else_is_named(home: CoordinatorHome) -> None:
    folder = run_of(home)
    folder.status.write_text("{}")
    with pytest.raises(DataError, match=r"status\.json: not written by this version"):
        view_run(folder, NOW)


def test_every_step_of_a_round_is_in_the_status(home: CoordinatorHome) -> None:
    folder = run_of(home)
    status = read_status(folder.status)
    assert status is not None

    with ReportedProgress(folder.status, status, beside=Silent()) as progress:
        progress.round_started(2, rounds=3, sites=("north", "valley"))
        progress.site_answered("north")
        during = read_status(folder.status)
        progress.round_finished(
            2,
            replies=(
                Reply("north", Outcome.ANSWERED, ""),
                Reply("valley", Outcome.MISSING, "no answer within 5 s"),
            ),
        )
    after = read_status(folder.status)

    assert during is not None
    assert during.waiting_for == ("valley",)
    assert after is not None
    assert after.rounds_done == 2
    assert [(site.outcome, site.reason) for site in after.sites] == [
        (Outcome.ANSWERED, ""),
        (Outcome.MISSING, "no answer within 5 s"),
    ]
    shown = CliRunner().invoke(main, ["status", "--home", str(home.root)]).stdout
    assert "no answer within 5 s" in shown
    assert "2 of 3 rounds" in shown


def test_heart_beats_on_once_the_disk_can_be_written_again(
    home: CoordinatorHome, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(reported_progress, "HEARTBEAT_S", 0.02)
    folder = run_of(home)
    status = read_status(folder.status)
    assert status is not None
    away = folder.root.with_name("away")
    with ReportedProgress(folder.status, status, beside=Silent()):
        folder.root.rename(away)  # as good as a disk that cannot be written
        time.sleep(0.3)
        away.rename(folder.root)
        back = datetime.now(UTC)
        deadline = time.monotonic() + 5
        while (seen := read_status(folder.status)) is None or seen.heartbeat_at < back:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    assert [record.message for record in caplog.records] == [
        "the run's status cannot be written: No such file or directory"
    ]


def test_lists_are_machine_readable(home: CoordinatorHome) -> None:
    run_of(home, phase=Phase.ENDED, verdict=Status.PARTIAL, reasons=("valley was away.",))
    listed = CliRunner().invoke(main, ["runs", "--json", "--home", str(home.root)])
    assert '"state": "PARTIAL"' in listed.stdout
    assert "valley was away." in listed.stdout
