"""When the rounds are over the model that the run hands on is looked at once; told everywhere."""

import csv
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from common.config.reading import load_config
from common.config.run import PhantomSource, RunConfig, TrackingConfig
from common.datasets.phantom_source import open_phantom
from common.datasets.prepare import prepare_shard
from common.datasets.shard import Shard
from common.errors import DataError, RunError
from common.model.arrays import array_names, read_arrays
from common.model.network import Network, build_network
from server.exchange.participation import Outcome, Participation, Status, Verdict
from server.journal.journal import Journal
from server.measuring.central_eval import CentralEvaluation
from server.record.checkpoint import ModelFiles, save_model
from server.record.summary import RoundEntry, SiteRoundEntry, Summary, read_summary
from server.report.method_table import TABLE_FILE
from server.rounds.coordinate import RunResult
from server.rounds.round_report import RoundReport, SiteRound
from server.run import composition
from server.run.closing import look_at_last
from server.run.composition import conduct

TASK = "pathoscan"


@pytest.fixture(scope="module")
def config() -> RunConfig:
    small = [
        "data.image_size_px=64",
        "model.image_size_px=64",
        "evaluation.bootstrap_replicates=100",
        "evaluation.min_positive_patients=4",
        "evaluation.overlays_per_task=0",
        "evaluation.methods=[evidence]",
        "evaluation.method_pictures=1",
    ]
    demo = load_config(Path("configs/experiments/demo.yaml"), small).run
    sites = tuple(site for site in demo.sites if site.task == TASK)
    return demo.model_copy(update={"tasks": {TASK: demo.tasks[TASK]}, "sites": sites})


@pytest.fixture(scope="module")
def reference(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Shard]:
    source = PhantomSource(
        kind="phantom",
        patients=24,
        pictures_per_patient=1,
        scanner_strength=0.0,
        lesion_contrast=1.5,
        roi_fraction=1.0,
        marker_agreement=None,
        prevalence=None,
    )
    shard = prepare_shard(
        open_phantom(source, task=config.task(TASK), site="reference", seed=1),
        task=config.task(TASK),
        parts=config.data.reference_split.model_dump(),
        data=config.data,
        seed=1,
        out=tmp_path_factory.mktemp("shards") / "reference",
    )
    return {TASK: shard}


@pytest.fixture(scope="module")
def network(config: RunConfig) -> Network:
    return build_network(config.model, config.task_table(), seed=3)


def finished(out: Path, status: Status = Status.COMPLETE) -> RunResult:
    return RunResult(
        run="demo-1",
        verdict=Verdict(status, ()),
        cards={},
        participation=(),
        rounds_done=2,
        best_round=1,
        best_score=0.6,
        was_stopped=False,
        late_replies=0,
        files=ModelFiles(out / "model"),
        wall_s=2.0,
    )


def keep_model(network: Network, out: Path, *, server_round: int | None = 1) -> None:
    arrays = read_arrays(network, array_names(network))
    files = ModelFiles(out / "model")
    save_model(files.best, arrays, run="demo-1", server_round=server_round)  # type: ignore[arg-type]


def trained(*sites: str) -> Sequence[RoundEntry]:
    """One round in which these sites have answered."""
    entries = tuple(
        SiteRoundEntry(
            site=site,
            outcome=Outcome.ANSWERED,
            reason="",
            num_examples=80,
            seconds=None,
            epsilon=None,
            epsilon_run=None,
            metrics={},
            evaluation={},
        )
        for site in sites
    )
    return (
        RoundEntry(
            round=1,
            wall_s=1.0,
            central_s=None,
            sent_bytes=0,
            received_bytes=0,
            score=None,
            central={},
            sites=entries,
            epsilon=None,
            epsilon_run=None,
            floor=None,
            summed=None,
        ),
    )


def test_the_best_model_is_looked_at_and_named_by_its_round(
    config: RunConfig, network: Network, reference: dict[str, Shard], tmp_path: Path
) -> None:
    other = build_network(config.model, config.task_table(), seed=4)
    keep_model(network, tmp_path)
    last = read_arrays(other, array_names(other))
    save_model(ModelFiles(tmp_path / "model").last, last, run="demo-1", server_round=2)
    found = look_at_last(
        config, finished(tmp_path), network=other, reference=reference, rounds=trained("coast")
    )
    assert found is not None
    assert found.server_round == 1
    assert found.left_out == {}
    assert set(found.signs) == set(found.methods) == {TASK}
    for name, array in read_arrays(network, array_names(network)).items():
        np.testing.assert_array_equal(read_arrays(other, [name])[name], array)


def test_a_task_that_no_site_has_trained_is_left_out(
    config: RunConfig, network: Network, reference: dict[str, Shard], tmp_path: Path
) -> None:
    keep_model(network, tmp_path)
    later = [entry.model_copy(update={"round": 2}) for entry in trained("coast")]
    for rounds in (trained(), later):  # the model is that of round 1
        found = look_at_last(
            config, finished(tmp_path), network=network, reference=reference, rounds=rounds
        )
        assert found is not None
        assert (found.signs, found.methods) == ({}, {})
        assert "No site had trained its head" in found.left_out[TASK]
    # It answered, in a round in which too few did.
    stayed = (Participation(1, (), changed_model=False),)
    again = look_at_last(
        config,
        replace(finished(tmp_path), participation=stayed),
        network=network,
        reference=reference,
        rounds=trained("coast"),
    )
    assert again is not None
    assert again.left_out == found.left_out


def test_a_run_that_was_stopped_or_brought_no_model_is_not_looked_at(
    config: RunConfig, network: Network, reference: dict[str, Shard], tmp_path: Path
) -> None:
    def looked(result: RunResult) -> object:
        return look_at_last(
            config, result, network=network, reference=reference, rounds=trained("coast")
        )

    assert looked(finished(tmp_path)) is None
    keep_model(network, tmp_path)
    assert looked(replace(finished(tmp_path), was_stopped=True)) is None
    assert looked(finished(tmp_path, Status.FAILED)) is None


def test_a_model_of_no_round_is_refused(
    config: RunConfig, network: Network, reference: dict[str, Shard], tmp_path: Path
) -> None:
    keep_model(network, tmp_path, server_round=None)
    with pytest.raises(RunError, match="does not say which round"):
        look_at_last(
            config, finished(tmp_path), network=network, reference=reference, rounds=trained()
        )


def conducted(
    config: RunConfig, network: Network, reference: dict[str, Shard], out: Path
) -> Summary:
    """Conduct a run of one round in which the sites have answered."""

    def federate(_evaluator: CentralEvaluation, journal: Journal) -> RunResult:
        sites = tuple(
            SiteRound(site.name, site.task, Outcome.ANSWERED, "", 80, {"total": 0.9})
            for site in config.sites
        )
        journal.keep_round(
            RoundReport(
                server_round=1,
                sites=sites,
                changed_model=True,
                central=None,
                is_best=True,
                model={},
                evaluations_before={},
                wall_s=1.0,
            )
        )
        keep_model(network, out)
        return finished(out)

    return conduct(
        config,
        federate,
        network=network,
        reference=reference,
        out=out,
        kind="simulation",
        started_at=datetime.now(UTC),
    )


@pytest.fixture(scope="module")
def ended(
    config: RunConfig,
    network: Network,
    reference: dict[str, Shard],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Summary]:
    out = tmp_path_factory.mktemp("ended")
    return out, conducted(config, network, reference, out)


def test_what_was_found_is_in_summary_page_table_and_mlflow(ended: tuple[Path, Summary]) -> None:
    out, summary = ended
    closing = read_summary(out / "summary.json").closing
    assert closing is not None
    assert closing == summary.closing
    assert closing.signs[TASK].untaught == ("atypical_glands", "intact_glands")  # no site there
    (row,) = closing.methods[TASK].rows
    energy = row.estimates["energy_in_roi"].value
    assert energy is not None
    page = (out / "index.html").read_text()
    assert "Explanation methods side by side" in page
    assert "Left out, as no site has taught them: atypical glands, intact glands." in page
    (line,) = csv.DictReader((out / TABLE_FILE).read_text().splitlines())
    assert float(line["energy_in_roi"]) == pytest.approx(energy)
    assert summary.files["explanation methods"] == TABLE_FILE
    client = MlflowClient(tracking_uri=f"sqlite:///{out / 'mlflow.db'}")
    run = client.get_run(summary.tracking.run_id)
    assert run.data.metrics["methods/pathoscan/evidence/energy_in_roi"] == pytest.approx(energy)
    assert TABLE_FILE in {file.path for file in client.list_artifacts(summary.tracking.run_id)}


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            DataError("the reference set is gone. Restore it."),
            "signs and methods were not measured: the reference set is gone. Restore it.",
        ),
        # What nobody foresaw, such as a device without memory, is named without its words.
        (
            RuntimeError("out of memory: Smith^John"),
            "signs and methods were not measured: RuntimeError in server.run.composition, line ",
        ),
    ],
)
def test_a_look_that_fails_costs_nothing_else(
    *,
    error: Exception,
    told: str,
    config: RunConfig,
    network: Network,
    reference: dict[str, Shard],
    ended: tuple[Path, Summary],
    tmp_path: Path,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    uri = f"sqlite:///{ended[0] / 'mlflow.db'}"  # another database would take seconds to make
    tracking = TrackingConfig(uri=uri, experiment=config.tracking.experiment)
    tracked = config.model_copy(update={"tracking": tracking})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(composition, "look_at_last", fail)
        summary = conducted(tracked, network, reference, tmp_path)
    assert summary.verdict is Status.COMPLETE
    assert summary.closing is None
    (reason,) = [reason for reason in summary.reasons if "not measured" in reason]
    assert reason.startswith(told)
    assert "Smith" not in summary.model_dump_json()
    assert "explanation methods" not in summary.files
