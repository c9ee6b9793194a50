"""A run over real processes in short: TLS, node keys, signatures, approval by hand, two rounds."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from client.home.folders import SiteHome
from client.standing.connector_report import read_report
from harness.federation import Federation
from harness.start import start_federation

LISTED = ("north", "valley")
UNLISTED = "lakeside"
PATIENTS = 16  # of a site and of a reference set: what is learnt does not matter here

pytestmark = [
    pytest.mark.timeout(600),  # the first test waits for all of it, on a machine at work
    pytest.mark.xdist_group("deployment"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # inside MLflow: its database layer
]


@pytest.fixture(scope="module")
def federation() -> Iterator[Federation]:
    made = start_federation(patients=PATIENTS, bystanders=[UNLISTED])
    yield made
    made.close()


@pytest.fixture(scope="module")
def run(federation: Federation) -> str:
    few = [f"reference.{task}.source.patients={PATIENTS}" for task in ("chestx", "retina")]
    name = federation.launch("federation.rounds=2", *few, sites=LISTED)
    federation.approve(name, LISTED)
    return name


@pytest.fixture(scope="module")
def summary(federation: Federation, run: str) -> dict[str, Any]:
    return federation.finished(run, within_s=300)


def test_the_run_is_complete(summary: dict[str, Any]) -> None:
    assert summary["verdict"] == "COMPLETE", summary["reasons"]
    assert [entry["round"] for entry in summary["rounds"]] == [0, 1, 2]
    last = summary["rounds"][-1]
    assert {site["site"]: site["outcome"] for site in last["sites"]} == {
        "north": "answered",
        "valley": "answered",
    }
    assert set(last["central"]) == {"chestx", "retina"}


def test_metrics_and_pictures_are_in_mlflow(
    federation: Federation, run: str, summary: dict[str, Any]
) -> None:
    out = federation.home / "runs" / run / "out"
    client = MlflowClient(f"sqlite:///{out / 'mlflow.db'}")
    tracked = client.get_run(summary["tracking"]["run_id"])

    assert tracked.data.tags["fovea.verdict"] == "COMPLETE"
    scores = client.get_metric_history(tracked.info.run_id, "round/score")
    assert [metric.step for metric in scores] == [0, 1, 2]
    assert list(Path(out / "mlartifacts").rglob("*.png"))


def test_every_release_is_audited_and_the_logs_verify(
    federation: Federation, run: str, summary: dict[str, Any]
) -> None:
    assert summary["verdict"] == "COMPLETE"
    for name in LISTED:
        federation.fovea_site(name, "audit", "verify")
        released = [r for r in federation.sites[name].events("answer-released") if r["run"] == run]
        assert [r["round"] for r in released if r["kind"] == "train-request"] == [1, 2]
        assert len([r for r in released if r["kind"] == "evaluate-request"]) == 1


def test_a_site_that_is_not_named_receives_nothing_at_all(
    federation: Federation, run: str, summary: dict[str, Any]
) -> None:
    assert UNLISTED not in json.dumps(summary)
    connector = federation.sites[UNLISTED].connector
    assert connector.is_running
    assert connector.stop() == 0
    report = read_report(SiteHome(federation.sites[UNLISTED].home).connector_status)
    assert report is not None
    assert (report.site, report.state) == (UNLISTED, "stopped")
    assert report.last_exchange_at is not None  # it was connected, and asked for messages
    assert (report.bytes_in, report.answers, report.refused_bundles) == (0, 0, 0)
    assert run not in connector.said()


def test_a_site_says_that_it_is_well(federation: Federation, summary: dict[str, Any]) -> None:
    assert summary["verdict"] == "COMPLETE"
    status = json.loads(federation.fovea_site("north", "status", "--json"))

    assert status["healthy"] is True


def test_nothing_listens_beyond_this_machine(
    federation: Federation, summary: dict[str, Any]
) -> None:
    assert summary["verdict"] == "COMPLETE"
    listening = _listening_addresses()

    assert f"127.0.0.1:{federation.superlink_port}" in listening
    ours = {address for address in listening if address.endswith(f":{federation.superlink_port}")}
    assert ours == {f"127.0.0.1:{federation.superlink_port}"}


def _listening_addresses() -> set[str]:
    """Return what listens on TCP here, as the kernel tells it."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            local, state = line.split()[1], line.split()[3]
            if state != "0A":
                continue
            address, port = local.split(":")
            octets = [str(int(address[i : i + 2], 16)) for i in (6, 4, 2, 0)]
            shown = ".".join(octets) if len(address) == 8 else f"[{address}]"
            found.add(f"{shown}:{int(port, 16)}")
    return found
