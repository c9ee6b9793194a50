"""Through nginx as in a hospital: cut lines, expired certificates, strangers, full disks."""

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from harness.federation import Federation, federation_folder, free_port, wait_until
from harness.network import Line
from harness.nginx import Nginx
from harness.start import PICTURES, TRIAL
from server.operations.authority import new_server, read_identity
from server.operations.home import CoordinatorHome

pytestmark = [pytest.mark.deployment, pytest.mark.timeout(900)]

CUT_S = 150  # longer than Flower takes to give a silent node up
SITES = {"north": "chestx", "valley": "retina"}


@pytest.fixture(scope="module")
def line() -> Iterator[Line]:
    with Line(free_port()) as made:
        yield made


@pytest.fixture(scope="module")
def federation(line: Line) -> Iterator[Federation]:
    made = Federation(federation_folder(), SITES, TRIAL, endpoint_port=line.port)
    try:
        made.provision()
        made.add_site("north", PICTURES, labels=["Effusion", "Mass", "Nodule"])
        made.add_site("valley", PICTURES, labels=None)
        made.serve()
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def nginx(federation: Federation, line: Line) -> Iterator[Nginx]:
    """The door that hospitals come through, at the far end of the line."""
    folder = federation.root / "nginx"
    folder.mkdir()
    made = Nginx(
        port=line.target_port,
        superlink_port=federation.superlink_port,
        tls=federation.home / "tls",
        authority=federation.home / "ca",
        folder=folder,
    )
    try:
        made.start()
        for site in SITES:
            federation.admit(site)
            federation.sites[site].start()
        yield made
    finally:
        made.stop()


def test_a_line_cut_for_minutes_costs_no_round(
    federation: Federation, line: Line, nginx: Nginx
) -> None:
    assert nginx.process is not None
    run = federation.launch("train.epochs=8", sites=tuple(SITES))
    federation.approve(run, tuple(SITES))
    federation.reaches_round(run, 2, within_s=120)
    line.cut()
    time.sleep(CUT_S)
    line.mend()

    summary = federation.finished(run, within_s=400)

    assert summary["verdict"] == "COMPLETE", summary["reasons"]
    for site in federation.sites.values():
        released = [r for r in site.events("answer-released") if r["kind"] == "train-request"]
        assert [r["round"] for r in released if r["run"] == run] == [1, 2, 3]


def test_an_expired_certificate_is_named_and_renewed_without_touching_the_sites(
    federation: Federation, nginx: Nginx
) -> None:
    home = CoordinatorHome(federation.home)
    assert federation.server is not None
    federation.server.stop()
    nginx.stop()
    expired = new_server(
        read_identity(home.authority_key, home.authority),
        ["127.0.0.1"],
        days=10,
        now=datetime.now(UTC) - timedelta(days=400),
    )
    home.server_key.write_bytes(expired.key_pem)
    home.server_certificate.write_bytes(expired.certificate_pem)
    federation.server.start()
    nginx.start()

    said = federation.fovea("launch", str(TRIAL), "--sites", "north,valley", fails=True)
    assert "expired" in said
    wait_until(
        "north says that the certificate has expired",
        lambda: "expired" in federation.fovea_site("north", "status", "--json", fails=True),
        within_s=90,
        every_s=2,
    )
    assert "expired" in federation.fovea_site("north", "check", fails=True)

    federation.server.stop()
    nginx.stop()
    federation.fovea("renew", "server")
    federation.serve()
    nginx.start()
    wait_until(
        "both sites are connected again",
        lambda: federation.fovea("sites").count("connected") >= 2,
        within_s=120,
        every_s=2,
    )


def test_a_node_that_is_not_admitted_is_turned_away(federation: Federation, nginx: Nginx) -> None:
    assert nginx.process is not None
    said = federation.fovea("launch", str(TRIAL), "--sites", "north,stranger", fails=True)
    assert "unknown site 'stranger'" in said
    stranger = federation.site("north")
    home = federation.root / "stranger"
    federation.fovea_site("stranger", "init", "--kit", str(federation.home / "kits" / "north"))
    stranger.connector.command = [
        part.replace(str(stranger.home), str(home)) for part in stranger.connector.command
    ]
    stranger.connector.output = federation.root / "stranger-connector.log"
    stranger.connector.start()

    wait_until(
        "the stranger is told that it is not admitted",
        lambda: "admitted" in stranger.connector.said(),
        within_s=60,
    )
    stranger.connector.kill()


def test_a_disk_that_fills_up_while_training_is_named_and_nothing_half_written_stays(
    federation: Federation, nginx: Nginx
) -> None:
    assert nginx.process is not None
    if os.geteuid() != 0:
        pytest.fail("needs root: a small file system is mounted to be filled")
    site = federation.sites["valley"]
    state = site.home / "trainer" / "state"
    site.trainer.stop()
    kept = federation.root / "state-before"
    subprocess.run(["cp", "-a", str(state), str(kept)], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m,mode=700", "tmpfs", state], check=True)
    try:
        subprocess.run(["cp", "-a", f"{kept}/.", str(state)], check=True)
        federation.edit_site("valley", "limits", min_free_disk_mb=0)
        site.trainer.start()
        run = federation.launch("train.epochs=8", "federation.return_grace_s=8", sites=tuple(SITES))
        federation.approve(run, tuple(SITES))
        federation.reaches_round(run, 1, within_s=120)
        _fill(state / "filler")
        before = _files(state)
        summary = federation.finished(run, within_s=400)

        assert summary["verdict"] == "PARTIAL"
        assert "disk is full" in " ".join(r for r in summary["reasons"] if "valley" in r)
        assert _files(state) <= before
        federation.fovea_site("valley", "audit", "verify")

        (state / "filler").unlink()
        again = federation.launch("federation.rounds=1", sites=tuple(SITES))
        federation.approve(again, tuple(SITES))
        assert federation.finished(again, within_s=200)["verdict"] == "COMPLETE"
    finally:
        site.trainer.stop()
        subprocess.run(["umount", str(state)], check=True)


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * 4096)
