"""The names known beforehand are those that an evaluation of real shards comes to."""

from dataclasses import fields
from pathlib import Path

import pytest

from common.config.reading import load_config
from common.config.run import RunConfig
from common.datasets.prepare import prepare_shard
from common.datasets.shard import open_shard
from common.datasets.sources import open_source
from common.learning.evaluate import evaluate, measure, released_metrics
from common.learning.loss import LossParts
from common.model.network import Network, build_network
from common.secure_sum.measures import LOSS_BOUND, LOSS_PARTS, metric_bound, metric_names

CONFIGS = Path(__file__).parents[3] / "configs"


SMALL = ["data.image_size_px=64", "model.image_size_px=64"]


@pytest.fixture(scope="module")
def config() -> RunConfig:
    patients = [f"sites.{number}.source.patients=12" for number in range(5)]
    return load_config(CONFIGS / "experiments" / "demo.yaml", [*SMALL, *patients]).run


@pytest.fixture(scope="module")
def network(config: RunConfig) -> Network:
    return build_network(config.model, config.task_table(), seed=3)


@pytest.mark.parametrize("task", ["chestx", "retina", "pathoscan"])
def test_every_metric_that_a_site_measures_has_a_place(
    tmp_path: Path, config: RunConfig, network: Network, task: str
) -> None:
    site = next(site for site in config.sites if site.task == task)
    source = open_source(
        site.source,
        task=config.task(task),
        data_root=tmp_path,
        config_root=CONFIGS,
        site=site.name,
        seed=1,
    )
    prepare_shard(
        source,
        task=config.task(task),
        parts={"train": 0.2, "val": 0.7, "test": 0.1},
        data=config.data,
        seed=config.seed,
        out=tmp_path / "shard",
    )
    predicted = evaluate(
        network,
        open_shard(tmp_path / "shard"),
        "val",
        task=config.task(task),
        loss=config.loss,
        batch_size=16,
    )
    values_only = config.evaluation.model_copy(update={"bootstrap_replicates": 0})
    report = measure(predicted, config=values_only, seed=0)
    classification, localisation = report.classification, report.localisation
    possible = {*classification.average, *classification.grades, *localisation.average}
    possible |= {f"loss_{part}" for part in report.loss}
    assert set(metric_names(config, task)) == possible
    released = released_metrics(report)
    assert len(released) > 10
    for name, value in released.items():
        assert abs(value) <= metric_bound(name), name


def test_loss_parts_are_the_loss_s_own() -> None:
    assert tuple(field.name for field in fields(LossParts)) == LOSS_PARTS
    assert metric_bound("loss_total") == LOSS_BOUND
    assert metric_bound("auroc") == 1.0
