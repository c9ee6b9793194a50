"""`fovea serve`, launch and stop against a real SuperLink: one for the whole module."""

import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner, Result

from common.errors import ConfigError, RunError
from common.messages.manifest import open_manifest
from server.cli import main
from server.operations.admitted import read_admitted
from server.operations.authority import new_server, read_identity
from server.operations.federation_file import read_federation
from server.operations.flower_control import control_of
from server.operations.home import CoordinatorHome, RunFolder
from server.operations.order import pinned_run_keys, read_manifest
from server.operations.run_status import Phase, read_status
from server.operations.runs import RunState, view_run
from server.operations.serve import LONGEST_STOP_S, serve
from server.operations.superlink import command, environment
from tests.server.operations.coordinators import (
    REPOSITORY,
    RUN,
    Served,
    admission_file,
    provisioned,
    serving,
    wait_until,
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(provisioned(tmp_path_factory.mktemp("coordinator"))) as running:
        yield running


def fovea(home: CoordinatorHome, *words: str) -> Result:
    return CliRunner().invoke(main, [*words, "--home", str(home.root)])


def port_of(home: CoordinatorHome) -> int:
    return read_federation(home.federation_file).superlink_port


def is_up(home: CoordinatorHome) -> bool:
    try:
        with control_of(home) as control:
            control.nodes()
    except RunError:
        return False
    return True


def test_admitted_site_is_listed_and_known_to_flower(served: Served, tmp_path: Path) -> None:
    result = fovea(served.home, "admit", str(admission_file(tmp_path, "north", "chestx")))

    assert result.exit_code == 0, result.output
    with control_of(served.home) as control:
        (node,) = [node for node in control.nodes() if node.name == "north"]
    assert read_admitted(served.home)["north"].node_id == node.node_id
    listed = fovea(served.home, "sites").stdout
    assert "north" in listed
    assert "not connected" in listed
    assert "not admitted" in listed  # valley and coast


def test_second_serve_of_the_same_home_is_refused(served: Served) -> None:
    result = fovea(served.home, "serve")
    assert result.exit_code == 1
    assert "another `fovea serve` runs" in result.stderr


def test_superlink_listens_on_loopback_alone(served: Served) -> None:
    process = psutil.Process(served.superlink)
    listening = [c.laddr.ip for c in process.net_connections() if c.status == psutil.CONN_LISTEN]
    # gRPC's health server writes the same address in its IPv6 form.
    assert set(listening) == {"127.0.0.1", "::ffff:127.0.0.1"}


def test_killed_superlink_comes_back_alone_and_still_knows_its_sites(
    served: Served, tmp_path: Path
) -> None:
    fovea(served.home, "admit", str(admission_file(tmp_path, "valley", "retina")))
    before = served.superlink
    helpers = psutil.Process(before).children(recursive=True)
    assert helpers

    os.kill(before, signal.SIGKILL)

    wait_until(lambda: served.superlink != before and is_up(served.home))
    assert not any(helper.is_running() for helper in helpers)
    with control_of(served.home) as control:
        assert "valley" in {node.name for node in control.nodes()}


def test_lost_database_is_made_anew_and_knows_the_admitted_sites_alone(
    served: Served, tmp_path: Path
) -> None:
    fovea(served.home, "admit", str(admission_file(tmp_path, "coast", "pathoscan")))
    node_before = read_admitted(served.home)["coast"].node_id
    before = served.superlink
    os.kill(before, signal.SIGSTOP)
    for path in served.home.superlink.glob("state.db*"):
        path.unlink()
    os.kill(before, signal.SIGKILL)

    wait_until(lambda: served.superlink != before and is_up(served.home))

    wait_until(lambda: read_admitted(served.home)["coast"].node_id != node_before)
    with control_of(served.home) as control:
        known = {node.name: node.node_id for node in control.nodes()}
    assert known["coast"] == read_admitted(served.home)["coast"].node_id


def launched_run(served: Served, folder: Path) -> RunFolder:
    """A run that waits for a site which never comes."""
    fovea(served.home, "admit", str(admission_file(folder, "north", "chestx")))
    config = folder / "small.yaml"
    config.write_text(RUN.replace("wait_for_sites_s: 1", "wait_for_sites_s: 600"))
    known = set(served.home.runs.glob("*"))

    result = fovea(served.home, "launch", str(config), "--sites", "north")

    assert result.exit_code == 0, result.output
    (path,) = set(served.home.runs.glob("*")) - known
    return served.home.run(path.name)


def is_waiting(folder: RunFolder) -> bool:
    status = read_status(folder.status)
    return status is not None and status.phase is Phase.WAITING


def test_launched_run_has_a_manifest_that_sites_accept_and_can_be_stopped(
    served: Served, tmp_path: Path
) -> None:
    folder = launched_run(served, tmp_path)

    manifest = open_manifest(read_manifest(folder), run_keys=pinned_run_keys(served.home))
    assert manifest.run == folder.name
    assert [(site.name, site.task) for site in manifest.sites] == [("north", "chestx")]
    run_days = read_federation(served.home.federation_file).run_days
    assert (manifest.expires_at - manifest.issued_at).days == run_days
    assert "secret" not in manifest.model_dump_json()
    assert not (folder.root.stat().st_mode | folder.config.stat().st_mode) & 0o077

    wait_until(lambda: is_waiting(folder), timeout_s=60)
    shown = fovea(served.home, "status").stdout
    assert f"{folder.name}  running" in shown
    assert "waits for north" in shown
    refused = fovea(served.home, "resume", folder.name)
    assert f"run {folder.name} is running" in refused.stderr

    stopped = fovea(served.home, "stop", folder.name)

    assert stopped.exit_code == 0, stopped.output
    assert f"fovea resume {folder.name}" in stopped.stdout
    assert view_run(folder, datetime.now(UTC)).state is RunState.STOPPED
    assert fovea(served.home, "stop", folder.name).exit_code == 1


@pytest.mark.slow
def test_run_whose_superlink_was_killed_is_interrupted_and_goes_on(
    served: Served, tmp_path: Path
) -> None:
    folder = launched_run(served, tmp_path)
    wait_until(lambda: is_waiting(folder), timeout_s=60)
    before = served.superlink
    status = read_status(folder.status)
    assert status is not None
    assert status.pid is not None
    rounds = psutil.Process(status.pid)

    os.kill(before, signal.SIGKILL)
    wait_until(lambda: served.superlink != before and is_up(served.home))

    wait_until(lambda: not rounds.is_running() or rounds.status() == psutil.STATUS_ZOMBIE)
    view = view_run(folder, datetime.now(UTC))
    assert view.state is RunState.INTERRUPTED
    assert view.advice == f"fovea resume {folder.name}"
    resumed = fovea(served.home, "resume", folder.name)
    assert resumed.exit_code == 0, resumed.output
    wait_until(lambda: is_waiting(folder), timeout_s=60)
    assert fovea(served.home, "stop", folder.name).exit_code == 0


def test_expired_certificate_is_said_and_the_superlink_stays_up(
    home: CoordinatorHome, tmp_path: Path
) -> None:
    fovea(home, "admit", str(admission_file(tmp_path, "north", "chestx")))
    authority = read_identity(home.authority_key, home.authority)
    past = datetime.now(UTC) - timedelta(days=400)
    server = new_server(authority, ["localhost", "127.0.0.1"], days=365, now=past)
    home.server_certificate.write_bytes(server.certificate_pem)
    home.server_key.write_bytes(server.key_pem)

    with serving(home) as running:
        wait_until(lambda: "action=certificate_expired" in running.logged())
        time.sleep(1.5)  # several looks later

        logged = running.logged()
        assert logged.count("action=certificate_expired") == 1
        assert "ERROR" in logged
        assert "fovea renew server, then restart fovea serve" in logged
        assert "action=superlink_down" not in logged
        assert psutil.Process(running.superlink).is_running()
        with socket.create_connection(("127.0.0.1", port_of(home)), timeout=5):
            pass  # sites are answered, and see why
    assert running.process.returncode == 0


@pytest.mark.slow
def test_what_hinders_introducing_the_sites_does_not_end_serve(home: CoordinatorHome) -> None:
    home.admitted.mkdir(exist_ok=True, mode=0o700)
    (home.admitted / "north.json").write_text("damaged")

    with serving(home) as running:
        wait_until(lambda: "action=superlink_up" in running.logged())
        assert "north.json: is damaged. Restore it" in running.logged()
    assert running.process.returncode == 0


def test_it_ends_well_before_its_service_unit_would_kill_it() -> None:
    unit = (REPOSITORY / "deploy" / "systemd" / "fovea-serve.service").read_text()
    (stop_s,) = re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    assert min(80, int(stop_s) - 10) > LONGEST_STOP_S


def test_host_that_others_can_reach_is_refused(home: CoordinatorHome) -> None:
    for host in ("0.0.0.0", "192.168.1.4", "localhost", "::"):  # noqa: S104
        with pytest.raises(ConfigError, match="listens on loopback only"):
            command(home, host=host, port=9443)


def test_superlink_calls_nobody_and_installs_nothing(home: CoordinatorHome) -> None:
    words = command(home, host="127.0.0.1", port=9443)
    settings = environment(home, {"NO_PROXY": "example.org", "HTTPS_PROXY": "http://proxy:3128"})
    assert "--disable-runtime-dependency-installation" in words
    assert "--enable-supernode-auth" in words
    assert settings["FLWR_TELEMETRY_ENABLED"] == "0"
    assert settings["FLWR_DISABLE_UPDATE_CHECK"] == "1"
    assert settings["NO_PROXY"] == "127.0.0.1,localhost,example.org"


def test_taken_port_is_named(home: CoordinatorHome) -> None:
    port = read_federation(home.federation_file).superlink_port
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        with pytest.raises(RunError, match=f"port {port} of this machine is taken"):
            serve(home, say=print)


def test_missing_certificate_is_named_with_the_command_that_makes_it(
    home: CoordinatorHome,
) -> None:
    home.server_certificate.unlink()
    with pytest.raises(ConfigError, match=r"server.crt: not found. `fovea provision"):
        serve(home, say=print)


def test_control_without_superlink_names_serve(home: CoordinatorHome) -> None:
    with control_of(home) as control, pytest.raises(RunError, match="Start it with `fovea serve`"):
        control.nodes()
