"""The ServerApp that pyproject.toml names, as Flower finds and runs it: by its attribute."""

import logging
import os
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import yaml

import server.simulate  # isort: skip  # noqa: F401 - sets what Flower and Ray read when imported

import ray
from flwr.app import Context, RecordDict
from flwr.simulation.run_simulation import _run_simulation
from flwr.supercore.telemetry import EventType

from common.config import RunConfig
from common.config_file import load_config
from common.local_site import SITES_VARIABLE, LocalSite, write_sites
from server.participation import Outcome, Status
from server.summary import read_summary

REPOSITORY = Path(__file__).parents[2]
APP = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["flwr"]["app"]

RunApp = Callable[..., None]


@pytest.fixture
def yaml_file(config: RunConfig, tmp_path: Path) -> Path:
    """The tiny federation with reference sets as small as its sites."""
    whole = config.model_dump(mode="json")
    for reference in whole["reference"].values():
        reference["source"]["patients"] = 24
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(whole))
    return path


@pytest.fixture
def run_app(config: RunConfig, shards: Mapping[str, Path], tmp_path: Path) -> Iterator[RunApp]:
    """Return a function: run the apps that pyproject.toml names over nodes that hold the shards."""
    sites = [
        LocalSite(
            name=site.name,
            task=site.task,
            shard=shards[site.name],
            state=tmp_path / "sites",
            num_threads=1,
        )
        for site in config.sites
    ]
    write_sites(tmp_path / "sites.json", sites)

    def run(**run_config: str) -> None:
        _run_simulation(
            num_supernodes=len(sites),
            exit_event=EventType.PYTHON_API_RUN_SIMULATION_LEAVE,
            client_app_attr=APP["components"]["clientapp"],
            server_app_attr=APP["components"]["serverapp"],
            server_app_context=Context(
                run_id=1,
                node_id=0,
                node_config={},
                state=RecordDict(),
                run_config=APP["config"] | run_config,
            ),
            backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
            app_dir=str(REPOSITORY),
        )

    rooms = [logging.getLogger(room) for room in ("common", "client", "server")]
    before = [(room.handlers, room.level, room.propagate) for room in rooms]
    environment = dict(os.environ)
    os.environ |= {SITES_VARIABLE: str(tmp_path / "sites.json"), "PYTHONPATH": str(REPOSITORY)}
    # Ray's sockets need a short path.
    with tempfile.TemporaryDirectory(prefix="t", ignore_cleanup_errors=True) as folder:
        ray.init(
            num_cpus=1,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
            object_store_memory=128 * 2**20,
            _node_ip_address="127.0.0.1",
            _temp_dir=folder,
        )
        yield run
        ray.shutdown()
    os.environ.clear()
    os.environ.update(environment)
    for room, (handlers, level, propagate) in zip(rooms, before, strict=True):
        room.handlers, room.level, room.propagate = handlers, level, propagate


@pytest.mark.slow
def test_named_app_runs_the_nodes_own_sites_and_leaves_summary_and_report(
    run_app: RunApp, yaml_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"

    run_app(config=str(yaml_file), out=str(out))

    summary = read_summary(out / "summary.json")
    assert summary.verdict is Status.COMPLETE, summary.reasons
    assert {site.name for site in summary.sites} == {"north", "harbour", "valley", "lakeside"}
    assert [entry.round for entry in summary.rounds] == [0, 1, 2]
    assert {site.outcome for entry in summary.rounds[1:] for site in entry.sites} == {
        Outcome.ANSWERED
    }
    assert summary.rounds[-1].central.keys() == {"chestx", "retina", "pathoscan"}
    for written in ("index.html", "report.md", "mlflow.db", "model/config.json"):
        assert (out / written).is_file()
    # The sites' pictures are no affair of the coordinator's.
    prepared = sorted(path.name for path in (out / "shards").iterdir())
    assert prepared == ["reference-chestx", "reference-pathoscan", "reference-retina"]
    assert "action=round_finished round=2" in capfd.readouterr().err


def test_defaults_of_the_run_config_name_a_configuration_that_loads() -> None:
    assert APP["config"].keys() == {"config", "out", "data"}
    assert load_config(REPOSITORY / APP["config"]["config"]).run.name == "demo"
