"""Nine sites of three tasks whose updates are summed under masks, through Flower's engine."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from common.config.run import RunConfig
from common.model.layers import group_of
from server.exchange.participation import Outcome
from tests.small_demo import prepare_sites

Run = Callable[..., Any]
MISBEHAVING = Path(__file__).parent / "misbehaving"
TASKS = {
    "north": "chestx", "harbour": "chestx", "moor": "chestx", "quay": "chestx",
    "valley": "retina", "ridge": "retina", "weir": "retina",
    "lakeside": "pathoscan", "yarrow": "pathoscan",
}  # fmt: skip
PICTURES = 8  # patients of a site; what is learnt does not matter here


@pytest.fixture(scope="module")
def nine(config: RunConfig) -> RunConfig:
    """The same small run with nine sites, and sums as fine as their few pictures allow."""
    by_task = {site.task: site for site in config.sites}
    sites = tuple(
        by_task[task].model_copy(
            update={
                "name": name,
                "source": by_task[task].source.model_copy(update={"patients": PICTURES}),
            }
        )
        for name, task in TASKS.items()
    )
    federation = config.federation.model_copy(update={"rounds": 1})
    fine = {"clip_norm": 5.0, "max_examples": 16}
    secure = config.secure_aggregation.model_copy(update=fine)
    return config.model_copy(
        update={"sites": sites, "federation": federation, "secure_aggregation": secure}
    )


@pytest.fixture(scope="module")
def shards_of_nine(nine: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    return prepare_sites(nine, tmp_path_factory.mktemp("nine"))


def settings(nine: RunConfig, *, enabled: bool, rounds: int = 1) -> dict[str, object]:
    secure = nine.secure_aggregation.model_copy(update={"enabled": enabled})
    federation = nine.federation.model_copy(update={"rounds": rounds})
    return {"sites": nine.sites, "federation": federation, "secure_aggregation": secure}


def test_the_sum_under_masks_is_the_mean_of_the_same_updates_in_the_open_though_a_site_fails(
    run_by: Run,
    nine: RunConfig,
    shards_of_nine: Mapping[str, Path],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(MISBEHAVING)  # Flower hands the path on to its processes
    app = "crashing_client:app"

    plain = run_by(
        "plain", client_app=app, settings=settings(nine, enabled=False), **shards_of_nine
    )
    with caplog.at_level("INFO", logger="server.rounds.rounds"):
        secure = run_by(
            "secure",
            client_app=app,
            settings=settings(nine, enabled=True, rounds=2),
            **shards_of_nine,
        )

    before = plain.kept.reports[0].model
    open_change, summed_change = (
        {name: array - before[name] for name, array in ran.kept.reports[1].model.items()}
        for ran in (plain, secure)
    )
    summed = [name for name in before if group_of(name) != "pathoscan"]
    off = {name: summed_change[name] - open_change[name] for name in summed}
    assert norm(off) < 1e-4 * norm({name: open_change[name] for name in summed})
    # A task of two sites is in no sum: its head stays at them.
    pathoscan = [name for name in before if group_of(name) == "pathoscan"]
    assert not any(summed_change[name].any() for name in pathoscan)
    assert any(open_change[name].any() for name in pathoscan)
    for report in secure.kept.reports[1:]:
        outcomes = {site.site: (site.outcome, site.reason) for site in report.sites}
        assert outcomes.pop("north") == (Outcome.FAILED, "MemoryError; the site's log says more")
        assert set(outcomes.values()) == {(Outcome.ANSWERED, "")}
        assert report.summed.groups["trunk"].sites == 8
        assert report.summed.groups["trunk"].clipped == 0
        assert report.summed.groups["chestx"].sites == 3
        # Nothing of one site is known, and none was asked what it measured of the last model.
        assert not any(site.num_examples or site.metrics for site in report.sites)
    assert not any(secure.kept.measured.values())
    assert "not_measured_at_sites" in {record.__dict__.get("action") for record in caplog.records}
    found, seen = secure.kept.reports[1].summed.groups["trunk"], plain.kept.reports[1].sites
    assert found.num_examples == sum(site.num_examples or 0 for site in seen)
    totals = [site.metrics["total"] for site in seen if site.metrics]
    assert found.training["total"].mean == pytest.approx(np.mean(totals), abs=1e-4)


def norm(arrays: Mapping[str, NDArray[np.float32]]) -> float:
    return float(np.sqrt(sum(float(np.square(array).sum()) for array in arrays.values())))
