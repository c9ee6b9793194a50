"""What the coordinator makes of Flower's run config, and of nodes that never come."""

import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
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

from common.config.reading import config_digest
from common.errors import ConfigError, RunError, TrustError
from common.files.lock import Lock
from common.messages.admission import read_admission
from common.model.arrays import array_names, read_arrays
from common.model.network import build_network
from server.app import app
from server.exchange.participation import Outcome, Participation, Reply, Status
from server.journal.kept_rounds import KeptRound, KeptRounds, RunNote
from server.operations.admitted import admit, retire
from server.operations.home import CoordinatorHome, RunFolder
from server.operations.launch import plan_run, write_run
from server.operations.order import read_order
from server.operations.run_status import Phase, read_status
from server.operations.runs import RunState, lock_file, view_run
from server.record.checkpoint import Checkpoint, ModelFiles, Progression, save_checkpoint
from server.record.summary import RoundEntry, SiteRoundEntry, read_summary
from server.run.deployment import run_deployment, run_place
from tests.server.operations.coordinators import RUN, Registry, admission_file, provisioned


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


@pytest.fixture
def home(tmp_path: Path) -> CoordinatorHome:
    home = provisioned(tmp_path)
    admission = read_admission(admission_file(tmp_path, "north", "chestx"))
    admit(home, admission, Registry(), datetime.now(UTC))
    return home


@pytest.fixture
def folder(home: CoordinatorHome, tmp_path: Path) -> RunFolder:
    return planned_run(home, tmp_path, now=datetime.now(UTC))


def planned_run(home: CoordinatorHome, root: Path, *, now: datetime) -> RunFolder:
    config = root / "small.yaml"
    config.write_text(RUN.replace("wait_for_sites_s: 1", "wait_for_sites_s: 0.2"))
    planned = plan_run(
        home, config, sites=["north"], overrides=(), data_root=None, days=None, now=now
    )
    folder = home.run(planned.order.run)
    folder.root.mkdir(parents=True)
    write_run(folder, planned)
    return folder


def run(home: CoordinatorHome, folder: RunFolder) -> None:
    run_config = {"home": str(home.root), "run": folder.name}
    context = Context(
        run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config=run_config
    )
    app(grid=empty_grid(), context=context)


@pytest.mark.parametrize(
    ("run_config", "message"),
    [
        ({}, "home is ''. Runs are started by `fovea launch`"),
        ({"home": "/srv/fovea"}, "run is ''"),
        ({"home": "/srv/fovea", "run": "../elsewhere"}, "run is '../elsewhere'"),
        ({"home": 3, "run": "x"}, "home must be text, got 3"),
        ({"home": "h", "run": "x", "rounds": 3}, "unknown key 'rounds'. Known: home, run"),
    ],
)
def test_run_config_that_cannot_be_meant_is_refused(
    run_config: dict[str, str | int], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run_place(run_config)


def test_run_that_was_never_launched_is_named(home: CoordinatorHome) -> None:
    with pytest.raises(RunError, match="nothing-00000000: no such run"):
        run_deployment(empty_grid(), {"home": str(home.root), "run": "nothing-00000000"})


def test_run_whose_sites_never_come_says_so_in_status_summary_log_and_mlflow(
    home: CoordinatorHome, folder: RunFolder, logging_restored: None
) -> None:
    with pytest.raises(RunError, match=r"0 of 1 sites are there.* north"):
        run(home, folder)

    client = MlflowClient(f"sqlite:///{folder.out / 'mlflow.db'}")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert [(run.info.status, run.data.tags["fovea.kind"]) for run in runs] == [
        ("FAILED", "deployment")
    ]
    summary = read_summary(folder.out / "summary.json")
    assert summary.verdict is Status.FAILED
    status = read_status(folder.status)
    assert status is not None
    assert status.phase is Phase.BROKEN
    assert "0 of 1 sites are there" in status.reasons[0]
    assert view_run(folder, datetime.now(UTC)).state is RunState.FAILED
    assert "waiting for sites" in folder.log.read_text()


def test_expired_manifest_is_refused_with_the_command_that_renews_it(
    home: CoordinatorHome, tmp_path: Path, logging_restored: None
) -> None:
    folder = planned_run(home, tmp_path, now=datetime.now(UTC) - timedelta(days=400))
    with pytest.raises(RunError, match="--renew-manifest"):
        run(home, folder)
    status = read_status(folder.status)
    assert status is not None
    assert status.phase is Phase.BROKEN


NORTH_ANSWERED = SiteRoundEntry(
    site="north",
    outcome=Outcome.ANSWERED,
    reason="",
    num_examples=5,
    seconds=1.0,
    epsilon=None,
    epsilon_run=None,
    metrics={},
    evaluation={},
)


def leave_closing(folder: RunFolder) -> None:
    """Leave the run as one whose process ended after its last round and before its report."""
    _, loaded = read_order(folder)
    network = build_network(loaded.run.model, loaded.run.task_table(), seed=loaded.run.seed)
    answered = (Reply("north", Outcome.ANSWERED, ""),)
    state = Checkpoint(
        folder.name,
        config_digest(loaded.run),
        server_round=2,
        model=read_arrays(network, array_names(network)),
        strategy={},
        participation=tuple(Participation(n, answered, changed_model=True) for n in (1, 2)),
        progression=Progression(best_round=2, best_score=0.6, evaluations_since_best=0),
    )
    save_checkpoint(ModelFiles(folder.out / "model").checkpoint, state)
    kept = KeptRounds(folder.out)
    for number in (0, 1, 2):
        entry = RoundEntry(
            round=number,
            wall_s=1.0,
            central_s=None,
            sent_bytes=2_000_000,
            received_bytes=1_000_000,
            score=None,
            central={},
            sites=(NORTH_ANSWERED,) if number else (),
            epsilon=None,
            epsilon_run=None,
            floor=None,
            summed=None,
        )
        kept.write(
            KeptRound(
                entry,
                evaluations_before={},
                summed_evaluation_before={},
                floor_before=None,
                maps={},
            )
        )
    began = datetime.now(UTC).isoformat()
    kept.write_note(RunNote(began, "0" * 32, 2, {"north": 5}, 2, {"north": {"auroc": 0.75}}))


def test_run_that_has_only_to_write_its_report_needs_neither_sites_nor_a_valid_manifest(
    home: CoordinatorHome, tmp_path: Path, logging_restored: None
) -> None:
    folder = planned_run(home, tmp_path, now=datetime.now(UTC) - timedelta(days=400))
    leave_closing(folder)

    run(home, folder)

    summary = read_summary(folder.out / "summary.json")
    assert summary.verdict is Status.COMPLETE
    assert summary.reasons == ()
    assert summary.package is not None
    assert summary.package.tasks == ("chestx",)
    assert [site.num_examples for site in summary.sites] == [5]
    assert [site.evaluation for site in summary.rounds[-1].sites] == [{"auroc": 0.75}]
    status = read_status(folder.status)
    assert status is not None
    assert (status.phase, status.verdict) == (Phase.ENDED, Status.COMPLETE)


def test_manifest_that_another_key_signed_is_refused(
    home: CoordinatorHome, folder: RunFolder, tmp_path: Path, logging_restored: None
) -> None:
    (tmp_path / "other").mkdir()
    other = provisioned(tmp_path / "other")
    home.run_keys.write_bytes(other.run_keys.read_bytes())
    with pytest.raises(TrustError, match="not signed by the run key"):
        run(home, folder)


def test_retired_site_is_left_out_and_never_written_to(
    home: CoordinatorHome, folder: RunFolder, logging_restored: None
) -> None:
    retire(home, "north", control=Registry(), now=datetime.now(UTC))
    with pytest.raises(RunError, match="north: it has no node: not admitted, or retired"):
        run(home, folder)
    assert "site left out: retired" in folder.log.read_text()


def test_run_that_another_process_holds_is_left_alone(
    home: CoordinatorHome, folder: RunFolder
) -> None:
    before = folder.status.read_bytes()
    with (
        Lock(lock_file(folder), "held by this test."),
        pytest.raises(RunError, match="another process runs these rounds"),
    ):
        run(home, folder)
    assert folder.status.read_bytes() == before
