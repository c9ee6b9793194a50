"""The comparison of explanation methods: small, whole, continued, and honest about what failed."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from common.config.reading import load_config
from common.config.run import PreprocessConfig
from common.errors import ConfigError, DataError, ExplanationError
from common.explain import EXPLAINERS
from common.explain.asking import bound
from common.explain.evidence import evidence
from common.metrics.estimate import Estimate
from common.model.network import Network, build_network
from common.package.schema import ModelPackage, TaskPackage
from common.package.writing import write_package
from common.studies.explanations import JSON_FILE, ROWS_FILE, TABLE_FILE, carry_out, subject_for
from common.studies.explanations_config import ExplanationsConfig, load_explanations_config
from common.studies.explanations_measures import measure_method
from common.studies.explanations_results import KeptRows, Report, Row, SetFigures, read_report
from common.studies.explanations_tables import correction_estimates, markdown, shown
from common.tasks import task_named

CONFIG_FILE = Path("configs/studies/explanations.yaml")
METHODS = ("evidence", "grad-cam", "crystal-ball")  # the last is none


def estimate(value: float | None) -> Estimate:
    return Estimate(value, None, None, 3, None, None, 0.25, "")


@pytest.fixture(scope="module")
def shipped() -> ExplanationsConfig:
    return load_explanations_config(CONFIG_FILE)


@pytest.fixture(scope="module")
def small(shipped: ExplanationsConfig) -> ExplanationsConfig:
    """Two sets of the shipped study: phantoms at a tiny size, and real pictures that are not given.

    The settings are taken through the schema again, as a file's would be.
    """
    phantoms = shipped.sets["phantom-histology"].model_dump()
    phantoms["overrides"] = ["data.image_size_px=64", "model.image_size_px=64",
                             "evaluation.bootstrap_replicates=100"]  # fmt: skip
    phantoms["sources"][0]["patients"] = 40
    phantoms["steps"] = 2
    values = shipped.model_dump()
    values |= {"pictures": 4, "few_pictures": 2, "replicates": 50, "min_patients": 3}
    values |= {"random_networks": 1, "sets": {"tissue": phantoms, "idrid": values["sets"]["idrid"]}}
    return ExplanationsConfig.model_validate(values)


@pytest.fixture(scope="module")
def measured(
    small: ExplanationsConfig, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Report, Path]:
    out = tmp_path_factory.mktemp("explanations")
    report = carry_out(
        small, methods=METHODS, data_root=None, model=None, out=out, tell=lambda _: None
    )
    return report, out


def test_shipped_sets_name_recipes_pools_and_labels_that_exist(
    shipped: ExplanationsConfig,
) -> None:
    for one in shipped.sets.values():
        run = load_config(Path(one.recipe), one.overrides).run
        assert set(one.measured) <= set(run.task(one.task).logit_names)
        assert one.pool is None or one.pool in run.data.pools
    named = {name for pair in shipped.corrections.items() for name in (pair[0], *pair[1])}
    assert named <= set(EXPLAINERS)


def test_unknown_key_and_set_without_pictures_are_named(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(CONFIG_FILE.read_text().replace("few_pictures:", "some_pictures:"))
    with pytest.raises(ConfigError, match="some_pictures"):
        load_explanations_config(path)
    path.write_text(CONFIG_FILE.read_text().replace("pool: fundus", "pool: null"))
    with pytest.raises(ConfigError, match=r"sets\.idrid.*either pool or sources"):
        load_explanations_config(path)


def test_every_method_has_a_row_and_a_failing_one_says_why(
    measured: tuple[Report, Path],
) -> None:
    report, _ = measured

    rows = {row.method: row for row in report.rows}
    assert tuple(rows) == METHODS
    assert "unknown explanation method 'crystal-ball'" in rows["crystal-ball"].failure
    for name in ("evidence", "grad-cam"):
        row = rows[name]
        assert row.failure == ""
        assert row.seconds is not None
        assert row.seconds > 0
        wanted = {"energy_in_roi", "pointing_hit", "iou_matched_area", "deletion", "insertion"}
        wanted |= {"stability_noise", "stability_shift", "stability_flip", "reproducible_spearman"}
        assert wanted <= set(row.estimates)
        assert row.estimates["energy_in_roi"].chance is not None
        assert row.sanity is not None
        assert row.sanity.stages[0].layer == "heads.pathoscan"
        assert row.sanity.random_networks == 1
        assert row.sanity.bar_margin == 0.3  # of this set, wider than the others'
    assert "agreement_spearman" in rows["grad-cam"].estimates
    assert "agreement_spearman" not in rows["evidence"].estimates


def test_figures_are_means_of_the_cases_that_stand_beside_them(
    measured: tuple[Report, Path],
) -> None:
    report, _ = measured
    (figures,) = report.sets
    row = report.rows[1]

    assert len(figures.patients) == sum(figures.cases.values()) == 4
    for key in ("energy_in_roi", "deletion", "insertion", "agreement_spearman"):
        values = [x for x in row.cases[key] if x is not None]
        assert row.estimates[key].value == pytest.approx(np.mean(values))
    chance = np.mean([x for x in row.cases["random_deletion"] if x is not None])
    assert row.estimates["deletion"].chance == pytest.approx(chance)
    gain = chance - np.mean([x for x in row.cases["deletion"] if x is not None])
    assert row.estimates["deletion_below_chance"].value == pytest.approx(gain)


def test_set_without_its_pictures_is_left_out_with_the_reason(
    measured: tuple[Report, Path],
) -> None:
    report, out = measured

    assert report.left_out == {"idrid": "set idrid has real pictures: give their folder (--data)."}
    assert read_report((out / JSON_FILE).read_bytes()) == report
    table = (out / TABLE_FILE).read_text()
    assert "- idrid: set idrid has real pictures" in table
    assert "**crystal-ball** gave no figures" in table
    assert re.search(r"\| evidence \| 0\.\d{3}.*changes", table)


def test_what_is_finished_is_not_measured_again_and_what_failed_is(
    small: ExplanationsConfig, measured: tuple[Report, Path]
) -> None:
    report, out = measured
    networks = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    lines = (out / ROWS_FILE).read_text()
    told: list[str] = []

    again = carry_out(small, methods=METHODS, data_root=None, model=None, out=out, tell=told.append)

    assert again == report  # seconds included: they were not taken again
    assert (out / ROWS_FILE).read_text() == lines
    assert len(lines.splitlines()) == 2
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")} == networks
    assert len(networks) == 2
    assert len(told) == 6


def packaged(folder: Path, network: Network, preprocess: PreprocessConfig) -> None:
    """Write an uncalibrated package of one task."""
    task = network.tasks["pathoscan"]
    about = TaskPackage(
        labels=task.labels, concepts=task.concepts, size_px=64, preprocess=preprocess,
        calibration=None, why_not_calibrated="no part for it", novelty_limit=None,
        why_no_novelty="no part for it", novelty_share_expected=None, novelty_share_measured=None,
        concept_association={}, sites=1, training_pictures=10, reference="none", measured={},
    )  # fmt: skip
    package = ModelPackage(
        format=1, run="tiny", round=1, seed=5, config_digest="c" * 64, weights_sha256="",
        novelty_sha256="", made_at="2024-05-01T10:00:00+00:00", versions={}, model=network.config,
        tasks={"pathoscan": about},
    )  # fmt: skip
    write_package(folder, network, package, {})


def test_finished_model_is_measured_as_it_is_where_it_has_the_task(
    small: ExplanationsConfig, shipped: ExplanationsConfig, tmp_path: Path
) -> None:
    one = small.sets["tissue"]
    run = load_config(Path(one.recipe), one.overrides).run
    network = build_network(run.model, {"pathoscan": run.task("pathoscan")}, seed=5)
    packaged(tmp_path / "package", network, run.data.preprocess["pathoscan"])
    chest = shipped.sets["phantom-chest"]
    config = small.model_copy(update={"sets": {"tissue": one, "chest": chest}})

    report = carry_out(
        config, methods=("evidence",), data_root=None, model=tmp_path / "package",
        out=tmp_path / "out", tell=lambda _: None,
    )  # fmt: skip

    assert [row.set_name for row in report.rows] == ["tissue"]
    assert "reproducible_spearman" not in report.rows[0].estimates  # there is no second training
    assert "may have been trained on these pictures" in report.sets[0].network
    assert "unknown task of this model 'chestx'" in report.left_out["chest"]
    assert not list((tmp_path / "out").rglob("*.safetensors"))


@pytest.fixture
def row() -> Callable[..., Row]:
    def of(method: str, energy: list[float | None]) -> Row:
        cases = {key: tuple(energy) for key in ("energy_in_roi", "deletion", "insertion")}
        estimates = {key: estimate(0.5) for key in (*cases, "stability_noise", "stability_shift")}
        return Row("set", method, "", 0.5, estimates, cases, None, ("stability: refused",))

    return of


@pytest.fixture
def figures() -> SetFigures:
    one = estimate(0.5)
    return SetFigures(
        "set", "a set", "beware", "retina", 64, "a network", 9, 3, {"severity": 3}, (0, 1, 2),
        one, one, replace(one, value=None),
    )  # fmt: skip


def test_correction_is_judged_picture_by_picture(
    small: ExplanationsConfig, row: Callable[..., Row], figures: SetFigures
) -> None:
    plain = row("gradient", [0.1, 0.2, 0.4])
    corrected = row("gradient-projected", [0.2, 0.4, None])

    found = correction_estimates(plain, corrected, figures, small)["energy in ROI"]
    table = markdown(Report((figures,), (plain, corrected), {}), small)

    assert found.value == pytest.approx((0.1 + 0.2) / 2)
    assert found.support == 2
    assert "| gradient → gradient-projected | 0.150" in table
    assert "Mind: beware" in table
    assert "- gradient: stability: refused" in table
    assert shown(estimate(None)) == "–"
    assert shown(estimate(0.5)) == "0.500 (0.250)"


def test_row_that_was_cut_off_while_written_is_passed_over_and_a_damaged_file_is_not(
    tmp_path: Path, row: Callable[..., Row]
) -> None:
    path = tmp_path / "rows.jsonl"
    kept = KeptRows(path)
    kept.keep(row("evidence", [0.5]), "a")
    path.write_text(path.read_text() + '{"digest": "b", "row": {"set')

    assert kept.known("a") == row("evidence", [0.5])
    assert kept.known("b") is None
    path.write_text("not a row\n" + path.read_text())
    with pytest.raises(DataError, match="line 1"):
        kept.known("a")


def test_picture_that_a_method_refuses_is_left_out_and_counted(
    small: ExplanationsConfig, measured: tuple[Report, Path]
) -> None:
    _, out = measured
    subject = subject_for("tissue", small, data_root=None, loaded=None, out=out)
    calls: list[int] = []

    def choosy(network: Network, images: torch.Tensor, *, task: str, logit: int) -> torch.Tensor:
        calls.append(len(images))
        if len(calls) == 2 or len(calls) > 4:  # the second picture, and all that follows the first
            raise ExplanationError("the path is not complete")
        return evidence(network, images, task=task, logit=logit)

    row = measure_method(subject, "choosy", choosy)

    assert row.cases["energy_in_roi"][1] is None
    assert row.cases["deletion"][1] is None
    assert row.estimates["energy_in_roi"].support == 3
    assert row.estimates["deletion"].support == 3
    assert row.sanity is None
    assert "stability_noise" not in row.estimates
    assert [note.split(":")[0] for note in row.notes] == [
        "1 of 4 pictures without a map", "stability", "sanity",
    ]  # fmt: skip


def test_method_that_refuses_every_picture_has_no_row(
    small: ExplanationsConfig, measured: tuple[Report, Path]
) -> None:
    _, out = measured
    subject = subject_for("tissue", small, data_root=None, loaded=None, out=out)

    def refusing(network: Network, images: torch.Tensor, *, task: str, logit: int) -> torch.Tensor:
        raise ExplanationError(f"no map of {task} {logit} for {len(images)} pictures: {network!r}")

    with pytest.raises(ExplanationError, match="no map of pathoscan 0"):
        measure_method(subject, "refusing", refusing)


@pytest.mark.parametrize("drawn", [torch.zeros(2, 8, 7), torch.full((2, 8, 8), float("nan"))])
def test_method_that_breaks_its_contract_is_refused(drawn: torch.Tensor) -> None:
    explain = bound(lambda *_, **__: drawn, torch.nn.Identity(), task_named("retina"), 0)
    with pytest.raises(ExplanationError, match="finite and of shape"):
        explain(torch.zeros(2, 3, 8, 8))
