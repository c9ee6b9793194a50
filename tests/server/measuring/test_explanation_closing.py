"""What is measured once of a run's model: which signs carry a class, and methods side by side."""

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch

from common.config.reading import load_config
from common.config.run import PhantomSource, RunConfig
from common.datasets.loader import make_batch
from common.datasets.phantom_source import open_phantom
from common.datasets.prepare import prepare_shard
from common.datasets.shard import Shard, lesion_masks
from common.errors import ExplanationError
from common.explain import EXPLAINERS
from common.explain.asking import answer_of
from common.explain.baseline import blurred
from common.metrics.agreement import agreement
from common.metrics.faithfulness import cell_ranks, curves_in_order
from common.metrics.localisation import localise
from common.model.network import Network, build_network
from server.measuring import explanation_asked
from server.measuring.explanation_asked import Measured
from server.measuring.explanation_cases import outlined_cases
from server.measuring.explanation_closing import closing_look
from server.measuring.explanation_methods import TIME_WAS_UP, MethodsReport, compare_methods
from server.measuring.explanation_sample import look_at
from server.measuring.explanation_signs import SignsReport, measure_signs

PART = "selection"
TASK = "chestx"
METHODS = "evidence,grad-cam,rollout"


@pytest.fixture(scope="module")
def config() -> RunConfig:
    overrides = [
        "tasks.chestx.labels=[Mass,Nodule]",
        "data.image_size_px=64",
        "model.image_size_px=64",
        "evaluation.bootstrap_replicates=100",
        "evaluation.min_positive_patients=10",
        f"evaluation.methods=[{METHODS}]",
        "evaluation.method_pictures=3",
        "evaluation.method_seconds=1000",
    ]
    whole = load_config(Path("configs/experiments/demo.yaml"), overrides).run.model_dump()
    for section in ("tasks", "reference"):
        whole[section] = {TASK: whole[section][TASK]}
    whole["sites"] = [site for site in whole["sites"] if site["task"] == TASK]
    for site in whole["sites"]:
        site["source"]["prevalence"] = {"Mass": 0.5, "Nodule": 0.3}
    return RunConfig.model_validate(whole)


@pytest.fixture(scope="module")
def shard(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Shard:
    source = PhantomSource(
        kind="phantom",
        patients=50,
        pictures_per_patient=1,
        scanner_strength=0.0,
        lesion_contrast=1.5,
        roi_fraction=1.0,
        marker_agreement=None,
        prevalence={"Mass": 0.5, "Nodule": 0.3},
    )
    return prepare_shard(
        open_phantom(source, task=config.task(TASK), site="reference-chestx", seed=1),
        task=config.task(TASK),
        parts=config.data.reference_split.model_dump(),
        data=config.data,
        seed=1,
        out=tmp_path_factory.mktemp("shards") / "reference",
    )


@pytest.fixture
def network(config: RunConfig) -> Network:
    return build_network(config.model, config.task_table(), seed=3)


def settled(config: RunConfig, **rules: object) -> RunConfig:
    """Return the run with other rules of evaluation."""
    evaluation = config.evaluation.model_copy(update=rules)
    return config.model_copy(update={"evaluation": evaluation})


# Signs


def teach(network: Network, config: RunConfig, *, sign: str, like: str) -> None:
    """Let the head of a sign see what that of a class sees, and say that it is there."""
    head, task = network.heads[TASK], config.task(TASK)
    k, t = task.concepts.index(sign), task.logit_names.index(like)
    with torch.no_grad():
        head.parts.evidence.bias[t] = 3.0
        head.concepts.evidence.weight[k] = head.parts.evidence.weight[t]
        head.concepts.evidence.bias[k] = head.parts.evidence.bias[t]
        head.concepts.gate.weight[k] = head.parts.gate.weight[t]


def signs_of(network: Network, shard: Shard, config: RunConfig) -> SignsReport | None:
    return measure_signs(
        network, shard, PART, task=config.task(TASK), rules=config.evaluation, seed=5
    )


def test_a_sign_that_is_the_class_itself_carries_it_and_goes_with_it(
    network: Network, shard: Shard, config: RunConfig
) -> None:
    teach(network, config, sign="mass", like="Mass")
    found = signs_of(network, shard, config)
    assert found is not None
    mass = found.per_class["Mass"]["mass"]
    assert mass["evidence_on_sign"].value == pytest.approx(0.8, abs=0.1)
    assert mass["association"].value == pytest.approx(1.0)
    assert mass["association"].low == pytest.approx(1.0)
    rows = shard.indices(PART)
    shown = int((shard.targets[rows, 0] >= 1).sum())
    assert mass["evidence_on_sign"].support == shown
    assert mass["association"].support == found.pictures == len(rows)
    assert found.patients == len(set(shard.patients[rows].tolist()))
    other = found.per_class["Nodule"]["mass"]
    assert other["association"].value is not None
    assert other["association"].value < 0.99


def test_a_sign_is_there_from_one_half_on_in_the_pictures_that_show_the_class(
    network: Network, shard: Shard, config: RunConfig
) -> None:
    teach(network, config, sign="mass", like="Mass")
    task, rows = config.task(TASK), shard.indices(PART)
    place = task.concepts.index("mass")
    shown = shard.targets[rows, 1] >= 1
    logits = look_at(network, shard, rows, task=task, batch_size=8).sign_logits[shown, place]
    with torch.no_grad():  # half of them lie above nought, all of them below one half
        bias = network.heads[TASK].get_parameter("concepts.evidence.bias")
        bias[place] -= float(np.median(logits))
    moved = look_at(network, shard, rows, task=task, batch_size=8).sign_logits[shown, place]
    assert 0 < (moved > 0).mean() < 1
    assert moved.max() < 0.5
    found = signs_of(network, shard, config)
    assert found is not None
    called = found.per_class["Nodule"]["mass"]["sign_called"]
    assert called.value == pytest.approx((moved > 0).mean())
    assert called.support == int(shown.sum())


def test_signs_that_nobody_taught_are_left_out_and_named(
    network: Network, shard: Shard, config: RunConfig
) -> None:
    untaught = signs_of(network, shard, config)
    assert untaught is not None
    assert untaught.untaught == config.task(TASK).concepts
    assert untaught.per_class == {"Mass": {}, "Nodule": {}}
    teach(network, config, sign="mass", like="Mass")
    found = signs_of(network, shard, config)
    assert found is not None
    assert set(found.untaught) == set(config.task(TASK).concepts) - {"mass"}
    assert set(found.per_class["Mass"]) == {"mass"}


def test_a_model_without_heads_for_signs_has_no_report(shard: Shard, config: RunConfig) -> None:
    bare = config.model.model_copy(update={"concepts": {}})
    assert signs_of(build_network(bare, config.task_table(), seed=3), shard, config) is None


# The cases that methods are compared on


def test_cases_have_an_outlined_lesion_one_per_patient_and_classes_take_turns(
    shard: Shard, config: RunConfig
) -> None:
    task = config.task(TASK)
    cases = outlined_cases(shard, PART, task=task, count=6, seed=5)
    assert len(cases) == len({case.patient for case in cases}) == 6
    assert {case.logit for case in cases[:2]} == {0, 1}
    for case in cases:
        assert case.index in shard.indices(PART)
        np.testing.assert_array_equal(
            case.region, lesion_masks(shard, case.index, task)[case.logit]
        )
    fewer = outlined_cases(shard, PART, task=task, count=2, seed=5)
    assert [case.index for case in fewer] == [case.index for case in cases[:2]]
    assert outlined_cases(shard, PART, task=task, count=0, seed=5) == ()


def test_a_patient_with_many_pictures_does_not_crowd_out_the_others(
    shard: Shard, config: RunConfig
) -> None:
    task, rows = config.task(TASK), shard.indices(PART)
    outlined = [row for row in rows.tolist() if lesion_masks(shard, row, task)]
    patients = shard.patients.copy()
    patients[outlined[:-3]] = patients[outlined[0]]  # all pictures but three
    crowded = replace(shard, patients=patients)
    for seed in range(5):
        cases = outlined_cases(crowded, PART, task=task, count=4, seed=seed)
        assert len({case.patient for case in cases}) == len(cases) == 4


# Methods side by side

PERFECT = Measured(0.1, None, deletion=0.0, insertion=1.0, spearman=1.0, top_iou=1.0)


def compared(
    network: Network,
    shard: Shard,
    config: RunConfig,
    clock: Callable[[], float] | None = None,
) -> MethodsReport:
    ticking = clock or count().__next__
    return compare_methods(network, {TASK: shard}, PART, config=config, clock=ticking)[TASK]


@pytest.fixture(scope="module")
def side_by_side(shard: Shard, config: RunConfig) -> MethodsReport:
    return compared(build_network(config.model, config.task_table(), seed=3), shard, config)


def test_figures_are_those_of_the_library_picture_by_picture(
    network: Network, shard: Shard, config: RunConfig, side_by_side: MethodsReport
) -> None:
    report = side_by_side
    task = config.task(TASK)
    network.eval()
    energies, peaks, chances, ranks, fallen, risen = [], [], [], [], [], []
    for case in outlined_cases(shard, PART, task=task, count=3, seed=config.seed):
        batch = make_batch(shard, np.array([case.index]), task=task, grid=network.grid(64))
        maps = [
            EXPLAINERS.get(name)(network, batch.image, task=TASK, logit=case.logit).detach()
            for name in ("evidence", "grad-cam")
        ]
        found = localise(maps[1][0].numpy(), case.region)
        assert found is not None
        energies.append(found.energy)
        peaks.append(found.hit)
        chances.append(case.region.mean())
        ranks.append(agreement(*maps).spearman[0])
        curves = curves_in_order(
            answer_of(network, task, case.logit),
            batch.image,
            cell_ranks(maps[1], seed=config.seed),
            paint=blurred(batch.image),
        )
        fallen.append(curves.deletion_area[0])
        risen.append(curves.insertion_area[0])
    row = next(row for row in report.rows if row.method == "grad-cam")
    assert row.estimates["energy_in_roi"].value == pytest.approx(np.mean(energies), abs=1e-5)
    assert row.estimates["energy_in_roi"].chance == pytest.approx(np.mean(chances))
    assert row.estimates["pointing_hit"].value == pytest.approx(np.mean(peaks), abs=1e-5)
    assert row.estimates["agreement_spearman"].value == pytest.approx(np.mean(ranks), abs=1e-3)
    assert row.estimates["deletion"].value == pytest.approx(np.mean(fallen), rel=1e-5)
    assert row.estimates["insertion"].value == pytest.approx(np.mean(risen), rel=1e-5)
    assert row.seconds is not None
    assert row.seconds > 0


def test_every_method_is_a_row_in_the_configured_order_with_chance_beside_it(
    side_by_side: MethodsReport,
) -> None:
    report = side_by_side
    assert [row.method for row in report.rows] == METHODS.split(",")
    assert (report.pictures, report.of_pictures) == (3, 3)
    assert sum(report.cases.values()) == 3
    chances = {row.estimates["deletion"].chance for row in report.rows}
    assert len(chances) == 1  # the same random orders for all
    assert None not in chances
    for row in report.rows:
        assert row.failure == ""
        gain = row.estimates["deletion_below_chance"].value
        deletion = row.estimates["deletion"]
        assert deletion.value is not None
        assert deletion.chance is not None
        assert gain == pytest.approx(deletion.chance - deletion.value)
        insertion = row.estimates["insertion"]
        assert insertion.value is not None
        assert insertion.chance == deletion.chance  # one is the other read backwards
        gain = row.estimates["insertion_above_chance"].value
        assert gain == pytest.approx(insertion.value - deletion.chance)
        assert ("agreement_spearman" in row.estimates) == (row.method != "evidence")
        assert "3 patients, 10 needed" in row.estimates["deletion"].note


def test_when_the_time_is_up_all_rows_rest_on_the_same_pictures(
    network: Network, shard: Shard, config: RunConfig
) -> None:
    # One tick each time the clock is read: at the start, before a picture, before each method.
    rules = {"method_seconds": 6.5}
    report = compared(network, shard, settled(config, **rules))
    assert (report.pictures, report.of_pictures) == (1, 3)
    assert {row.estimates["energy_in_roi"].support for row in report.rows} == {1}


def test_a_picture_that_was_cut_short_is_told_where_it_is_the_first(
    network: Network, shard: Shard, config: RunConfig
) -> None:
    report = compared(network, shard, settled(config, method_seconds=2.5))
    assert report.pictures == 1
    first, *others = report.rows
    assert first.failure == ""
    assert {row.failure for row in others} == {TIME_WAS_UP}


def test_no_time_at_all_measures_nothing_and_says_so(
    network: Network, shard: Shard, config: RunConfig
) -> None:
    report = compared(network, shard, settled(config, method_seconds=0.5))
    assert (report.pictures, report.of_pictures) == (0, 3)
    assert {row.failure for row in report.rows} == {TIME_WAS_UP}


def test_a_method_that_fails_is_a_row_that_says_why_and_the_others_go_on(
    network: Network, shard: Shard, config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(_: explanation_asked.AskedPicture, method: str) -> Measured:
        if method == "grad-cam":
            raise RuntimeError("no such layer: Smith^John")
        if method == "rollout":
            raise ExplanationError("it has no attention.")
        return PERFECT

    monkeypatch.setattr(explanation_asked.AskedPicture, "measure", measure)
    report = compared(network, shard, config)
    own, broken, refusing = report.rows
    assert own.failure == ""
    assert own.estimates["deletion"].support == 3
    assert broken.failure.startswith("it broke down (RuntimeError in server.measuring.")
    assert "Smith" not in broken.failure
    assert refusing.failure == "it has no attention."
    assert refusing.refused == 3
    assert (broken.estimates, refusing.estimates) == ({}, {})
    assert report.pictures == 3


def test_a_method_that_refuses_one_picture_is_measured_on_the_others(
    network: Network, shard: Shard, config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = count()

    def measure(_: explanation_asked.AskedPicture, method: str) -> Measured:
        if method == "grad-cam" and next(calls) == 0:
            raise ExplanationError("flat.")
        return replace(PERFECT, seconds=next(seconds) if method == "evidence" else 0.1)

    seconds = iter((9.0, 0.2, 0.3))
    monkeypatch.setattr(explanation_asked.AskedPicture, "measure", measure)
    own, row, _ = compared(network, shard, config).rows
    assert own.seconds == 0.3  # the median: a first picture may take seconds to warm up
    assert (row.failure, row.refused, row.why_refused) == ("", 1, "flat.")
    assert row.estimates["deletion"].support == 2


def test_nothing_is_compared_where_it_is_turned_off(
    network: Network, shard: Shard, config: RunConfig
) -> None:
    off = settled(config, method_pictures=0)
    assert compare_methods(network, {TASK: shard}, PART, config=off) == {}
    assert compare_methods(network, {TASK: shard}, PART, config=settled(config, methods=())) == {}


# Both together


def test_a_task_that_nobody_has_trained_is_left_out_with_the_reason(
    network: Network, shard: Shard, config: RunConfig
) -> None:
    why = {TASK: "Its head stays at its sites."}
    report = closing_look(network, {TASK: shard}, config=config, server_round=2, left_out=why)
    assert report.left_out == why
    assert (report.signs, report.methods) == ({}, {})


def test_a_closing_look_leaves_the_network_as_it_was(
    network: Network, shard: Shard, config: RunConfig
) -> None:
    network.train()
    before = {name: array.clone() for name, array in network.state_dict().items()}
    report = closing_look(
        network,
        {TASK: shard},
        config=settled(config, method_pictures=1, methods=("evidence",)),
        server_round=2,
        left_out={},
    )
    assert network.training
    assert all(torch.equal(array, before[name]) for name, array in network.state_dict().items())
    assert report.server_round == 2
    assert set(report.signs) == set(report.methods) == {TASK}
