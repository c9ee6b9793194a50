"""At the end of a run its best model becomes a package, and a failure there costs nothing else."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from mlflow import MlflowClient

from common.config.reading import load_config
from common.config.run import PhantomSource, RunConfig
from common.datasets.phantom_source import open_phantom
from common.datasets.prepare import prepare_shard
from common.datasets.shard import Shard
from common.errors import DataError, ModelError, RunError
from common.flavour.pictures import frame_of
from common.model.arrays import array_names, read_arrays
from common.model.network import Network, build_network
from common.package.loading import network_input, open_package
from common.package.schema import FLAVOUR_FILES, Calibration, ModelPackage
from server.exchange.participation import Outcome, Participation, Status, Verdict
from server.journal.journal import Journal
from server.measuring.central_eval import CentralEvaluation
from server.record.checkpoint import ModelFiles, save_model
from server.record.summary import RoundEntry, SiteRoundEntry, Summary, read_summary
from server.rounds.coordinate import RunResult
from server.rounds.round_report import RoundReport, SiteRound
from server.run import composition
from server.run.composition import check_plan, conduct
from server.run.packaging import package_run

MakeSummary = Callable[..., Summary]

# 80 patients: 16 to select, 32 to calibrate, 32 to judge.
SMALL = [
    "data.image_size_px=64",
    "model.image_size_px=64",
    "data.reference_split={selection: 0.2, calibration: 0.4, gate: 0.4}",
    "evaluation.bootstrap_replicates=100",
    "evaluation.overlays_per_task=1",
    "evaluation.method_pictures=0",
]
TASKS = ("chestx", "retina")


@pytest.fixture(scope="module")
def config() -> RunConfig:
    demo = load_config(Path("configs/experiments/demo.yaml"), SMALL).run
    return demo.model_copy(
        update={
            "tasks": {name: demo.tasks[name] for name in TASKS},
            "sites": tuple(site for site in demo.sites if site.task in TASKS),
        }
    )


@pytest.fixture(scope="module")
def reference(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Shard]:
    folder = tmp_path_factory.mktemp("reference")
    return {name: shard_of(config, name, folder / name) for name in TASKS}


def shard_of(config: RunConfig, name: str, out: Path) -> Shard:
    source = PhantomSource(
        kind="phantom",
        patients=80,
        pictures_per_patient=1,
        scanner_strength=0.0,
        lesion_contrast=1.5,
        roi_fraction=1.0,
        marker_agreement=None,
        prevalence=dict.fromkeys(config.task("chestx").labels, 0.5) if name == "chestx" else None,
    )
    return prepare_shard(
        open_phantom(source, task=config.task(name), site="reference", seed=1),
        task=config.task(name),
        parts=config.data.reference_split.model_dump(),
        data=config.data,
        seed=1,
        out=out,
    )


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


def keep_models(config: RunConfig, out: Path) -> dict[str, np.ndarray]:
    """Write a best model of round 1 and another last one; return the best."""
    files = ModelFiles(out / "model")
    for path, seed, server_round in ((files.best, 21, 1), (files.last, 22, 2)):
        model = build_network(config.model, config.task_table(), seed=seed)
        arrays = read_arrays(model, array_names(model))
        save_model(path, arrays, run="demo-1", server_round=server_round)
    best = build_network(config.model, config.task_table(), seed=21)
    return read_arrays(best, array_names(best))


def rounds_of(make_summary: MakeSummary, *, examples: int | None = 80) -> list[RoundEntry]:
    """Round 0, and two rounds: north and valley answer always, harbour only in the second."""
    summary = make_summary(skills=(0.0, 0.3, 0.6))
    north, harbour = summary.rounds[1].sites
    north = north.model_copy(update={"num_examples": examples})
    joined = SiteRoundEntry(**harbour.model_dump() | {"outcome": Outcome.ANSWERED})
    joined = joined.model_copy(update={"num_examples": 30})
    valley = north.model_copy(update={"site": "valley"})
    sites = ((), (north, harbour, valley), (north, joined, valley))
    return [
        entry.model_copy(update={"sites": each})
        for entry, each in zip(summary.rounds, sites, strict=True)
    ]


def packaged(
    config: RunConfig,
    out: Path,
    rounds: list[RoundEntry],
    network: Network,
    reference: Mapping[str, Shard],
) -> ModelPackage:
    folder = package_run(config, finished(out), rounds, network=network, reference=reference)
    assert folder == out / "model" / "package"
    return open_package(out).package


def test_the_best_model_is_packaged_with_what_its_round_measured(
    config: RunConfig,
    network: Network,
    reference: Mapping[str, Shard],
    make_summary: MakeSummary,
    tmp_path: Path,
) -> None:
    best = keep_models(config, tmp_path)
    rounds = rounds_of(make_summary)
    package = packaged(config, tmp_path, rounds, network, reference)
    loaded = open_package(tmp_path)
    for name, array in read_arrays(loaded.network, array_names(loaded.network)).items():
        assert np.array_equal(array, best[name])
    assert (package.run, package.round, package.seed) == ("demo-1", 1, config.seed)
    assert set(package.tasks) == set(TASKS)
    chest = package.tasks["chestx"]
    assert (
        chest.measured["auroc"] == rounds[1].central["chestx"].classification.average["auroc"].value
    )
    # Harbour answered only in the round after the best one.
    assert (chest.sites, chest.training_pictures) == (1, 80)
    assert (package.tasks["retina"].sites, package.tasks["retina"].training_pictures) == (1, 80)
    assert package.left_out == {}
    assert chest.preprocess == config.data.preprocess["chestx"]
    assert chest.reference == (
        "32 pictures of 32 patients, the calibration part of the coordinator's reference set "
        "(phantom)"
    )


def test_each_task_is_calibrated_on_one_part_and_judged_on_another(
    config: RunConfig,
    network: Network,
    reference: Mapping[str, Shard],
    make_summary: MakeSummary,
    tmp_path: Path,
) -> None:
    keep_models(config, tmp_path)
    package = packaged(config, tmp_path, rounds_of(make_summary), network, reference)
    for about in package.tasks.values():
        calibration = about.calibration
        assert calibration is not None
        assert (calibration.patients, calibration.gate_pictures) == (32, 32)
        assert calibration.error_after is not None
        assert calibration.conformal is not None
        assert calibration.conformal.coverage == 0.9
        assert calibration.conformal.measured_coverage
        assert about.novelty_share_expected == pytest.approx(1 / 33)
        assert about.novelty_share_measured is not None
        assert about.why_no_novelty == ""
    # Pictures of the other parts decide nothing: without them all is fitted alike.
    blank = {}
    for name, shard in reference.items():
        images = np.array(shard.images)
        images[shard.indices("selection")] = 0
        images[shard.indices("gate")] = 0
        blank[name] = replace(shard, images=images)
    again = packaged(config, tmp_path, rounds_of(make_summary), network, blank)
    for name, about in package.tasks.items():
        assert fitted_of(about.calibration) == fitted_of(again.tasks[name].calibration)
        assert about.novelty_limit == again.tasks[name].novelty_limit


def test_what_the_loss_s_weights_moved_is_taken_off(
    config: RunConfig,
    network: Network,
    reference: Mapping[str, Shard],
    make_summary: MakeSummary,
    tmp_path: Path,
) -> None:
    keep_models(config, tmp_path)
    package = packaged(config, tmp_path, rounds_of(make_summary), network, reference)
    chest, retina = (package.tasks[name].calibration for name in ("chestx", "retina"))
    # The demo's class_weights: findings more than 1, grades all 1.
    assert chest is not None
    assert chest.shift == pytest.approx(
        {"Effusion": np.log(2.7), "Mass": np.log(4.3), "Nodule": np.log(4.1)}
    )
    assert "positive answers (Effusion 2.7, Mass 4.3, Nodule 4.1)" in chest.note
    assert retina is not None
    assert set(retina.shift.values()) == {0.0}
    assert "positive answers" not in retina.note


def fitted_of(calibration: Calibration | None) -> tuple[float, dict[str, float]]:
    assert calibration is not None
    assert calibration.conformal is not None
    return calibration.temperature, calibration.conformal.thresholds


def test_ordinary_pictures_are_predicted_from_the_package_alone(
    config: RunConfig,
    network: Network,
    reference: Mapping[str, Shard],
    make_summary: MakeSummary,
    tmp_path: Path,
) -> None:
    keep_models(config, tmp_path)
    packaged(config, tmp_path, rounds_of(make_summary), network, reference)
    pictures = reference["retina"].images[:5]
    found = open_package(tmp_path).predict("retina", network_input(pictures))
    assert found.sets is not None
    assert found.is_novel is not None
    noise = torch.randn((5, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    assert open_package(tmp_path).predict("retina", 3 * noise).is_novel.all()  # type: ignore[union-attr]


def test_a_run_without_a_calibration_part_says_so_in_its_package(
    config: RunConfig,
    network: Network,
    make_summary: MakeSummary,
    reference: Mapping[str, Shard],
    tmp_path: Path,
) -> None:
    keep_models(config, tmp_path)
    all_selected = {
        name: replace(shard, part=np.zeros_like(shard.part)) for name, shard in reference.items()
    }
    package = packaged(config, tmp_path, rounds_of(make_summary), network, all_selected)
    about = package.tasks["chestx"]
    assert about.calibration is None
    assert about.novelty_limit is None
    assert "data.reference_split.calibration" in about.why_not_calibrated
    assert about.why_no_novelty == about.why_not_calibrated
    assert about.reference.endswith("has no calibration part")


def test_under_masks_nobody_knows_how_many_pictures_trained(
    config: RunConfig,
    network: Network,
    reference: Mapping[str, Shard],
    make_summary: MakeSummary,
    tmp_path: Path,
) -> None:
    keep_models(config, tmp_path)
    rounds = rounds_of(make_summary, examples=None)
    about = packaged(config, tmp_path, rounds, network, reference).tasks["chestx"]
    assert (about.sites, about.training_pictures) == (1, None)


def keeping(config: RunConfig, *layers: str) -> RunConfig:
    rules = config.federation.model_copy(update={"local_layers": layers})
    return config.model_copy(update={"federation": rules})


def test_a_head_that_stays_at_its_sites_is_not_offered(
    config: RunConfig,
    network: Network,
    reference: Mapping[str, Shard],
    make_summary: MakeSummary,
    tmp_path: Path,
) -> None:
    keep_models(config, tmp_path)
    local = keeping(config, "heads.chestx")
    package = packaged(local, tmp_path, rounds_of(make_summary), network, reference)
    assert set(package.tasks) == {"retina"}
    assert set(package.left_out) == {"chestx"}
    opened = open_package(tmp_path)
    assert set(opened.network.tasks) == set(opened.novelty) == {"retina"}
    with pytest.raises(ModelError, match=r"does not answer task chestx: Its head.*local_layers"):
        opened.about("chestx")
    # The other task is what it is in a package of both.
    whole = packaged(config, tmp_path, rounds_of(make_summary), network, reference)
    assert package.tasks["retina"] == whole.tasks["retina"]


def test_a_model_in_which_no_head_was_trained_is_not_packaged(
    config: RunConfig,
    network: Network,
    reference: Mapping[str, Shard],
    make_summary: MakeSummary,
    tmp_path: Path,
) -> None:
    keep_models(config, tmp_path)
    for local in (
        keeping(config, "heads.chestx", "heads.retina.parts"),
        keeping(config, "trunk.transformer"),
    ):
        with pytest.raises(ModelError, match=r"no task of it could be .* chestx: .*retina: "):
            packaged(local, tmp_path, rounds_of(make_summary), network, reference)
    assert not (tmp_path / "model" / "package").exists()


def test_answers_in_rounds_that_left_the_model_as_it_was_do_not_count(
    config: RunConfig,
    network: Network,
    reference: Mapping[str, Shard],
    tmp_path: Path,
    make_summary: MakeSummary,
) -> None:
    keep_models(config, tmp_path)
    rounds = rounds_of(make_summary)
    stayed = tuple(Participation(each.round, (), changed_model=False) for each in rounds[1:])
    result = replace(finished(tmp_path), participation=stayed)
    with pytest.raises(ModelError, match=r"chestx: No site had trained .* retina: No site"):
        package_run(config, result, rounds, network=network, reference=reference)


def test_a_run_without_a_model_has_no_package(
    config: RunConfig,
    network: Network,
    reference: Mapping[str, Shard],
    tmp_path: Path,
) -> None:
    assert package_run(config, finished(tmp_path), [], network=network, reference=reference) is None
    keep_models(config, tmp_path)
    failed = finished(tmp_path, Status.FAILED)
    assert package_run(config, failed, [], network=network, reference=reference) is None
    assert not (tmp_path / "model" / "package").exists()


def test_a_model_file_that_says_no_round_is_refused(
    config: RunConfig, network: Network, reference: Mapping[str, Shard], tmp_path: Path
) -> None:
    keep_models(config, tmp_path)
    files = finished(tmp_path).files
    arrays = read_arrays(network, array_names(network))
    save_model(files.best, arrays, run="demo-1", server_round=None)  # type: ignore[arg-type]
    with pytest.raises(RunError, match="does not say which round"):
        package_run(config, finished(tmp_path), [], network=network, reference=reference)
    files.best.write_bytes(b"damaged")
    with pytest.raises(DataError, match="cannot be read"):
        package_run(config, finished(tmp_path), [], network=network, reference=reference)


def conducted(
    config: RunConfig,
    network: Network,
    reference: Mapping[str, Shard],
    out: Path,
    *,
    trained: tuple[str, ...] = ("north", "valley"),
) -> Summary:
    """Conduct a run of one round in which these sites have answered."""

    def federate(_evaluator: CentralEvaluation, journal: Journal) -> RunResult:
        sites = tuple(
            SiteRound(site.name, site.task, Outcome.ANSWERED, "", 80, {"total": 0.9})
            for site in config.sites
            if site.name in trained
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
    reference: Mapping[str, Shard],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Summary]:
    """A run that was conducted to its end, and its folder."""
    out = tmp_path_factory.mktemp("ended")
    keep_models(config, out)
    return out, conducted(config, network, reference, out)


def test_a_run_ends_with_its_package_on_disk_in_the_summary_and_in_mlflow(
    ended: tuple[Path, Summary],
) -> None:
    out, summary = ended
    assert summary.verdict is Status.COMPLETE
    assert summary.reasons == ()
    assert summary.files["model package"] == "model/package/model.json"
    assert summary.package is not None
    about = open_package(out, expected_digest=summary.package.digest).package
    assert summary.package.tasks == tuple(about.tasks) == TASKS
    assert read_summary(out / "summary.json").package == summary.package
    client = MlflowClient(tracking_uri=f"sqlite:///{out / 'mlflow.db'}")
    kept = client.list_artifacts(summary.tracking.run_id, "model/package")
    assert {Path(file.path).name for file in kept} == {
        "model.json",
        "model.safetensors",
        "novelty.safetensors",
        *FLAVOUR_FILES,
    }
    run = client.get_run(summary.tracking.run_id)
    assert run.data.tags["fovea.package_digest"] == summary.package.digest
    # What MLflow keeps opens like the run's own folder.
    artifacts = out / "mlartifacts" / summary.tracking.run_id / "artifacts"
    assert open_package(artifacts).package == open_package(out).package


def test_mlflow_loads_the_model_of_a_run_that_has_ended(
    ended: tuple[Path, Summary], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, summary = ended
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{out / 'mlflow.db'}")
    loaded = mlflow.pyfunc.load_model(f"runs:/{summary.tracking.run_id}/model/package")
    pictures = frame_of(np.full((1, 64, 64, 3), 90, np.uint8))
    (row,) = loaded.predict(pictures, params={"task": "chestx"}).to_dict("records")
    assert row["failure"] == ""
    assert row["maps"]
    assert summary.package is not None
    assert loaded.metadata.metadata["package_digest"] == summary.package.digest


def test_a_task_that_the_package_leaves_out_is_named_with_the_verdict(
    config: RunConfig,
    network: Network,
    reference: Mapping[str, Shard],
    ended: tuple[Path, Summary],
    tmp_path: Path,
) -> None:
    keep_models(config, tmp_path)
    uri = f"sqlite:///{ended[0] / 'mlflow.db'}"  # another database would take seconds to make
    tracked = config.model_copy(
        update={"tracking": config.tracking.model_copy(update={"uri": uri})}
    )
    summary = conducted(tracked, network, reference, tmp_path, trained=("north",))
    assert summary.verdict is Status.COMPLETE
    assert summary.package is not None
    assert summary.package.tasks == ("chestx",)
    why = summary.package.left_out["retina"]
    assert "No site had trained its head" in why
    assert summary.reasons == (f"the package does not answer task retina: {why}",)
    model = mlflow.pyfunc.load_model(str(tmp_path / "model" / "package"))
    pictures = frame_of(np.full((1, 64, 64, 3), 90, np.uint8))
    assert model.predict(pictures, params={"task": "chestx"})["failure"].tolist() == [""]
    # Pictures of the other task must not be answered by the one that is left.
    with pytest.raises(ModelError, match="has the tasks chestx, and not retina: No site had"):
        model.predict(pictures)
    with pytest.raises(ModelError, match="does not answer task retina: No site had trained"):
        model.predict(pictures, params={"task": "retina"})


def test_a_package_that_cannot_be_made_leaves_verdict_and_summary(
    config: RunConfig,
    network: Network,
    reference: Mapping[str, Shard],
    ended: tuple[Path, Summary],
    tmp_path: Path,
) -> None:
    keep_models(config, tmp_path)
    (tmp_path / "model" / "package").mkdir()
    (tmp_path / "model" / "package" / "mine.txt").write_text("somebody's")
    uri = f"sqlite:///{ended[0] / 'mlflow.db'}"  # another database would take seconds to make
    tracked = config.model_copy(
        update={"tracking": config.tracking.model_copy(update={"uri": uri})}
    )
    summary = conducted(tracked, network, reference, tmp_path)
    assert summary.verdict is Status.COMPLETE
    [reason] = summary.reasons
    assert reason.startswith("the model was not packaged: ")
    assert "holds other files" in reason
    assert "model package" not in summary.files
    assert "best model" in summary.files
    run = MlflowClient(tracking_uri=uri).get_run(summary.tracking.run_id)
    assert run.info.status == "FINISHED"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(28, "No space left on device"), "the package is not whole: No space left on"),
        # What nobody foresaw is named without its words.
        (RuntimeError("Smith^John"), "the package is not whole: RuntimeError in server.run.compos"),
    ],
)
def test_whatever_packaging_fails_by_costs_nothing_else(
    *,
    error: Exception,
    told: str,
    config: RunConfig,
    network: Network,
    reference: Mapping[str, Shard],
    ended: tuple[Path, Summary],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(_folder: Path) -> None:
        raise error

    monkeypatch.setattr(composition, "write_flavour", fail)
    tracking = {"uri": f"sqlite:///{ended[0] / 'mlflow.db'}"}
    tracked = config.model_copy(update={"tracking": config.tracking.model_copy(update=tracking)})
    keep_models(config, tmp_path)
    summary = conducted(tracked, network, reference, tmp_path)
    assert summary.verdict is Status.COMPLETE
    [reason] = summary.reasons
    assert reason.startswith(told)
    assert "Smith" not in reason
    assert summary.package is not None


def test_a_new_run_takes_a_former_one_s_package_away(config: RunConfig, tmp_path: Path) -> None:
    package = tmp_path / "model" / "package"
    package.mkdir(parents=True)
    (package / "model.json").write_text("{}")
    check_plan(config, out=tmp_path)
    assert not package.exists()
