"""Drift, shortcuts and sites that differ, on a fixed sample; alarms with their numbers."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.config.reading import load_config
from common.config.run import PhantomSource, RunConfig
from common.datasets.phantom_source import open_phantom
from common.datasets.prepare import prepare_shard
from common.datasets.shard import Shard
from common.learning.concept_evaluation import ConceptPredictions
from common.learning.evaluate import TaskPredictions, evaluate
from common.machine.seed import derive_seed
from common.messages.kinds import Arrays
from common.model.arrays import array_names, read_arrays
from common.model.network import Network, build_network
from server.journal.metric_names import round_metrics
from server.measuring.central_eval import CentralResult
from server.measuring.explanation_entries import explanation_entry
from server.measuring.explanation_pictures import draw_sites
from server.measuring.explanation_places import BORDER, MARKER, OUTSIDE
from server.measuring.explanation_sample import choose_sample, look_at, maps_of
from server.measuring.explanation_sign_watch import answers_in, answers_to
from server.measuring.explanation_sites import IN_THE_SUM_ONLY
from server.measuring.explanation_watch import ExplanationWatch, WatchReport
from server.measuring.overlays import TILE_PX
from server.record.summary import RoundEntry
from server.rounds.round_report import NOTHING_BESIDE, Beside
from server.rounds.site_turns import compared_sites

PART = "selection"
TASK = "chestx"
GRID = (6, 6)


@pytest.fixture(scope="module")
def config() -> RunConfig:
    overrides = [
        "tasks.chestx.labels=[Mass,Nodule]",
        "data.image_size_px=64",
        "model.image_size_px=64",
        "evaluation.bootstrap_replicates=200",
        "evaluation.min_positive_patients=10",
        "evaluation.explanation_pictures=40",
        "evaluation.explanation_share=1.0",
    ]
    whole = load_config(Path("configs/experiments/demo.yaml"), overrides).run.model_dump()
    whole["tasks"] = {TASK: whole["tasks"][TASK]}
    whole["reference"] = {TASK: whole["reference"][TASK]}
    whole["sites"] = [
        site | {"source": site["source"] | {"prevalence": {"Mass": 0.5, "Nodule": 0.3}}}
        for site in whole["sites"]
        if site["task"] == TASK
    ]
    return RunConfig.model_validate(whole)


def shard_of(
    config: RunConfig, out: Path, *, site: str, agreement: float, patients: int = 70
) -> Shard:
    source = PhantomSource(
        kind="phantom",
        patients=patients,
        pictures_per_patient=1,
        scanner_strength=0.0,
        lesion_contrast=1.5,
        roi_fraction=1.0,
        marker_agreement=agreement,
        prevalence={"Mass": 0.5, "Nodule": 0.3},
    )
    return prepare_shard(
        open_phantom(source, task=config.task(TASK), site=site, seed=1),
        task=config.task(TASK),
        parts=config.data.reference_split.model_dump(),
        data=config.data,
        seed=1,
        out=out / site,
    )


@pytest.fixture(scope="module")
def shard(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Shard:
    out = tmp_path_factory.mktemp("shards")
    return shard_of(config, out, site="reference-chestx", agreement=0.5)


@pytest.fixture(scope="module")
def network(config: RunConfig) -> Network:
    return build_network(config.model, config.task_table(), seed=3)


@pytest.fixture(scope="module")
def predicted(config: RunConfig, shard: Shard, network: Network) -> TaskPredictions:
    return evaluate(
        network,
        shard,
        PART,
        task=config.task(TASK),
        loss=config.loss,
        batch_size=32,
        keep_maps=set(shard.indices(PART).tolist()),
    )


def with_maps(predicted: TaskPredictions, maps: np.ndarray) -> Mapping[str, TaskPredictions]:
    """Give every picture of the part its map (N, T, h, w), or all of them one (T, h, w)."""
    each = np.broadcast_to(maps, (len(predicted.indices), *maps.shape[-3:])).astype(np.float32)
    kept = dict(zip(predicted.indices.tolist(), each, strict=True))
    return {TASK: replace(predicted, kept_maps=kept)}


def looked(
    config: RunConfig,
    shard: Shard,
    network: Network,
    *rounds: Mapping[str, TaskPredictions],
    beside: Beside = NOTHING_BESIDE,
) -> WatchReport:
    """Return what is said of the last of some rounds, the first of which is round 1."""
    watch = ExplanationWatch(config, {TASK: shard}, PART)
    found = [
        watch.look(each, number, network=network, beside=beside)
        for number, each in enumerate(rounds, start=1)
    ]
    return found[-1]


def kinds(report: WatchReport) -> set[tuple[str, str]]:
    return {(alarm.kind, alarm.class_name) for alarm in report.alarms}


# The sample


def test_the_sample_has_one_picture_per_patient_and_positive_ones_first(
    config: RunConfig, shard: Shard
) -> None:
    sample = choose_sample(shard, PART, task=config.task(TASK), count=30, seed=5)
    assert len(set(shard.patients[sample].tolist())) == len(sample) == 30
    positive = (shard.targets[sample] >= 1).any(axis=1)
    assert positive[: positive.sum()].all()
    assert set(sample.tolist()) <= set(shard.indices(PART).tolist())


def test_the_sample_is_the_seed_s_and_a_smaller_one_is_its_beginning(
    config: RunConfig, shard: Shard
) -> None:
    task = config.task(TASK)
    large = choose_sample(shard, PART, task=task, count=30, seed=5)
    assert choose_sample(shard, PART, task=task, count=12, seed=5).tolist() == large[:12].tolist()
    assert choose_sample(shard, PART, task=task, count=30, seed=6).tolist() != large.tolist()


def test_classes_take_turns_in_the_sample(config: RunConfig, shard: Shard) -> None:
    sample = choose_sample(shard, PART, task=config.task(TASK), count=8, seed=5)
    assert ((shard.targets[sample] >= 1).sum(axis=0) >= 3).all()


def test_maps_of_a_sample_are_those_of_the_evaluation(
    config: RunConfig, shard: Shard, network: Network, predicted: TaskPredictions
) -> None:
    rows = shard.indices(PART)[3:9]
    maps = maps_of(network, shard, rows, task=config.task(TASK), batch_size=4)
    expected = np.stack([predicted.kept_maps[int(row)] for row in rows])
    np.testing.assert_allclose(maps, expected, atol=1e-5)


# Drift


def test_a_model_that_stays_drifts_nowhere(
    config: RunConfig, shard: Shard, network: Network, predicted: TaskPredictions
) -> None:
    same = {TASK: predicted}
    looks = looked(config, shard, network, same, same).tasks[TASK]
    assert looks.since == 1
    for found in looks.drift.values():
        assert found["spearman"].value == pytest.approx(1.0)
        assert found["top_iou"].value == pytest.approx(1.0)
        assert found["spearman"].support == 40


def test_the_first_round_has_nothing_to_drift_from(
    config: RunConfig, shard: Shard, network: Network, predicted: TaskPredictions
) -> None:
    looks = looked(config, shard, network, {TASK: predicted}).tasks[TASK]
    assert (looks.since, looks.drift) == (None, {})


def test_maps_that_move_away_raise_an_alarm_that_names_class_and_numbers(
    config: RunConfig, shard: Shard, network: Network, predicted: TaskPredictions
) -> None:
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(len(predicted.indices), 2, *GRID))
    moved = maps.copy()
    moved[:, 1] = rng.normal(size=moved[:, 1].shape)
    first, second = with_maps(predicted, maps), with_maps(predicted, moved)
    report = looked(config, shard, network, first, second)
    drifted = [alarm for alarm in report.alarms if alarm.kind == "drift"]
    assert [alarm.class_name for alarm in drifted] == ["Nodule"]
    sentence = drifted[0].sentence
    for said in ("Nodule", "round 1", f"{drifted[0].value:.2f}", "below 0.20", "40 pictures"):
        assert said in sentence
    assert drifted[0].bound < drifted[0].threshold


def test_to_learn_is_no_drift(
    config: RunConfig, shard: Shard, network: Network, predicted: TaskPredictions
) -> None:
    maps = np.random.default_rng(0).normal(size=(2, 2, *GRID))
    watch = ExplanationWatch(config, {TASK: shard}, PART)
    watch.look(with_maps(predicted, maps[0]), 0, network=network)
    report = watch.look(with_maps(predicted, maps[1]), 1, network=network)
    assert report.tasks[TASK].since == 0
    assert not [alarm for alarm in report.alarms if alarm.kind == "drift"]


def test_a_continued_run_drifts_from_the_model_that_it_went_on_with(
    config: RunConfig, shard: Shard, predicted: TaskPredictions
) -> None:
    network = build_network(config.model, config.task_table(), seed=3)
    arrays = read_arrays(network, array_names(network))
    beside = Beside(may_be_last=False, start=arrays, changes={})
    watch = ExplanationWatch(config, {TASK: shard}, PART)
    looks = watch.look({TASK: predicted}, 4, network=network, beside=beside).tasks[TASK]
    assert looks.since == 3
    for found in looks.drift.values():  # ``predicted`` is what this very model sees
        assert found["spearman"].value == pytest.approx(1.0, abs=1e-3)


# Shortcuts


def features(shard: Shard, rows: np.ndarray) -> np.ndarray:
    """Mean brightness of every cell, (N, h, w): a reader that can see marker and lesion."""
    pictures = np.asarray(shard.images)[rows, :, :, 0].astype(np.float64) / 255
    side = pictures.shape[1]
    cells = np.add.reduceat(pictures, np.arange(GRID[0]) * side // GRID[0], axis=1)
    return np.add.reduceat(cells, np.arange(GRID[1]) * side // GRID[1], axis=2) / side


def federated_maps(
    shards: list[Shard], reference: Shard, *, rounds: int = 3, steps: int = 40
) -> np.ndarray:
    """Train one linear reader over the sites by averaging, and map the reference pictures.

    Its logit is the sum of its map exactly, as the network's is.
    """
    data = [(features(s, np.arange(len(s))), s.targets.max(axis=1)) for s in shards]
    mean = np.mean([x.mean(axis=0) for x, _ in data], axis=0)
    spread = np.mean([x.std() for x, _ in data])
    weights = np.zeros(GRID)
    for _ in range(rounds):
        local = []
        for x, truth in data:
            own, inputs = weights.copy(), (x - mean) / spread
            for _ in range(steps):
                chance = 1 / (1 + np.exp(-(inputs * own).sum(axis=(1, 2))))
                own -= 0.3 * np.tensordot(chance - truth, inputs, axes=1) / len(x)
            local.append(own)
        weights = np.mean(local, axis=0)
    rows = reference.indices(PART)
    one: np.ndarray = weights * (features(reference, rows) - mean) / spread
    return np.stack([one, one], axis=1)


@pytest.mark.parametrize(("agreement", "expected"), [(1.0, True), (0.5, False)])
def test_a_federation_that_learns_the_corner_marker_raises_the_alarm(
    *,
    agreement: float,
    expected: bool,
    config: RunConfig,
    shard: Shard,
    network: Network,
    predicted: TaskPredictions,
    tmp_path: Path,
) -> None:
    sites = [
        shard_of(config, tmp_path, site=name, agreement=agreement, patients=32)
        for name in ("north", "harbour")
    ]
    maps = federated_maps(sites, shard)
    report = looked(config, shard, network, with_maps(predicted, maps))
    raised = [alarm for alarm in report.alarms if alarm.kind == MARKER]
    assert bool(raised) is expected
    for alarm in raised:
        assert "on burnt-in markers" in alarm.sentence
        assert alarm.bound > alarm.threshold == config.evaluation.alarms.marker_share


def test_evidence_beside_the_lungs_and_at_the_border_raises_both_alarms(
    config: RunConfig, shard: Shard, network: Network, predicted: TaskPredictions
) -> None:
    seen = np.zeros((2, *GRID))
    seen[0, 0, 0] = 1.0  # Mass in the upper left corner: 1 - 0.52 * 0.52 of the cell is border
    seen[1, 2:4, 1] = 1.0  # Nodule in the right lung
    report = looked(config, shard, network, with_maps(predicted, seen))
    assert kinds(report) == {(OUTSIDE, "Mass"), (BORDER, "Mass")}
    assert report.tasks[TASK].shares["Mass"][BORDER].value == pytest.approx(1 - 0.52**2)
    assert report.tasks[TASK].shares["Nodule"][BORDER].value == pytest.approx(0)


def test_a_head_that_stays_at_the_sites_raises_no_alarm(
    config: RunConfig, shard: Shard, network: Network, predicted: TaskPredictions
) -> None:
    cornered = np.zeros((2, *GRID))
    cornered[:, 0, 0] = 1.0
    maps = with_maps(predicted, cornered)
    assert kinds(looked(config, shard, network, maps))
    rules = config.federation.model_copy(update={"local_layers": (f"heads.{TASK}.",)})
    local = config.model_copy(update={"federation": rules})
    assert looked(local, shard, network, maps).alarms == ()


def test_an_even_map_is_no_shortcut_at_border_or_marker(
    config: RunConfig, shard: Shard, network: Network, predicted: TaskPredictions
) -> None:
    low = config.evaluation.alarms.model_copy(update={"border_share": 0.0, "marker_share": 0.0})
    evaluation = config.evaluation.model_copy(update={"alarms": low})
    strict = config.model_copy(update={"evaluation": evaluation})
    report = looked(strict, shard, network, with_maps(predicted, np.ones((2, *GRID))))
    assert not {alarm.kind for alarm in report.alarms} & {BORDER, MARKER}


def test_too_few_patients_raise_no_alarm(
    config: RunConfig, shard: Shard, network: Network, predicted: TaskPredictions
) -> None:
    evaluation = config.evaluation.model_copy(update={"min_positive_patients": 500})
    few = config.model_copy(update={"evaluation": evaluation})
    rim = np.zeros((2, *GRID))
    rim[:, 0] = 1.0
    report = looked(few, shard, network, with_maps(predicted, rim))
    assert report.alarms == ()
    assert "500 needed" in report.tasks[TASK].shares["Mass"][OUTSIDE].note


def test_real_sites_do_not_know_their_anatomy(
    config: RunConfig, network: Network, predicted: TaskPredictions, tmp_path: Path
) -> None:
    plain = shard_of(config, tmp_path, site="north", agreement=0.5)
    found = evaluate(
        network,
        plain,
        PART,
        task=config.task(TASK),
        loss=config.loss,
        batch_size=32,
        keep_maps=set(plain.indices(PART).tolist()),
    )
    shares = looked(config, plain, network, {TASK: found}).tasks[TASK].shares["Mass"]
    assert (shares[OUTSIDE].value, shares[MARKER].value) == (None, None)
    assert "not known" in shares[MARKER].note
    assert shares[BORDER].value is not None


# Sites


def changes(arrays: Arrays, *, scale: float) -> Arrays:
    rng = np.random.default_rng(derive_seed(1, "change"))
    return {
        name: (scale * rng.normal(size=array.shape) * (np.abs(array).mean() + 0.01)).astype(
            array.dtype
        )
        for name, array in arrays.items()
    }


def test_a_site_that_changed_nothing_looks_where_the_model_looks_and_another_elsewhere(
    config: RunConfig, shard: Shard, network: Network
) -> None:
    other = build_network(config.model, config.task_table(), seed=3)
    arrays = read_arrays(other, array_names(other))
    found = evaluate(
        other,
        shard,
        PART,
        task=config.task(TASK),
        loss=config.loss,
        batch_size=32,
        keep_maps=set(shard.indices(PART).tolist()),
    )
    beside = Beside(
        may_be_last=False,
        start=arrays,
        changes={"north": changes(arrays, scale=0.0), "harbour": changes(arrays, scale=3.0)},
    )
    report = looked(config, shard, other, {TASK: found}, beside=beside)
    sites = report.tasks[TASK].sites
    for estimates in sites["north"].similarity.values():
        assert estimates["spearman"].value == pytest.approx(1.0, abs=1e-3)
    differing = [e["spearman"].value for e in sites["harbour"].similarity.values()]
    assert all(value is not None and value < 0.9 for value in differing)
    assert {alarm.site for alarm in report.alarms if alarm.kind == "site"} <= {"harbour"}
    assert "harbour, north" in report.sites_note


def test_a_last_round_shows_one_picture_as_each_site_s_model_sees_it(
    config: RunConfig, shard: Shard, predicted: TaskPredictions, tmp_path: Path
) -> None:
    other = build_network(config.model, config.task_table(), seed=3)
    arrays = read_arrays(other, array_names(other))
    moved = {"north": changes(arrays, scale=0.0), "harbour": changes(arrays, scale=3.0)}
    beside = Beside(may_be_last=True, start=arrays, changes=moved)
    example = looked(config, shard, other, {TASK: predicted}, beside=beside).tasks[TASK].example
    assert example is not None
    assert list(example.sites) == ["north", "harbour"]
    np.testing.assert_allclose(
        example.sites["north"].saliency, example.whole.saliency, rtol=1e-3, atol=1e-5
    )
    assert not np.allclose(example.sites["harbour"].saliency, example.whole.saliency, atol=1e-3)
    first = choose_sample(shard, PART, task=config.task(TASK), count=1, seed=config.seed)
    np.testing.assert_array_equal(example.case.image, shard.images[first[0]])
    assert example.case.truth == "present"  # positive ones come first
    draw_sites(example, tmp_path / "sites.png", title="t", outline="o")
    with Image.open(tmp_path / "sites.png") as picture:
        assert picture.size[0] > 3 * TILE_PX  # the model of all and both sites


def test_a_round_in_between_keeps_no_picture_of_sites(
    config: RunConfig, shard: Shard, predicted: TaskPredictions
) -> None:
    other = build_network(config.model, config.task_table(), seed=3)
    arrays = read_arrays(other, array_names(other))
    still = {"north": changes(arrays, scale=0.0)}
    beside = Beside(may_be_last=False, start=arrays, changes=still)
    looks = looked(config, shard, other, {TASK: predicted}, beside=beside).tasks[TASK]
    assert set(looks.sites) == {"north"}
    assert looks.example is None


def test_under_masks_no_site_is_looked_at_whatever_is_there(
    config: RunConfig, shard: Shard, predicted: TaskPredictions
) -> None:
    secure = config.secure_aggregation.model_copy(update={"enabled": True})
    masked = config.model_copy(update={"secure_aggregation": secure})
    other = build_network(config.model, config.task_table(), seed=3)
    arrays = read_arrays(other, array_names(other))
    # There should be no change of one site; should there be one, it is not looked at.
    beside = Beside(may_be_last=True, start=arrays, changes={"north": changes(arrays, scale=1.0)})
    report = looked(masked, shard, other, {TASK: predicted}, beside=beside)
    looks = report.tasks[TASK]
    assert (looks.sites, looks.example) == ({}, None)
    assert not [alarm for alarm in report.alarms if alarm.site is not None]
    entry = entry_of(masked, replace(report, seconds=1.0), wall_s=11.0)
    assert "north" not in entry.model_dump_json()
    assert report.sites_note.startswith(IN_THE_SUM_ONLY)
    assert compared_sites(masked, 1, may_be_last=True) == ()


def test_sites_take_turns_and_all_come_at_the_end(config: RunConfig) -> None:
    names = [f"site-{n}" for n in range(5)]
    sites = tuple(config.sites[0].model_copy(update={"name": name}) for name in names)
    evaluation = config.evaluation.model_copy(update={"explanation_sites": 2, "every_rounds": 2})
    many = config.model_copy(update={"sites": sites, "evaluation": evaluation})
    turns = [compared_sites(many, n, may_be_last=False) for n in (2, 4, 6)]
    assert [name for turn in turns for name in turn] == [*names, names[0]]
    assert compared_sites(many, 3, may_be_last=False) == ()  # nothing is measured then
    assert list(compared_sites(many, 2, may_be_last=True)) == names


# Signs


def with_signs(
    predicted: TaskPredictions, logits: np.ndarray, signs: np.ndarray
) -> Mapping[str, TaskPredictions]:
    """Let the model answer so: classes (N, T), signs (N, K) that rise with their probability."""
    concepts = ConceptPredictions(
        predictions=replace(
            predicted.predictions,
            class_names=tuple(f"sign {number}" for number in range(signs.shape[1])),
            probabilities=1 / (1 + np.exp(-signs)),
            truths=np.full(signs.shape, np.nan),
        ),
        localised=(),
    )
    return {TASK: replace(predicted, logits=logits.astype(np.float32), concepts=concepts)}


def signs_of(predicted: TaskPredictions) -> np.ndarray:
    """Five signs, the fourth of which (a mass) varies."""
    rng = np.random.default_rng(11)
    signs = np.zeros((len(predicted.indices), 5))
    signs[:, 3] = rng.normal(size=len(signs))
    return signs


def test_a_class_is_held_beside_the_signs_that_somebody_taught(
    config: RunConfig, shard: Shard, network: Network, predicted: TaskPredictions
) -> None:
    signs = signs_of(predicted)
    logits = np.stack([signs[:, 3], -signs[:, 3]], axis=1)
    answers = with_signs(predicted, logits, signs)
    report = looked(config, shard, network, answers)
    named = round_metrics(entry_of(config, replace(report, seconds=1.0), wall_s=11.0))
    assert named["explanation/chestx/Nodule/sign_mass/association"] == pytest.approx(-1.0)
    found = report.tasks[TASK].signs
    assert {name: set(of_signs) for name, of_signs in found.items()} == {
        "Mass": {"mass"},
        "Nodule": {"mass"},
    }
    assert found["Mass"]["mass"].value == pytest.approx(1.0)
    assert found["Nodule"]["mass"].value == pytest.approx(-1.0)
    assert found["Mass"]["mass"].support == 40  # the fixed sample


def test_a_class_that_no_longer_goes_with_its_sign_raises_an_alarm_with_both_numbers(
    config: RunConfig, shard: Shard, network: Network, predicted: TaskPredictions
) -> None:
    signs, rng = signs_of(predicted), np.random.default_rng(12)
    both = np.stack([signs[:, 3], signs[:, 3]], axis=1) + 0.3 * rng.normal(size=(len(signs), 2))
    parted = both.copy()
    parted[:, 0] = rng.normal(size=len(signs))
    first, second = (with_signs(predicted, logits, signs) for logits in (both, parted))
    report = looked(config, shard, network, first, second)
    alarms = [alarm for alarm in report.alarms if alarm.kind == "sign"]
    assert [alarm.class_name for alarm in alarms] == ["Mass"]
    now = report.tasks[TASK].signs["Mass"]["mass"].value
    assert now is not None
    for said in (
        "no longer goes with the sign mass as in round 1",
        f"{now:.2f} now",
        "40 pictures",
    ):
        assert said in alarms[0].sentence
    assert alarms[0].bound < alarms[0].threshold == -config.evaluation.alarms.sign_drop


def test_noise_and_signs_that_never_went_with_a_class_raise_no_alarm(
    config: RunConfig, shard: Shard, network: Network, predicted: TaskPredictions
) -> None:
    signs, rng = signs_of(predicted), np.random.default_rng(13)
    rounds = []
    for _ in range(3):
        logits = rng.normal(size=(len(signs), 2))  # Nodule: never with the sign
        logits[:, 0] = signs[:, 3] + 0.3 * rng.normal(size=len(signs))  # Mass: always
        rounds.append(with_signs(predicted, logits, signs))
    assert "sign" not in {kind for kind, _ in kinds(looked(config, shard, network, *rounds))}


def test_a_class_that_never_surely_went_with_a_sign_cannot_part_from_it(
    config: RunConfig, shard: Shard, network: Network, predicted: TaskPredictions
) -> None:
    signs, rng = signs_of(predicted), np.random.default_rng(13)
    unrelated = rng.normal(size=(len(signs), 2))
    first, second = (
        with_signs(predicted, logits, signs)
        for logits in (unrelated, np.stack([-signs[:, 3]] * 2, axis=1))
    )
    before = looked(config, shard, network, first).tasks[TASK].signs["Mass"]["mass"]
    assert before.low is not None
    assert before.low < 0
    now = looked(config, shard, network, first, second)
    assert now.tasks[TASK].signs["Mass"]["mass"].value == pytest.approx(-1.0)
    assert "sign" not in {kind for kind, _ in kinds(now)}


def test_what_was_before_training_is_no_sign_to_part_from(
    config: RunConfig, shard: Shard, network: Network, predicted: TaskPredictions
) -> None:
    signs = signs_of(predicted)
    logits = np.stack([signs[:, 3], signs[:, 3]], axis=1)
    watch = ExplanationWatch(config, {TASK: shard}, PART)
    watch.look(with_signs(predicted, logits, signs), 0, network=network)
    report = watch.look(with_signs(predicted, -logits, signs), 1, network=network)
    assert "sign" not in {kind for kind, _ in kinds(report)}


def test_a_continued_run_knows_what_a_class_went_with_before(
    config: RunConfig, shard: Shard, predicted: TaskPredictions
) -> None:
    other, task = build_network(config.model, config.task_table(), seed=3), config.task(TASK)
    head, sign = other.heads[TASK], task.concepts.index("mass")
    with torch.no_grad():  # the sign sees what the first class sees
        for layer in ("evidence", "gate"):
            seen_by = getattr(head.parts, layer).weight[0]
            getattr(head.concepts, layer).weight[sign] = seen_by
    arrays = read_arrays(other, array_names(other))
    signs = signs_of(predicted)
    parted = np.stack([-signs[:, 3], signs[:, 3]], axis=1)
    beside = Beside(may_be_last=False, start=arrays, changes={})
    watch = ExplanationWatch(config, {TASK: shard}, PART)
    report = watch.look(with_signs(predicted, parted, signs), 4, network=other, beside=beside)
    alarms = [alarm for alarm in report.alarms if alarm.kind == "sign"]
    assert [alarm.class_name for alarm in alarms][:1] == ["Mass"]
    assert "as in round 3 (rank correlation 1.00 then, -1.00 now" in alarms[0].sentence


def test_what_is_seen_again_is_to_the_bits_what_was_evaluated(
    config: RunConfig, shard: Shard
) -> None:
    other, task = build_network(config.model, config.task_table(), seed=3), config.task(TASK)
    with torch.no_grad():  # far from one half, where probabilities are tied and logits are not
        other.heads[TASK].get_parameter("concepts.evidence.weight").normal_(std=9.0)
    rows = shard.indices(PART)
    seen = evaluate(other, shard, PART, task=task, loss=config.loss, batch_size=32)
    again = answers_in(look_at(other, shard, rows, task=task, batch_size=32))
    before = answers_to(seen, rows)
    assert len(np.unique(before.signs)) < before.signs.size
    np.testing.assert_array_equal(again.signs, before.signs)
    np.testing.assert_array_equal(again.logits, before.logits)


def test_a_model_without_heads_for_signs_has_none_to_watch(
    config: RunConfig, shard: Shard, network: Network, predicted: TaskPredictions
) -> None:
    bare = {TASK: replace(predicted, concepts=None)}
    assert looked(config, shard, network, bare, bare).tasks[TASK].signs == {}


# What is kept


def test_a_round_that_may_be_the_last_looks_at_the_whole_part(
    config: RunConfig, shard: Shard, network: Network, predicted: TaskPredictions
) -> None:
    at_end = replace(NOTHING_BESIDE, may_be_last=True)
    watch = ExplanationWatch(config, {TASK: shard}, PART)
    assert len(watch.wanted(TASK, whole=False)) == 40
    assert watch.wanted(TASK, whole=True) == set(shard.indices(PART).tolist())
    looks = looked(config, shard, network, {TASK: predicted}, beside=at_end).tasks[TASK]
    assert looks.pictures == looks.of_pictures == len(shard.indices(PART)) > 40


def test_the_average_look_is_the_mean_over_positive_pictures(
    config: RunConfig, shard: Shard, network: Network, predicted: TaskPredictions
) -> None:
    looks = looked(config, shard, network, {TASK: predicted}).tasks[TASK]
    sample = choose_sample(shard, PART, task=config.task(TASK), count=40, seed=config.seed)
    shown = [row for row in sample.tolist() if shard.targets[row, 0] == 1]
    expected = np.mean([np.clip(predicted.kept_maps[row][0], 0, None) for row in shown], axis=0)
    assert looks.averages[0].class_name == "Mass"
    assert looks.averages[0].pictures == len(shown)
    np.testing.assert_allclose(looks.averages[0].evidence, expected, rtol=1e-5)


def entry_of(config: RunConfig, report: WatchReport, *, wall_s: float) -> RoundEntry:
    central = CentralResult(
        server_round=2, reports={}, overlays={}, wall_s=wall_s, explanation=report
    )
    return RoundEntry(
        round=2,
        wall_s=wall_s,
        central_s=wall_s,
        sent_bytes=0,
        received_bytes=0,
        score=None,
        central={},
        sites=(),
        epsilon=None,
        epsilon_run=None,
        floor=None,
        summed=None,
        explanation=explanation_entry(central, config),
    )


def test_the_numbers_reach_summary_and_tracking(
    config: RunConfig, shard: Shard, network: Network, predicted: TaskPredictions
) -> None:
    rim = np.zeros((2, *GRID))
    rim[0, 0] = 1.0
    first = with_maps(predicted, rim)
    report = replace(looked(config, shard, network, first, first), seconds=1.0)
    entry = entry_of(config, report, wall_s=11.0)
    assert RoundEntry.model_validate_json(entry.model_dump_json()) == entry
    assert entry.explanation is not None
    assert entry.explanation.share == pytest.approx(0.1)
    assert entry.explanation.remark == ""
    named = round_metrics(entry)
    assert named["explanation/alarms"] == len(report.alarms) > 0
    share = report.tasks[TASK].shares["Mass"][OUTSIDE]
    assert named["explanation/chestx/Mass/outside_anatomy/share"] == share.value
    assert named["explanation/chestx/Mass/drift/spearman"] == pytest.approx(1.0)
    assert named["explanation/chestx/Mass/drift/support"] == 40


def test_a_round_that_takes_longer_than_allowed_says_so(
    config: RunConfig, shard: Shard, network: Network, predicted: TaskPredictions
) -> None:
    evaluation = config.evaluation.model_copy(update={"explanation_share": 0.25})
    usual = config.model_copy(update={"evaluation": evaluation})
    report = replace(looked(usual, shard, network, {TASK: predicted}), seconds=5.0)
    found = entry_of(usual, report, wall_s=15.0).explanation
    assert found is not None
    assert "50% of the evaluation's time, 25% allowed" in found.remark
