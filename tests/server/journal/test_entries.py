"""From what a round reports to what is kept of it: noise, sums, and whose model was measured."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from common.config.run import RunConfig
from common.messages.kinds import Metrics
from common.secure_sum.layout import Measure
from server.exchange.participation import Outcome
from server.journal.entries import (
    floor_before,
    privacy_about,
    round_entry,
    secure_about,
    summed_evaluation_before,
    with_told_later,
)
from server.measuring.central_eval import CentralResult
from server.record.summary import FloorEntry, RoundEntry
from server.rounds.round_report import RoundReport, SecureSums, SiteRound, SummedGroup

Report = RoundReport[CentralResult]


def report(
    sites: Mapping[str, Metrics],
    *,
    evaluations: Mapping[str, Metrics] | None = None,
    summed: SecureSums | None = None,
) -> Report:
    return RoundReport(
        server_round=2,
        sites=tuple(
            SiteRound(site, "chestx", Outcome.ANSWERED, "", 50, metrics)
            for site, metrics in sites.items()
        ),
        changed_model=True,
        central=None,
        is_best=False,
        model={},
        evaluations_before=evaluations or {},
        wall_s=1.0,
        summed=summed,
    )


def entry_of(found: Report, config: RunConfig, before: RoundEntry | None = None) -> RoundEntry:
    return round_entry(found, config=config, before=before)


def with_floor(config: RunConfig, **floor: float) -> RunConfig:
    federation = config.federation.model_copy(update={"site_floor": floor})
    return config.model_copy(update={"federation": federation})


def secure_config(config: RunConfig) -> RunConfig:
    secure = config.secure_aggregation.model_copy(update={"enabled": True})
    federation = config.federation.model_copy(update={"local_layers": ("heads.retina.",)})
    return config.model_copy(update={"secure_aggregation": secure, "federation": federation})


SUMS = SecureSums(
    groups={
        "trunk": SummedGroup(
            sites=4,
            reason="",
            num_examples=400,
            clipped=1,
            above_floor=(3, 4),
            training={"total": Measure(0.5, 4), "saliency": Measure(0.1, 1)},
        ),
        "chestx": SummedGroup(
            sites=3, reason="", evaluation={"auroc": Measure(0.8, 3), "iou": Measure(0.2, 2)}
        ),
        "pathoscan": SummedGroup(sites=0, reason="fewer than 3 sites answered"),
    },
    reason="",
)


def test_epsilon_is_the_site_s_own_and_no_part_of_the_loss(demo_config: RunConfig) -> None:
    told = {"total": 0.5, "seconds": 3.0, "epsilon": 2.5, "epsilon_run": 1.0}
    (site,) = entry_of(report({"north": told}), demo_config).sites
    assert (site.epsilon, site.epsilon_run, site.seconds) == (2.5, 1.0, 3.0)
    assert site.metrics == {"total": 0.5}


def test_a_round_s_epsilon_is_the_largest_over_sites(demo_config: RunConfig) -> None:
    spent = {
        "north": {"epsilon": 2.5, "epsilon_run": 1.0},
        "harbour": {"epsilon": 1.5, "epsilon_run": 1.5},
    }
    entry = entry_of(report(spent), demo_config)
    assert (entry.epsilon, entry.epsilon_run) == (2.5, 1.5)


def test_what_a_site_has_spent_stays_spent_while_it_is_away(demo_config: RunConfig) -> None:
    first = entry_of(report({"north": {"epsilon": 4.0}, "harbour": {"epsilon": 1.0}}), demo_config)
    second = entry_of(report({"harbour": {"epsilon": 2.0}}), demo_config, before=first)
    assert second.epsilon == 4.0
    assert entry_of(report({"harbour": {"total": 1.0}}), demo_config).epsilon is None


def test_a_floor_is_judged_by_each_site_s_own_measurement(demo_config: RunConfig) -> None:
    config = with_floor(demo_config, auroc=0.6)
    found = report({}, evaluations={"north": {"auroc": 0.7}, "valley": {"auroc": 0.5}})
    assert floor_before(found, config) == FloorEntry(above=1, sites=2)
    assert floor_before(found, demo_config) is None


def test_under_masks_the_floor_is_what_the_sum_says(demo_config: RunConfig) -> None:
    config = with_floor(secure_config(demo_config), auroc=0.6)
    assert floor_before(report({}, summed=SUMS), config) == FloorEntry(above=3, sites=4)
    nobody = SecureSums(groups={"trunk": SummedGroup(sites=4, reason="")}, reason="")
    assert floor_before(report({}, summed=nobody), config) is None


def test_sums_are_kept_by_group_beside_how_many_sites_could_be_in_them(
    demo_config: RunConfig,
) -> None:
    summed = entry_of(report({}, summed=SUMS), secure_config(demo_config)).summed
    assert summed is not None
    assert (summed.groups["trunk"].sites, summed.groups["trunk"].of) == (4, 5)
    assert (summed.groups["pathoscan"].sites, summed.groups["pathoscan"].of) == (0, 2)
    assert summed.groups["pathoscan"].reason == "fewer than 3 sites answered"
    assert summed.groups["trunk"].num_examples == 400


def test_a_mean_of_fewer_sites_than_a_sum_needs_is_not_told(demo_config: RunConfig) -> None:
    config = secure_config(demo_config)
    summed = entry_of(report({}, summed=SUMS), config).summed
    assert summed is not None
    assert summed.groups["trunk"].metrics == {"total": 0.5}
    assert summed_evaluation_before(report({}, summed=SUMS), config) == {"chestx": {"auroc": 0.8}}


def test_what_is_told_a_round_later_stands_under_the_model_that_was_measured(
    demo_config: RunConfig,
) -> None:
    untrained = entry_of(replace(report({}), server_round=0), demo_config)
    floor = FloorEntry(above=3, sites=4)
    told = with_told_later(untrained, floor=floor, summed_evaluation={"chestx": {"auroc": 0.8}})
    assert told.floor == floor
    assert told.summed is not None
    assert told.summed.evaluation == {"chestx": {"auroc": 0.8}}
    assert with_told_later(untrained, floor=None, summed_evaluation={}) == untrained


@pytest.mark.parametrize("enabled", [True, False])
def test_a_summary_says_how_updates_are_protected(enabled: bool, demo_config: RunConfig) -> None:
    privacy = demo_config.privacy.model_copy(update={"enabled": enabled})
    about = privacy_about(demo_config.model_copy(update={"privacy": privacy}))
    assert (about is not None) is enabled
    if about is not None:
        assert (about.unit, about.delta) == (privacy.unit, privacy.delta)
    secure = secure_about(secure_config(demo_config))
    assert secure is not None
    assert (secure.min_group, secure.local_heads) == (3, ("retina",))
    assert secure_about(demo_config) is None
