"""The study of where a model looks: exact pictures, exact parts, honest verdicts."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from common.errors import ConfigError
from common.studies.looks_config import LooksConfig, PhantomConfig, load_looks_config
from common.studies.looks_measures import Looks, measure_looks
from common.studies.looks_phantom import make_phantoms
from common.studies.looks_results import KeptResults, Result, Run, plan_digest
from common.studies.looks_training import TASK, model_of, phantoms_of, train_variant
from common.studies.looks_verdict import judge

CONFIG_FILE = Path("configs/studies/looks.yaml")
GOOD = {
    "auc": 0.96,
    "conflict_auc": 0.95,
    "lesion_drop": 5.0,
    "marker_drop": 0.0,
    "marker_evidence": 0.0,
    "marker_gate": 0.0,
    "marker_context": 0.0,
    "reliance": 0.01,
    "occlusion_energy": 0.7,
    "occlusion_hit": 0.9,
    "deletion_auc": 0.1,
    "map_energy": 0.9,
    "pointing_hit": 0.9,
    "chance_energy": 0.06,
}


@pytest.fixture
def config() -> LooksConfig:
    return load_looks_config(CONFIG_FILE)


@pytest.fixture
def phantom(config: LooksConfig) -> PhantomConfig:
    return config.default["shortcut"].phantom


@pytest.fixture
def looks() -> Callable[..., Looks]:
    return lambda **changes: Looks(**(GOOD | changes))


def test_pictures_without_lesion_or_marker_differ_there_alone(phantom: PhantomConfig) -> None:
    drawn = make_phantoms(phantom, count=60, marker_agreement=0.9, seed=0)

    no_lesion = (drawn.images != drawn.without_lesion).flatten(1).any(dim=1)
    no_marker = (drawn.images != drawn.without_marker).nonzero()

    assert torch.equal(no_lesion, drawn.label > 0)
    assert torch.equal(no_marker[:, 0].unique(), drawn.marked.nonzero()[:, 0])
    assert no_marker[:, 2:].max() < 12  # the marker's corner
    assert torch.equal(drawn.lesion.flatten(1).any(dim=1), drawn.label > 0)


def test_marker_agrees_with_the_label_as_often_as_asked(phantom: PhantomConfig) -> None:
    for agreement in (0.9, 0.5):
        drawn = make_phantoms(phantom, count=1000, marker_agreement=agreement, seed=0)
        agrees = (drawn.marked == (drawn.label > 0)).float().mean()
        assert abs(float(agrees) - agreement) < 0.05


def test_training_and_test_pictures_are_seeded_and_differ(config: LooksConfig) -> None:
    small = {"train_count": 20, "test_count": 20}
    scenario = config.default["shortcut"]
    scenario = scenario.model_copy(update={"phantom": scenario.phantom.model_copy(update=small)})

    first, second = phantoms_of(scenario, seed=1), phantoms_of(scenario, seed=1)

    assert torch.equal(first[0].images, second[0].images)
    assert not torch.equal(first[0].images, first[1].images)


def test_a_short_training_is_reproducible_and_its_marker_parts_add_up(
    config: LooksConfig,
) -> None:
    scenario = config.default["shortcut"]
    scenario = scenario.model_copy(
        update={
            "phantom": scenario.phantom.model_copy(update={"train_count": 40, "test_count": 24}),
            "training": scenario.training.model_copy(update={"steps": 3, "batch_size": 10}),
        }
    )
    train, test = phantoms_of(scenario, seed=0)

    first, second = (
        train_variant(scenario, scenario.variants["full"], config.loss, train=train, seed=0)
        for _ in range(2)
    )
    one = measure_looks(first.network, test, task=TASK.name, coverage_threshold=0.08)

    weights, again = first.network.state_dict(), second.network.state_dict()
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    assert one.marker_evidence + one.marker_gate + one.marker_context == pytest.approx(
        one.marker_drop, abs=1e-5
    )
    assert 0.03 < one.chance_energy < 0.12


def test_every_scenarios_models_are_valid(config: LooksConfig) -> None:
    for scenario in (*config.default.values(), *config.slow.values()):
        for variant in scenario.variants.values():
            assert model_of(scenario, variant).image_size_px == scenario.phantom.side_px


@pytest.mark.slow
def test_every_slow_variant_trains_for_a_few_steps(config: LooksConfig) -> None:
    for scenario in config.slow.values():
        few = scenario.model_copy(
            update={
                "phantom": scenario.phantom.model_copy(update={"train_count": 16, "test_count": 8}),
                "training": scenario.training.model_copy(update={"steps": 4, "batch_size": 4}),
            }
        )
        train, _ = phantoms_of(few, seed=0)
        for variant in few.variants.values():
            trained = train_variant(few, variant, config.loss, train=train, seed=0)
            assert trained.last_loss < 5


def test_good_figures_meet_every_bar(config: LooksConfig, looks: Callable[..., Looks]) -> None:
    table = {
        "plain": [looks(conflict_auc=0.1)],
        "full": [looks()],
        "control": [looks(reliance=0.3)],
    }
    assert all(check.is_met for check in judge("shortcut", table, config))


@pytest.mark.parametrize(
    ("variant", "change", "words"),
    [
        ("plain", {"conflict_auc": 0.5}, "plain is fooled"),
        ("full", {"conflict_auc": 0.7}, "conflict AUC"),
        ("full", {"auc": float("nan")}, "AUC"),
        ("full", {"reliance": 0.3}, "reliance"),
        ("full", {"occlusion_energy": 0.4}, "occlusion"),
        ("control", {"reliance": 0.05}, "control relies"),
    ],
)
def test_a_missed_bar_is_named(
    config: LooksConfig,
    looks: Callable[..., Looks],
    variant: str,
    change: dict[str, float],
    words: str,
) -> None:
    table = {
        "plain": [looks(conflict_auc=0.1)],
        "full": [looks()],
        "control": [looks(reliance=0.3)],
    }
    table[variant] = [looks(**({"conflict_auc": 0.1, "reliance": 0.3} | change))]
    if variant == "full":
        table[variant] = [looks(**change)]

    missed = [check.name for check in judge("shortcut", table, config) if not check.is_met]

    assert any(words in name for name in missed)


def test_one_bad_seed_is_not_hidden_by_the_mean(
    config: LooksConfig, looks: Callable[..., Looks]
) -> None:
    table = {
        "plain": [looks(conflict_auc=0.1)],
        "full": [looks(), looks(), looks(), looks(), looks(conflict_auc=0.75)],
        "control": [looks(reliance=0.3)],
    }
    missed = [check.name for check in judge("shortcut", table, config) if not check.is_met]
    assert missed == ["full: conflict AUC, worst seed"]


def test_unknown_key_of_the_study_is_named(tmp_path: Path) -> None:
    path = tmp_path / "looks.yaml"
    path.write_text(CONFIG_FILE.read_text().replace("auc_at_least", "auc_at_most", 1))
    with pytest.raises(ConfigError, match="auc_at_most"):
        load_looks_config(path)


def test_interrupted_study_takes_over_what_was_finished_with_the_same_settings(
    tmp_path: Path, config: LooksConfig, looks: Callable[..., Looks]
) -> None:
    scenario = config.default["shortcut"]
    run = Run(scenario="shortcut", variant="full", seed=1)
    digest = plan_digest(run, scenario, config)
    finished = Result(run=run, looks=looks(auc=0.875), last_loss=0.5, step_ms=3.0)

    KeptResults(tmp_path / "networks.jsonl").keep(finished, digest)

    kept = KeptResults(tmp_path / "networks.jsonl")
    other_training = scenario.training.model_copy(update={"steps": 299})
    changed = scenario.model_copy(update={"training": other_training})
    assert kept.known([digest]) == {digest: finished}
    assert kept.known([plan_digest(run, changed, config)]) == {}
    assert kept.known([plan_digest(Run("shortcut", "full", 2), scenario, config)]) == {}
