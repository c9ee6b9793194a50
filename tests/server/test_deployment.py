"""What the coordinator makes of Flower's run config, and of nodes that never come."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from flwr.app import Context, RecordDict
from flwr.proto.task_pb2 import Task
from flwr.server.superlink.linkstate import InMemoryLinkState, LinkStateFactory
from flwr.server.superlink.linkstate.in_memory_linkstate import RunRecord
from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME, NOOP_FEDERATION_ID
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run
from flwr.superlink.federation import NoOpFederationManager
from flwr.superlink.grid import InMemoryGrid
from mlflow import MlflowClient

from common.config import RunConfig
from common.errors import ConfigError, RunError
from server.app import app
from server.deployment import Order, read_order
from server.participation import Status
from server.summary import read_summary


def empty_grid() -> InMemoryGrid:
    """Flower's own grid in a federation where no node has appeared."""
    links = LinkStateFactory(FLWR_IN_MEMORY_DB_NAME, NoOpFederationManager(), ObjectStoreFactory())
    run = Run.create_empty(run_id=1)
    run.primary_task_id, run.federation_id = 1, NOOP_FEDERATION_ID
    state = links.state()
    assert isinstance(state, InMemoryLinkState)
    state.run_ids[1] = RunRecord(run=run)
    state.task_store[1] = Task(task_id=1, run_id=1)
    grid = InMemoryGrid(state_factory=links)
    grid.set_run(run)
    return grid


@pytest.fixture
def logging_restored() -> Iterator[None]:
    rooms = [logging.getLogger(room) for room in ("common", "client", "server")]
    before = [(room.handlers, room.level, room.propagate) for room in rooms]
    yield
    for room, (handlers, level, propagate) in zip(rooms, before, strict=True):
        room.handlers, room.level, room.propagate = handlers, level, propagate


def test_empty_out_and_data_mean_none() -> None:
    order = read_order({"config": "/etc/fovea/run.yaml", "out": "", "data": ""})
    assert order == Order(config=Path("/etc/fovea/run.yaml"), out=None, data=None)


@pytest.mark.parametrize(
    ("run_config", "message"),
    [
        ({}, "config is missing. Name the run's YAML"),
        ({"config": "", "out": "out"}, "config is missing. Name the run's YAML"),
        ({"config": 3}, "config must be a path in quotes, got 3"),
        ({"config": "run.yaml", "rounds": 3}, "unknown key 'rounds'. Known: config, out, data"),
    ],
)
def test_run_config_that_cannot_be_meant_is_refused(
    run_config: dict[str, str | int], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        read_order(run_config)


def test_run_whose_nodes_never_come_ends_with_a_reason_and_is_failed_in_mlflow(
    demo_config: RunConfig, tmp_path: Path, logging_restored: None
) -> None:
    whole = demo_config.model_dump(mode="json")
    whole["tasks"] = {"chestx": whole["tasks"]["chestx"]}
    whole["sites"] = whole["sites"][:1]
    whole["reference"]["chestx"]["source"]["patients"] = 12
    whole["data"]["image_size_px"] = whole["model"]["image_size_px"] = 64
    whole["federation"]["wait_for_sites_s"] = 0.2
    config, out = tmp_path / "run.yaml", tmp_path / "out"
    config.write_text(yaml.safe_dump(whole))
    run_config = {"config": str(config), "out": str(out), "data": ""}
    context = Context(
        run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config=run_config
    )

    with pytest.raises(RunError, match=r"0 of 1 sites are there.* north: it never said"):
        app(grid=empty_grid(), context=context)

    client = MlflowClient(f"sqlite:///{out / 'mlflow.db'}")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert [(run.info.status, run.data.tags["fovea.kind"]) for run in runs] == [
        ("FAILED", "deployment")
    ]
    summary = read_summary(out / "summary.json")
    assert summary.verdict is Status.FAILED
    assert "it never said" in summary.reasons[0]
