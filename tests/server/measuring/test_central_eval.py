"""The global model on the reference sets, and the diary that a run keeps of it."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from common.config.reading import load_config
from common.config.run import PhantomSource, RunConfig
from common.datasets.phantom_source import open_phantom
from common.datasets.prepare import prepare_shard
from common.datasets.shard import Shard
from common.errors import ConfigError, RunError
from common.messages.kinds import Arrays, SiteCard
from common.model.arrays import array_names, read_arrays
from common.model.network import Network, build_network
from server.exchange.participation import Outcome, Status, Verdict
from server.journal.journal import Journal
from server.journal.tracking import start_tracking
from server.measuring.central_eval import PART, CentralEvaluation
from server.measuring.overlay_cases import choose_cases
from server.measuring.overlay_files import average_file, round_file, round_files
from server.measuring.overlays import save_png
from server.record.checkpoint import NOTHING_EVALUATED, Checkpoint, ModelFiles, save_model
from server.record.summary import Summary, read_summary
from server.rounds.coordinate import RunResult
from server.rounds.round_report import Beside, RoundReport, SiteRound
from server.run.composition import check_plan, conduct

TASKS = ("chestx", "retina")


@pytest.fixture(scope="module")
def config() -> RunConfig:
    overrides = [
        "evaluation.bootstrap_replicates=100",
        "evaluation.min_positive_patients=5",
        "evaluation.overlays_per_task=4",
    ]
    whole = load_config(Path("configs/experiments/demo.yaml"), overrides).run
    two_tasks = whole.model_dump()
    two_tasks["tasks"] = {name: two_tasks["tasks"][name] for name in TASKS}
    two_tasks["reference"] = {name: two_tasks["reference"][name] for name in TASKS}
    two_tasks["sites"] = [site for site in two_tasks["sites"] if site["task"] in TASKS]
    return RunConfig.model_validate(two_tasks)


@pytest.fixture(scope="module")
def shards(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Shard]:
    source = PhantomSource(
        kind="phantom",
        patients=40,
        pictures_per_patient=1,
        scanner_strength=0.0,
        lesion_contrast=1.5,
        roi_fraction=1.0,
        marker_agreement=None,
        prevalence=None,
    )
    folder = tmp_path_factory.mktemp("reference")
    return {
        name: prepare_shard(
            open_phantom(source, task=config.task(name), site="reference", seed=1),
            task=config.task(name),
            parts=config.data.reference_split.model_dump(),
            data=config.data,
            seed=1,
            out=folder / name,
        )
        for name in TASKS
    }


@pytest.fixture(scope="module")
def network(config: RunConfig) -> Network:
    return build_network(config.model, config.task_table(), seed=3)


@pytest.fixture(scope="module")
def arrays(network: Network) -> Arrays:
    return read_arrays(network, array_names(network))


@pytest.fixture(scope="module")
def evaluation(config: RunConfig, shards: Mapping[str, Shard]) -> CentralEvaluation:
    other = build_network(config.model, config.task_table(), seed=99)
    return CentralEvaluation(config, other, shards)


def test_every_task_is_measured_on_its_selection_part(
    evaluation: CentralEvaluation, arrays: Arrays, shards: Mapping[str, Shard]
) -> None:
    result = evaluation(arrays, 0)
    assert set(result.reports) == set(TASKS)
    assert result.reports["chestx"].pictures == len(shards["chestx"].indices("selection"))


def test_the_score_is_the_mean_over_tasks(evaluation: CentralEvaluation, arrays: Arrays) -> None:
    result = evaluation(arrays, 0)
    scores = [report.score for report in result.reports.values()]
    assert result.score == pytest.approx(np.mean([s for s in scores if s is not None]))


def test_the_score_of_a_diverged_model_is_unknown(
    evaluation: CentralEvaluation, arrays: Arrays
) -> None:
    diverged = {
        name: np.full_like(a, np.nan) if name.startswith("heads.chestx") else a
        for name, a in arrays.items()
    }
    assert evaluation(diverged, 1).score is None


def test_the_arrays_decide_and_not_what_was_measured_before(
    evaluation: CentralEvaluation, arrays: Arrays
) -> None:
    first = evaluation(arrays, 0)
    evaluation({name: np.zeros_like(a) for name, a in arrays.items()}, 1)
    again = evaluation(arrays, 2)
    assert first.reports["retina"].loss == again.reports["retina"].loss
    assert first.score == again.score


def test_the_last_round_brings_the_cases_in_which_it_looks_best_and_worst(
    evaluation: CentralEvaluation, arrays: Arrays
) -> None:
    at_end = Beside(may_be_last=True, start=arrays, changes={})
    best, worst = evaluation(arrays, 3, at_end).extremes["chestx"]
    energies = [[seen.energy_in_roi or 0.0 for _, seen in cases] for cases in (best, worst)]
    assert energies == [sorted(energies[0], reverse=True), sorted(energies[1])]
    assert len(best) == len(worst) == 3
    assert energies[0][-1] >= energies[1][-1]
    assert all(case.roi is not None for case, _ in (*best, *worst))
    assert evaluation(arrays, 4).extremes == {}


def test_a_site_s_model_is_looked_at_without_touching_the_round_s_numbers(
    evaluation: CentralEvaluation, arrays: Arrays
) -> None:
    change = {name: np.full_like(array, 0.01) for name, array in arrays.items()}
    beside = Beside(may_be_last=False, start=arrays, changes={"north": change})
    alone, together = evaluation(arrays, 1), evaluation(arrays, 1, beside)
    assert together.score == alone.score
    assert together.explanation is not None
    assert set(together.explanation.tasks["chestx"].sites) == {"north"}
    assert together.explanation.tasks["retina"].sites == {}


def test_the_gate_s_pictures_decide_nothing(
    config: RunConfig, shards: Mapping[str, Shard], network: Network, arrays: Arrays
) -> None:
    plain = CentralEvaluation(config, network, shards)(arrays, 0)
    spoilt = {}
    for name, shard in shards.items():
        images = np.array(shard.images)
        images[shard.indices("gate")] = 0
        images[shard.indices("calibration")] = 0
        spoilt[name] = replace(shard, images=images)
    assert CentralEvaluation(config, network, spoilt)(arrays, 0).score == plain.score


def test_a_task_without_reference_set_is_refused(
    config: RunConfig, shards: Mapping[str, Shard], network: Network
) -> None:
    with pytest.raises(ConfigError, match="no reference set for task retina"):
        CentralEvaluation(config, network, {"chestx": shards["chestx"]})


def test_cases_are_outlined_positives_of_different_patients_and_a_negative(
    config: RunConfig, shards: Mapping[str, Shard]
) -> None:
    shard, task = shards["chestx"], config.task("chestx")
    chosen = choose_cases(shard, PART, task=task, count=4)
    targets = [float(shard.targets[choice.index, choice.logit]) for choice in chosen]
    assert targets == [1, 1, 1, 0]
    assert [choice.logit for choice in chosen[:3]] == [0, 1, 2]
    assert len({int(shard.patients[choice.index]) for choice in chosen}) == 4
    assert {choice.index for choice in chosen} <= set(shard.indices(PART).tolist())


def test_no_cases_are_chosen_when_none_are_wanted(
    config: RunConfig, shards: Mapping[str, Shard]
) -> None:
    assert choose_cases(shards["chestx"], PART, task=config.task("chestx"), count=0) == ()


def test_maps_of_the_cases_are_shares_of_one(evaluation: CentralEvaluation, arrays: Arrays) -> None:
    for maps in evaluation(arrays, 0).overlays.values():
        assert len(maps) == 4
        for seen in maps:
            total = float(seen.saliency.sum())
            assert seen.saliency.min() >= 0
            assert total == pytest.approx(1.0, abs=1e-5) or total == 0.0


@pytest.fixture(scope="module")
def journey(
    config: RunConfig,
    shards: Mapping[str, Shard],
    evaluation: CentralEvaluation,
    arrays: Arrays,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Summary]:
    """A run of one round from its first entry to its summary."""
    out = tmp_path_factory.mktemp("run")
    journal = Journal(
        config,
        out=out,
        tracker=start_tracking(config, out=out, tags={}),
        cases=evaluation.cases(),
        started_at=datetime.now(UTC),
    )
    journal.begin({name: shard.card for name, shard in shards.items()})
    card = json.dumps(shards["chestx"].card.as_dict())
    cards = {"north": SiteCard("north", "chestx", 30, 4, card)}
    journal.run_started(cards)
    site = SiteRound(
        site="north",
        task="chestx",
        outcome=Outcome.ANSWERED,
        reason="",
        num_examples=30,
        metrics={"total": 0.9, "seconds": 1.0},
    )
    for number in (0, 1):
        report = RoundReport(
            server_round=number,
            sites=(site,) if number else (),
            changed_model=bool(number),
            central=evaluation(arrays, number),
            is_best=True,
            model=arrays,
            evaluations_before={"north": {"auroc": 0.5}} if number else {},
            wall_s=1.0,
        )
        journal.keep_round(report)
        journal.round_finished(report)
    journal.sites_measured(1, {"north": {"auroc": 0.6}})
    files = ModelFiles(out / "model")
    for path in (files.best, files.last):
        save_model(path, arrays, run="demo-1", server_round=1)
    result = RunResult(
        run="demo-1",
        verdict=Verdict(Status.PARTIAL, ("site valley did not answer in round 1.",)),
        cards=cards,
        participation=(),
        rounds_done=1,
        best_round=1,
        best_score=0.6,
        was_stopped=False,
        late_replies=2,
        files=files,
        wall_s=2.0,
    )
    return out, journal.finish(result)


def test_the_summary_on_disk_is_the_one_returned(journey: tuple[Path, Summary]) -> None:
    out, summary = journey
    assert read_summary(out / "summary.json") == summary


def test_the_summary_has_every_round_task_and_site(journey: tuple[Path, Summary]) -> None:
    _, summary = journey
    assert [entry.round for entry in summary.rounds] == [0, 1]
    assert set(summary.rounds[1].central) == set(TASKS)
    assert {site.name: site.num_examples for site in summary.sites} == {
        "north": 30,
        "harbour": None,
        "valley": None,
    }
    assert summary.rounds[1].sites[0].seconds == 1.0
    assert summary.rounds[1].sites[0].metrics == {"total": 0.9}
    found = [(site.outcome, site.evaluation) for entry in summary.rounds for site in entry.sites]
    assert found == [("measured", {"auroc": 0.5}), ("answered", {"auroc": 0.6})]
    assert summary.verdict is Status.PARTIAL
    assert summary.late_replies == 2
    assert summary.tracking.is_complete


def test_every_file_the_summary_names_is_there(journey: tuple[Path, Summary]) -> None:
    out, summary = journey
    assert {"best model", "page", "report", "curves", "overlays: chestx"} <= set(summary.files)
    assert all((out / path).is_file() for path in summary.files.values())


def test_the_summary_says_which_tasks_have_generated_pictures(
    journey: tuple[Path, Summary],
) -> None:
    _, summary = journey
    assert {name: about.generated for name, about in summary.tasks.items()} == dict.fromkeys(
        TASKS, True
    )


def test_what_an_earlier_run_left_in_the_folder_is_gone_before_a_new_one_starts(
    config: RunConfig, tmp_path: Path
) -> None:
    save_png(np.zeros((4, 4, 3), np.uint8), round_file(tmp_path, "chestx", 7))
    (tmp_path / "model").mkdir()
    kept = tmp_path / "shards" / "north" / "meta.json"
    kept.parent.mkdir(parents=True)
    kept.write_text("{}")
    left = ("summary.json", "index.html", "report.md", "curves.png", "model/best.safetensors")
    for name in left:
        (tmp_path / name).write_text("COMPLETE")
    check_plan(config, out=tmp_path)
    assert not any((tmp_path / name).exists() for name in left)
    assert round_files(tmp_path, "chestx") == {}
    assert kept.exists()


def conduct_into_failure(
    config: RunConfig,
    network: Network,
    shards: Mapping[str, Shard],
    out: Path,
    error: Exception,
) -> Summary:
    def federate(evaluator: CentralEvaluation, journal: Journal) -> RunResult:
        card = json.dumps(shards["chestx"].card.as_dict())
        journal.run_started({"north": SiteCard("north", "chestx", 30, 4, card)})
        report = RoundReport(
            server_round=0,
            sites=(),
            changed_model=False,
            central=evaluator(read_arrays(network, array_names(network)), 0),
            is_best=False,
            model={},
            evaluations_before={},
            wall_s=1.0,
        )
        journal.keep_round(report)
        journal.round_finished(report)
        raise error

    with pytest.raises(type(error)):
        conduct(
            config,
            federate,
            network=network,
            reference=shards,
            out=out,
            kind="simulation",
            started_at=datetime.now(UTC),
        )
    return read_summary(out / "summary.json")


def test_a_run_that_breaks_off_leaves_a_failed_summary_with_its_rounds_and_our_reason(
    config: RunConfig, shards: Mapping[str, Shard], tmp_path: Path
) -> None:
    network = build_network(config.model, config.task_table(), seed=3)
    summary = conduct_into_failure(
        config, network, shards, tmp_path, RunError("round 1: site north is gone.")
    )
    assert summary.verdict is Status.FAILED
    assert summary.reasons == ("RunError: round 1: site north is gone.",)
    assert [entry.round for entry in summary.rounds] == [0]
    assert summary.late_replies is None
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    tracked = client.get_run(summary.tracking.run_id)
    assert tracked.info.status == "FAILED"
    assert tracked.data.tags["fovea.explanation_alarms"] == "before training: no alarm."
    assert tracked.data.metrics["explanation/alarms"] == 0
    assert average_file(tmp_path, "retina").exists()


def test_a_run_that_goes_on_keeps_its_rounds_its_start_and_its_mlflow_run(
    config: RunConfig, shards: Mapping[str, Shard], tmp_path: Path
) -> None:
    network = build_network(config.model, config.task_table(), seed=3)
    broken = conduct_into_failure(config, network, shards, tmp_path, RunError("no more power."))
    arrays = read_arrays(network, array_names(network))
    state = Checkpoint("demo-1", "", 0, arrays, {}, (), NOTHING_EVALUATED)

    def federate(evaluator: CentralEvaluation, journal: Journal) -> RunResult:
        report = RoundReport(
            server_round=1,
            sites=(),
            changed_model=True,
            central=evaluator(arrays, 1),
            is_best=True,
            model=arrays,
            evaluations_before={"north": {"auroc": 0.5}},
            wall_s=1.0,
        )
        journal.keep_round(report)
        journal.round_finished(report)
        return RunResult(
            run="demo-1",
            verdict=Verdict(Status.COMPLETE, ()),
            cards={},
            participation=(),
            rounds_done=1,
            best_round=1,
            best_score=0.6,
            was_stopped=False,
            late_replies=0,
            files=ModelFiles(tmp_path / "model"),
            wall_s=2.0,
        )

    check_plan(config, out=tmp_path, goes_on=True)
    summary = conduct(
        config,
        federate,
        network=network,
        reference=shards,
        out=tmp_path,
        kind="deployment",
        started_at=datetime(2031, 1, 1, tzinfo=UTC),
        resume=state,
    )

    assert [entry.round for entry in summary.rounds] == [0, 1]
    assert summary.rounds[0].central == broken.rounds[0].central
    assert summary.rounds[0].sites[0].evaluation == {"auroc": 0.5}
    assert summary.started_at == broken.started_at
    # No site was there again: who had been is not forgotten.
    assert summary.sites == broken.sites
    assert [site.num_examples for site in summary.sites] == [30, None, None]
    assert summary.tracking.run_id == broken.tracking.run_id
    # The first round's maps are those that were kept: they can still be compared with the last's.
    assert (tmp_path / "overlays" / "chestx" / "before_after.png").exists()
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert client.get_run(summary.tracking.run_id).info.status == "FINISHED"


def test_the_words_of_another_s_error_are_not_kept(
    config: RunConfig, shards: Mapping[str, Shard], tmp_path: Path
) -> None:
    network = build_network(config.model, config.task_table(), seed=3)
    summary = conduct_into_failure(
        config, network, shards, tmp_path, ValueError("patient 0815 of ward 3")
    )
    assert summary.reasons == ("the run broke off: ValueError.",)


def test_an_mlflow_run_is_closed_as_failed_when_its_first_entries_cannot_be_written(
    config: RunConfig, shards: Mapping[str, Shard], tmp_path: Path
) -> None:
    (tmp_path / "data_cards").write_text("a file where a folder should be")
    network = build_network(config.model, config.task_table(), seed=3)
    with pytest.raises(FileExistsError):
        conduct(
            config,
            lambda _evaluator, _journal: pytest.fail("the rounds must not begin"),
            network=network,
            reference=shards,
            out=tmp_path,
            kind="simulation",
            started_at=datetime.now(UTC),
        )
    summary = read_summary(tmp_path / "summary.json")
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert client.get_run(summary.tracking.run_id).info.status == "FAILED"


def test_a_case_asks_a_question_and_a_grade_comes_with_its_probability(
    evaluation: CentralEvaluation, arrays: Arrays
) -> None:
    cases, seen = evaluation.cases(), evaluation(arrays, 0).overlays
    assert cases["chestx"][0].question == "Effusion?"
    assert cases["retina"][0].question == "which grade?"
    assert re.fullmatch(r"predicted: \d [a-z]+, \d+%", seen["retina"][0].prediction)


def test_a_diverged_model_predicts_no_grade(evaluation: CentralEvaluation, arrays: Arrays) -> None:
    diverged = {
        name: np.full_like(a, np.nan) if name.startswith("heads.retina") else a
        for name, a in arrays.items()
    }
    seen = evaluation(diverged, 1).overlays["retina"]
    assert {each.prediction for each in seen} == {"predicted: not finite"}


def test_mlflow_has_metrics_pictures_model_and_data_cards(journey: tuple[Path, Summary]) -> None:
    out, summary = journey
    client = MlflowClient(tracking_uri=f"sqlite:///{out / 'mlflow.db'}")
    run = client.get_run(summary.tracking.run_id)
    history = client.get_metric_history(run.info.run_id, "central/retina/auroc")
    assert [metric.step for metric in history] == [0, 1]
    assert run.data.metrics["site/north/total"] == 0.9
    measured = client.get_metric_history(run.info.run_id, "federated/north/auroc")
    assert [(metric.step, metric.value) for metric in measured] == [(0, 0.5), (1, 0.6)]
    assert run.data.tags["mlflow.note.content"].startswith("# demo: PARTIAL")
    root = out / "mlartifacts" / run.info.run_id / "artifacts"
    kept = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    assert {
        "data_cards/reference-retina.json",
        "data_cards/north.md",
        "model/best.safetensors",
        "model/config.json",
        "summary.json",
        "index.html",
        "report.md",
    } <= kept
    drawn = {path for path in summary.files.values() if path.startswith("overlays/")}
    names = {Path(path).name for path in drawn}
    assert names >= {"before_after.png", "average.png", "one_case.png"}
    assert drawn <= kept
    steps = sorted(
        name.split("+")[2] for name in kept if name.startswith("images/") and "png" in name
    )
    assert steps == ["0", "0", "1", "1"]


def test_the_model_s_config_is_enough_to_build_its_network(
    journey: tuple[Path, Summary], config: RunConfig
) -> None:
    out, _ = journey
    card = json.loads((out / "model" / "config.json").read_text())
    rebuilt = type(config.model).model_validate(card["model"])
    assert rebuilt == config.model
    assert card["tasks"] == {name: list(config.task(name).labels) for name in TASKS}
