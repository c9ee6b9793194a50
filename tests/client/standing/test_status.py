"""Healthy means connected, able to train and waiting for nobody; whatever is not so is said."""

import os
import shutil
import socket
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console

from client.door.desk_report import DeskReport
from client.door.service import serve
from client.home.folders import SiteHome
from client.home.site import LimitSettings
from client.standing.connector_report import Board, ConnectorReport, read_report
from client.standing.exposition import serve_metrics
from client.standing.status import (
    SiteStatus,
    connector_problems,
    is_connected,
    site_status,
    status_view,
    trainer_problems,
)
from common.errors import SiteError

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
CONNECTED = ConnectorReport(
    site="north",
    federation="trial",
    coordinator="fed.example:443",
    pid=1,
    state="connected",
    written_at=NOW,
    connected_since=NOW - timedelta(hours=1),
    last_exchange_at=NOW - timedelta(seconds=2),
    certificate_warning_days=30,
    certificate_expires=NOW + timedelta(days=100),
    authority_expires=NOW + timedelta(days=1000),
)
ABLE = DeskReport(
    site="north",
    task="chestx",
    able=True,
    reasons=(),
    is_paused=False,
    last_round={"trial-1": 3},
    waiting=(),
    busy_since=None,
)


class Desk:
    """A trainer that only reports."""

    def __init__(self, report: DeskReport) -> None:
        self._report = report

    def answer(self, content: bytes, *, is_wanted: Callable[[], bool]) -> bytes | None:
        raise NotImplementedError

    def turned_away(self, reason: str) -> None:
        raise NotImplementedError

    def reasons_against(self) -> tuple[str, ...]:
        return self._report.reasons

    def report(self) -> DeskReport:
        return self._report


@pytest.fixture
def home() -> Iterator[SiteHome]:
    root = Path(tempfile.mkdtemp(prefix="fovea-", dir="/tmp"))  # sockets need short paths
    made = SiteHome(root)
    for folder in (made.trainer, made.connector, made.run):
        folder.mkdir()
    yield made
    shutil.rmtree(root)


@pytest.fixture
def start_trainer(home: SiteHome) -> Iterator[Callable[[DeskReport], None]]:
    servers = []

    def start(report: DeskReport) -> None:
        limits = LimitSettings(request_mb=1, request_s=60, min_free_disk_mb=0)
        servers.append(serve(Desk(report), home.socket, limits))

    yield start
    for server in servers:
        server.stop(grace_s=0)


def write(home: SiteHome, report: ConnectorReport, *, at: datetime = NOW) -> None:
    Board(home.connector_status, report, now=lambda: at)


def shown(status: SiteStatus) -> str:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(status_view(status))
    return captured.get()


def test_what_comes_from_outside_cannot_paint_over_the_status(home: SiteHome) -> None:
    painted = CONNECTED.model_copy(
        update={"trouble": "no\x1b[2J", "coordinator": "\x1b[8m", "refused_bundle": "a\rb"}
    )
    write(home, painted)

    text = shown(site_status(home, NOW))

    assert not {"\x1b", "\r"} & set(text)
    assert "no\\x1b[2J" in text
    assert "a\\x0db" in text


def test_site_that_is_connected_and_able_is_healthy(
    home: SiteHome, start_trainer: Callable[[DeskReport], None]
) -> None:
    write(home, CONNECTED)
    start_trainer(ABLE)

    status = site_status(home, NOW)

    assert status.healthy
    assert status.problems == ()
    assert (status.connected, status.trainer_serving, status.site) == (True, True, "north")
    assert SiteStatus.model_validate_json(status.model_dump_json()) == status
    assert "trial-1: 3" in shown(status)


def test_site_that_never_ran_says_what_to_start(home: SiteHome) -> None:
    status = site_status(home, NOW)

    assert not status.healthy
    assert "The connector has never run." in shown(status)
    assert "The trainer does not answer" in shown(status)


def test_site_without_its_trainer_is_not_healthy(home: SiteHome) -> None:
    write(home, CONNECTED)

    status = site_status(home, NOW)

    assert status.connected
    assert not status.healthy


def test_damaged_report_is_a_problem_and_no_crash(home: SiteHome) -> None:
    home.connector_status.write_text('{"version": 7}')

    assert "written by another version" in shown(site_status(home, NOW))
    with pytest.raises(SiteError):
        read_report(home.connector_status)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"written_at": NOW - timedelta(minutes=5)}, "is not running"),
        ({"state": "stopped"}, "is not running"),
        ({"state": "waiting", "trouble": "this site is not admitted."}, "is not admitted"),
        ({"last_exchange_at": NOW - timedelta(minutes=2)}, "not connected"),
        ({"trouble": "the coordinator cannot be reached."}, "cannot be reached"),
        ({"certificate_expires": NOW - timedelta(days=1)}, "expired on 2026-11-19"),
    ],
)
def test_trouble_with_the_coordinator_makes_a_site_unhealthy(
    changes: dict[str, object], words: str
) -> None:
    (problem,) = connector_problems(CONNECTED.model_copy(update=changes), NOW)

    assert problem.blocks
    assert words in problem.what


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"certificate_expires": NOW + timedelta(days=9)}, "certificate expires on 2026-11-29"),
        ({"authority_expires": NOW + timedelta(days=9)}, "authority expires on 2026-11-29"),
        ({"refused_bundle": "it holds 'evil.py'"}, "evil.py"),
    ],
)
def test_what_a_person_should_know_leaves_a_site_healthy(
    changes: dict[str, object], words: str
) -> None:
    report = CONNECTED.model_copy(update=changes)

    (problem,) = connector_problems(report, NOW)

    assert not problem.blocks
    assert words in problem.what
    assert is_connected(report, NOW)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"able": False, "reasons": ("the disk is full",)}, "the disk is full"),
        ({"able": False}, "gives no reason"),
        ({"waiting": ("ab" * 32,)}, "waits for approval (abababababab)"),
    ],
)
def test_trainer_that_cannot_train_or_waits_for_a_person_makes_a_site_unhealthy(
    changes: dict[str, object], words: str
) -> None:
    (problem,) = trainer_problems(ABLE.model_copy(update=changes))

    assert problem.blocks
    assert words in problem.what


def test_full_disk_does_not_stop_the_connector(home: SiteHome) -> None:
    board = Board(home.connector_status, CONNECTED, now=lambda: NOW)
    home.connector_status.unlink()
    home.run.rmdir()  # no place to write to any more

    board.answered("paused", is_training=True)

    assert board.report.refusals == {"paused": 1}
    assert board.report.rounds == 0
    home.run.mkdir()
    board.write()
    assert read_report(home.connector_status) == board.report


def test_metrics_tell_the_same_on_loopback(
    home: SiteHome, start_trainer: Callable[[DeskReport], None]
) -> None:
    now = datetime.now(UTC)
    report = CONNECTED.model_copy(
        update={
            "last_exchange_at": now,
            "rounds": 4,
            "refusals": {"paused": 2},
            "certificate_expires": now + timedelta(days=100),
        }
    )
    write(home, report, at=now)
    start_trainer(ABLE.model_copy(update={"waiting": ("ab" * 32,)}))
    port = free_port()

    with (
        serve_metrics(home, port),
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as page,
    ):
        lines = page.read().decode().splitlines()

    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert values["fovea_site_up"] == "1.0"
    assert values["fovea_site_healthy"] == "0.0"
    assert values["fovea_site_connected"] == "1.0"
    assert values["fovea_site_trainer_serving"] == "1.0"
    assert values["fovea_site_waiting_approvals"] == "1.0"
    assert values["fovea_site_rounds_answered_total"] == "4.0"
    assert values['fovea_site_refusals_total{code="paused"}'] == "2.0"
    assert float(values["fovea_site_last_exchange_seconds"]) < 30
    server_s = float(values['fovea_site_certificate_expiry_seconds{which="server"}'])
    assert server_s == pytest.approx(100 * 86400, abs=60)
    assert float(values["fovea_site_connector_resident_bytes"]) > 2**20


def test_port_that_is_taken_leaves_the_site_without_metrics_only(
    home: SiteHome, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with serve_metrics(home, other.getsockname()[1]):
            pass

    assert "no metrics" in caplog.text


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_report_that_is_no_plain_small_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "connector.json"
    whole = tmp_path / "whole.json"
    whole.write_text(CONNECTED.model_dump_json())
    path.symlink_to(whole)
    with pytest.raises(SiteError, match="cannot be read"):
        read_report(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(SiteError, match="no regular file"):
        read_report(path)
    path.unlink()
    path.write_text(CONNECTED.model_dump_json() + " " * 70_000)
    with pytest.raises(SiteError, match="longer than"):
        read_report(path)
