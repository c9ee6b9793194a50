"""What `fovea launch` and `fovea resume` refuse, before any site hears of a run."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from common.config.reading import config_digest
from common.errors import ConfigError, FoveaError, RunError
from common.messages.admission import read_admission
from common.messages.manifest import open_manifest
from server.cli import main
from server.operations.admitted import admit, retire
from server.operations.home import CoordinatorHome, RunFolder
from server.operations.launch import PlannedRun, plan_run, write_run
from server.operations.order import pinned_run_keys, read_order
from server.operations.resuming import resume
from server.operations.run_status import Phase, read_status, write_status
from server.record.checkpoint import NOTHING_EVALUATED, Checkpoint, ModelFiles, save_checkpoint
from tests.server.operations.coordinators import PHANTOM, Registry, admission_file

SITES = {"north": "chestx", "valley": "retina"}


@pytest.fixture
def staffed(home: CoordinatorHome, tmp_path: Path) -> CoordinatorHome:
    """A coordinator that has admitted two sites."""
    for site, task in SITES.items():
        admission = read_admission(admission_file(tmp_path, site, task))
        admit(home, admission, Registry(), datetime.now(UTC))
    return home


def plan(
    home: CoordinatorHome,
    config: Path,
    *overrides: str,
    sites: str = "north",
    data_root: Path | None = None,
) -> PlannedRun:
    return plan_run(
        home,
        config,
        sites=sites.split(","),
        overrides=overrides,
        data_root=data_root,
        days=None,
        now=datetime.now(UTC),
    )


def written(home: CoordinatorHome, planned: PlannedRun) -> RunFolder:
    folder = home.run(planned.order.run)
    folder.root.mkdir(parents=True)
    write_run(folder, planned)
    return folder


def test_planned_run_says_nothing_of_where_pictures_and_numbers_lie(
    staffed: CoordinatorHome, run_file: Path
) -> None:
    uri = "http://user:secret@tracking.example.org:5000"
    planned = plan(staffed, run_file, f"tracking.uri={uri}")

    manifest = open_manifest(planned.manifest, run_keys=pinned_run_keys(staffed))

    assert "secret" not in planned.manifest.manifest_json
    assert manifest.run.startswith("small-")
    assert len(manifest.run) == len("small-") + 8
    assert [site.name for site in manifest.config.sites] == ["north"]


def test_heads_with_too_few_sites_for_a_sum_are_local_by_the_signed_manifest(
    home: CoordinatorHome, run_file: Path, tmp_path: Path
) -> None:
    sites = {"north": "chestx", "valley": "retina", "coast": "pathoscan"}
    for site, task in sites.items():
        admission = read_admission(admission_file(tmp_path, site, task))
        admit(home, admission, Registry(), datetime.now(UTC))
    others = [f"tasks.{task}={{labels: null}}" for task in ("retina", "pathoscan")]
    others += [f"reference.{t}={{source: {PHANTOM}}}" for t in ("retina", "pathoscan")]

    planned = plan(
        home, run_file, *others, "secure_aggregation.enabled=true", sites=",".join(sites)
    )

    tasks = tuple(planned.config.tasks)
    assert set(tasks) == set(sites.values())
    for task, note in zip(tasks, planned.notes, strict=True):
        assert note.startswith(f"{task}: 1 site, fewer than 3: its head stays at its sites")
    local_layers = tuple(f"heads.{task}." for task in tasks)
    manifest = open_manifest(planned.manifest, run_keys=pinned_run_keys(home))
    assert manifest.config.federation.local_layers == local_layers
    assert planned.config.federation.local_layers == local_layers


def test_written_run_is_read_as_it_was_planned(staffed: CoordinatorHome, run_file: Path) -> None:
    planned = plan(staffed, run_file)
    order, loaded = read_order(written(staffed, planned))
    assert order == planned.order
    assert loaded.run == planned.config
    assert loaded.root == planned.order.config_root


@pytest.mark.parametrize(
    ("sites", "message"),
    [
        ("nort", "unknown site 'nort'. Did you mean 'north'?"),
        ("north,north", "north is named twice"),
        ("north,valley", "admitted for a task that the run lacks"),
    ],
)
def test_sites_that_cannot_take_part_are_named(
    staffed: CoordinatorHome, run_file: Path, sites: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(staffed, run_file, sites=sites)


def test_retired_site_is_refused(staffed: CoordinatorHome, run_file: Path) -> None:
    retire(staffed, "north", control=Registry(), now=datetime.now(UTC))
    with pytest.raises(ConfigError, match="site north was retired on"):
        plan(staffed, run_file)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("federation.strategy=fedavgg", "Did you mean 'fedavg'?"),
        ("federation.aggregation=medain", "Did you mean 'median'?"),
        ("privacy.enabled=true", "Set federation.aggregation to uniform-mean."),
        ("secure_aggregation.enabled=true", "secure_aggregation.min_group is 3, the run has 1"),
        ("federation.local_layers=[nothing.]", "no array's name starts with 'nothing.'"),
        ("tracking.uri=htpp://x", "unknown scheme 'htpp'. Did you mean 'http'?"),
        ("tracking.uri=http:///x", "the host is missing"),
        ("reference.chestx.source={kind: nih, table: t, images: i, boxes: null}", "--data FOLDER"),
    ],
)
def test_plan_that_cannot_work_is_refused(
    staffed: CoordinatorHome, run_file: Path, setting: str, message: str
) -> None:
    with pytest.raises(FoveaError) as raised:
        plan(staffed, run_file, setting)
    assert message in str(raised.value)


def test_launch_without_superlink_names_serve_and_leaves_no_run(
    staffed: CoordinatorHome, run_file: Path
) -> None:
    command = ["launch", str(run_file), "--sites", "north", "--home", str(staffed.root)]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 1
    assert "Start it with `fovea serve`" in " ".join(result.stderr.split())
    assert not staffed.runs.exists()


def test_resume_asks_for_a_new_manifest_once_it_has_expired(
    staffed: CoordinatorHome, run_file: Path
) -> None:
    folder = written(staffed, plan(staffed, run_file))
    later = datetime.now(UTC) + timedelta(days=400)
    with pytest.raises(RunError, match="--renew-manifest"):
        resume(staffed, folder, renews_manifest=False, now=later)


def test_resume_asks_for_no_valid_manifest_where_no_round_is_left(
    staffed: CoordinatorHome, run_file: Path
) -> None:
    planned = plan(staffed, run_file)
    folder = written(staffed, planned)
    done = Checkpoint(
        run=folder.name,
        config_digest=config_digest(read_order(folder)[1].run),
        server_round=planned.config.federation.rounds,
        model={},
        strategy={},
        participation=(),
        progression=NOTHING_EVALUATED,
    )
    files = ModelFiles(folder.out / "model")
    files.folder.mkdir(parents=True)
    later = datetime.now(UTC) + timedelta(days=400)

    save_checkpoint(files.checkpoint, replace(done, server_round=1))
    with pytest.raises(RunError, match="--renew-manifest"):
        resume(staffed, folder, renews_manifest=False, now=later)
    save_checkpoint(files.checkpoint, done)
    with pytest.raises(RunError, match="Start it with `fovea serve`"):  # nothing else is amiss
        resume(staffed, folder, renews_manifest=False, now=later)


def test_run_that_has_ended_is_not_resumed(staffed: CoordinatorHome, run_file: Path) -> None:
    folder = written(staffed, plan(staffed, run_file))
    status = read_status(folder.status)
    assert status is not None
    ended = {"phase": Phase.ENDED, "verdict": "COMPLETE"}
    write_status(folder.status, type(status).model_validate(status.model_dump() | ended))
    with pytest.raises(RunError, match="has ended COMPLETE: launch a new one"):
        resume(staffed, folder, renews_manifest=False, now=datetime.now(UTC))
