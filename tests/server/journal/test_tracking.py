"""What MLflow gets, how fast, and what happens when it goes away."""

import json
import logging
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import yaml
from mlflow import MlflowClient

from common.config.run import RunConfig, TrackingConfig
from common.errors import RunError
from server.journal.metric_names import round_metrics, valid_name
from server.journal.tracked_params import flattened
from server.journal.tracking import (
    Tracker,
    connect,
    continue_tracking,
    start_tracking,
    without_credentials,
)
from server.measuring.overlays import save_png
from server.record.summary import RoundEntry, Summary

MakeSummary = Callable[..., Summary]
ALLOWED = re.compile(r"^[A-Za-z0-9_\-. :/]{1,250}$")


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's tables without a run; making them anew for every test would take seconds each."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    client_of(path.parent).search_experiments()
    return path


@pytest.fixture(autouse=True)
def _with_database(empty_database: Path, tmp_path: Path) -> None:
    shutil.copy(empty_database, tmp_path / "mlflow.db")


@pytest.fixture
def tracker(demo_config: RunConfig, tmp_path: Path) -> Tracker:
    return start_tracking(demo_config, out=tmp_path, tags={"fovea.run": "demo-1"})


@pytest.fixture
def last_round(make_summary: MakeSummary) -> RoundEntry:
    return make_summary().rounds[-1]


def client_of(folder: Path) -> MlflowClient:
    return connect(f"sqlite:///{folder.resolve() / 'mlflow.db'}")


def artifacts_of(folder: Path, run_id: str) -> set[str]:
    root = folder / "mlartifacts" / run_id / "artifacts"
    return {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()}


def other_uri(config: RunConfig, uri: str) -> RunConfig:
    tracking = TrackingConfig(uri=uri, experiment=config.tracking.experiment)
    return config.model_copy(update={"tracking": tracking})


def test_every_configuration_value_is_a_parameter(
    demo_config: RunConfig, tracker: Tracker, tmp_path: Path
) -> None:
    tracker.log_config(demo_config, out=tmp_path)
    params = client_of(tmp_path).get_run(tracker.run_id).data.params
    assert params["train.learning_rate"] == "0.003"
    assert params["sites.north.source.patients"] == "240"
    assert params["loss.class_weights.chestx.Effusion"] == "2.7"
    assert params["loss.class_weights.retina.grade_ge_4"] == "1.0"
    leaves = json.dumps(demo_config.model_dump(mode="json")).count(":")
    assert len(params) > leaves / 2  # sections have a colon too


def test_the_whole_configuration_is_kept_as_a_file(
    demo_config: RunConfig, tracker: Tracker, tmp_path: Path
) -> None:
    tracker.log_config(demo_config, out=tmp_path)
    assert "config.yaml" in artifacts_of(tmp_path, tracker.run_id)
    values = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert RunConfig.model_validate(values) == demo_config


def test_a_round_is_tracked_with_its_number_as_step(
    tracker: Tracker, last_round: RoundEntry, tmp_path: Path
) -> None:
    tracker.log_round(last_round)
    client = client_of(tmp_path)
    (auroc,) = client.get_metric_history(tracker.run_id, "central/chestx/auroc")
    assert auroc.step == 1
    assert auroc.value == last_round.central["chestx"].classification.average["auroc"].value
    tracked = client.get_run(tracker.run_id).data.metrics
    assert len(tracked) == len(round_metrics(last_round))


def test_names_tell_part_task_class_and_site(last_round: RoundEntry) -> None:
    names = set(round_metrics(last_round))
    assert {
        "central/chestx/auroc",
        "central/chestx/auroc.low",
        "central/chestx/auroc.high",
        "central/chestx/support",
        "central/chestx/Nodule/auroc",
        "central/chestx/Nodule/positives",
        "central/chestx/majority/accuracy",
        "central/chestx/loss/total",
        "central/chestx/localisation/energy_in_roi",
        "central/chestx/localisation/energy_in_roi.chance",
        "central/chestx/localisation/Mass/pointing_hit",
        "site/north/total",
        "site/north/seconds",
        "site/harbour/answered",
        "federated/north/auroc",
        "round/refused",
    } <= names


def test_every_name_is_one_that_mlflow_accepts(last_round: RoundEntry) -> None:
    assert all(ALLOWED.match(name) for name in round_metrics(last_round))
    assert valid_name("central/retina/grade>=2/auroc") == "central/retina/grade_ge_2/auroc"


def test_what_is_not_defined_is_not_tracked(last_round: RoundEntry) -> None:
    assert last_round.central["chestx"].loss["saliency"] is None
    assert "central/chestx/loss/saliency" not in round_metrics(last_round)


def test_a_round_is_tracked_in_less_than_a_second(tracker: Tracker) -> None:
    metrics = {f"central/task/class {n}/metric": 0.5 for n in range(1500)}
    started = time.process_time()  # not the clock's: a busy machine is not a slow tracker
    tracker.log_metrics(metrics, step=1)
    tracker.log_metrics(metrics, step=2)
    assert (time.process_time() - started) / 2 < 1.0


def test_a_picture_can_be_stepped_through_by_round(tracker: Tracker, tmp_path: Path) -> None:
    picture = tmp_path / "round_001.png"
    save_png(np.zeros((8, 8, 3), np.uint8), picture)
    for step in (1, 2):
        tracker.log_picture(picture, key="overlays/chestx", step=step)
    kept = [n for n in artifacts_of(tmp_path, tracker.run_id) if n.endswith(".png")]
    assert sorted(re.findall(r"overlays~chestx\+step\+(\d)", " ".join(kept))) == ["1", "2"]


def test_long_values_are_cut_and_say_where_the_whole_is() -> None:
    (value,) = flattened({"key": "x" * 10_000}).values()
    assert len(value) == 6000
    assert value.endswith("config.yaml)")


def test_lists_of_sections_are_named_and_other_lists_are_not() -> None:
    values = {"sites": [{"name": "north", "n": 1}], "split": [0.8, 0.2], "none": []}
    assert flattened(values) == {
        "sites.north.name": "north",
        "sites.north.n": "1",
        "split": "[0.8, 0.2]",
        "none": "[]",
    }


def test_an_unreachable_server_stops_the_run_before_it_starts(
    demo_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    config = other_uri(demo_config, "http://ann:secret@127.0.0.1:9")
    with pytest.raises(RunError, match=r"tracking\.uri http://127\.0\.0\.1:9: .*null") as caught:
        start_tracking(config, out=tmp_path, tags={})
    assert "secret" not in str(caught.value)


def runs_of(folder: Path) -> list[str]:
    client = client_of(folder)
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    return [run.info.run_id for run in runs]


def test_a_run_that_goes_on_is_the_same_in_mlflow(
    demo_config: RunConfig, tracker: Tracker, tmp_path: Path
) -> None:
    tracker.close("FAILED")
    again = continue_tracking(demo_config, tracker.run_id, out=tmp_path, tags={})
    assert again.run_id == tracker.run_id
    assert client_of(tmp_path).get_run(tracker.run_id).info.status == "RUNNING"


@pytest.mark.parametrize("how", ["unknown", "deleted"])
def test_a_run_that_mlflow_no_longer_has_goes_on_in_another(
    how: str, demo_config: RunConfig, tracker: Tracker, tmp_path: Path
) -> None:
    if how == "deleted":
        client_of(tmp_path).delete_run(tracker.run_id)
    gone = tracker.run_id if how == "deleted" else "0" * 32
    again = continue_tracking(demo_config, gone, out=tmp_path, tags={})
    assert again.run_id not in (gone, tracker.run_id)
    assert again.run_id in runs_of(tmp_path)


class BusyServer(BaseHTTPRequestHandler):
    """An MLflow that is busy; it keeps what it was asked."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(503)
        self.end_headers()

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:
        del format, args


def test_a_server_that_fails_is_not_taken_for_one_that_has_lost_the_run(
    demo_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with HTTPServer(("127.0.0.1", 0), BusyServer) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        config = other_uri(demo_config, f"http://ann:secret@127.0.0.1:{server.server_port}")
        with pytest.raises(RunError, match="It has the first rounds of this run") as caught:
            continue_tracking(config, "0" * 32, out=tmp_path, tags={})
        server.shutdown()
    assert "secret" not in str(caught.value)
    assert not any("experiments" in path or "runs/create" in path for path in BusyServer.asked)


@pytest.mark.parametrize("uri", ["carrier-pigeon://loft", "postgresql://db/fovea"])
def test_an_address_that_cannot_be_used_ends_a_run_that_goes_on_in_words(
    uri: str, demo_config: RunConfig, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match=f"tracking.uri {re.escape(uri)}: MLflow cannot be reached"):
        continue_tracking(other_uri(demo_config, uri), "0" * 32, out=tmp_path, tags={})


def test_a_deleted_experiment_is_an_error_that_names_it(
    demo_config: RunConfig, tracker: Tracker, tmp_path: Path
) -> None:
    client = client_of(tmp_path)
    experiment = client.get_experiment_by_name("fovea")
    assert experiment is not None
    client.delete_experiment(experiment.experiment_id)
    with pytest.raises(RunError, match="'fovea' is deleted"):
        start_tracking(demo_config, out=tmp_path, tags={})


def test_credentials_in_the_uri_are_not_tracked(demo_config: RunConfig, tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"
    tracker = start_tracking(other_uri(demo_config, f"sqlite:///{database}"), out=tmp_path, tags={})
    with_secret = other_uri(demo_config, "https://ann:secret@example.org/mlflow")
    tracker.log_config(with_secret, out=tmp_path)
    run = client_of(tmp_path).get_run(tracker.run_id)
    assert run.data.params["tracking.uri"] == "https://example.org/mlflow"
    assert "secret" not in (tmp_path / "config.yaml").read_text()
    assert without_credentials("sqlite:////tmp/a.db") == "sqlite:////tmp/a.db"


def unsent_file(folder: Path) -> Path:
    (path,) = folder.glob("unsent*.jsonl")
    return path


def break_database(folder: Path) -> None:
    shutil.move(folder / "mlflow.db", folder / "away.db")
    (folder / "mlflow.db").write_bytes(b"not a database" * 100)


def mend_database(folder: Path) -> None:
    shutil.move(folder / "away.db", folder / "mlflow.db")


def test_what_mlflow_does_not_take_is_kept_and_logged(
    tracker: Tracker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    break_database(tmp_path)
    with caplog.at_level(logging.ERROR, logger="server.journal.tracking"):
        tracker.log_metrics({"a": 1.0}, step=1)
        tracker.log_metrics({"a": 2.0}, step=2)
    assert tracker.entry().is_complete is False
    assert tracker.entry().unsent == f"unsent_tracking_{tracker.run_id}.jsonl"
    lines = unsent_file(tmp_path).read_text().splitlines()
    assert sorted(json.loads(line)["step"] for line in lines) == [1, 2]
    events = [record for record in caplog.records if record.name == "server.journal.tracking"]
    assert [event.action for event in events] == ["tracking_failed"] * 2


def test_what_was_kept_is_sent_when_mlflow_is_back(tracker: Tracker, tmp_path: Path) -> None:
    break_database(tmp_path)
    tracker.log_metrics({"a": 1.0}, step=1)
    mend_database(tmp_path)
    tracker.log_metrics({"a": 2.0}, step=2)
    history = client_of(tmp_path).get_metric_history(tracker.run_id, "a")
    assert sorted((metric.step, metric.value) for metric in history) == [(1, 1.0), (2, 2.0)]
    assert tracker.entry().is_complete
    assert not list(tmp_path.glob("unsent*"))


def test_an_entry_that_can_never_be_sent_does_not_hold_up_the_others(
    tracker: Tracker, tmp_path: Path
) -> None:
    tracker.log_file(tmp_path / "never-written.png")
    tracker.log_metrics({"a": 2.0}, step=2)
    assert client_of(tmp_path).get_run(tracker.run_id).data.metrics == {"a": 2.0}
    assert not tracker.entry().is_complete


def test_closing_ends_the_run(tracker: Tracker, tmp_path: Path) -> None:
    entry = tracker.close()
    assert client_of(tmp_path).get_run(tracker.run_id).info.status == "FINISHED"
    assert entry.is_complete
    assert entry.run_id == tracker.run_id


def test_two_runs_share_an_experiment(
    demo_config: RunConfig, tracker: Tracker, tmp_path: Path
) -> None:
    second = start_tracking(demo_config, out=tmp_path, tags={})
    client = client_of(tmp_path)
    first_run, second_run = client.get_run(tracker.run_id), client.get_run(second.run_id)
    assert first_run.info.experiment_id == second_run.info.experiment_id


def test_tracking_into_a_file_opens_no_connection(
    demo_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_socket: socket.socket, address: object) -> None:
        raise AssertionError(f"connected to {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    tracker = start_tracking(demo_config, out=tmp_path, tags={})
    tracker.log_metrics({"a": 1.0}, step=1)
    assert tracker.close().is_complete


def test_mlflow_s_telemetry_is_off() -> None:
    code = (
        "import server.journal.tracking, os, mlflow.telemetry as telemetry;"
        "print(os.environ['MLFLOW_DISABLE_TELEMETRY'], telemetry.get_telemetry_client())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["true", "None"]
