"""Which heads nobody has trained together is read from the configuration and the rounds alone."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from common.config.privacy import SecureAggregationConfig
from common.config.reading import load_config
from common.config.run import RunConfig
from common.model.arrays import array_names
from common.model.layers import TRUNK
from common.model.network import build_network
from server.exchange.participation import Outcome, Participation, Reply
from server.planning.secured import secured
from server.record.summary import GroupEntry, RoundEntry, SiteRoundEntry, SumsEntry
from server.run.untrained import training_of, untrained_tasks

ALL = ("north", "harbour", "valley", "lakeside", "coast")


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return load_config(Path("configs/experiments/demo.yaml"), []).run


@pytest.fixture(scope="module")
def names(config: RunConfig) -> list[str]:
    concepts = {"retina": True}
    model = config.model.model_copy(update={"concepts": concepts})
    return array_names(build_network(model, config.task_table(), seed=1))


def entry(
    number: int,
    answered: tuple[str, ...],
    *,
    pictures: int | None = 80,
    opened: Mapping[str, int] | None = None,
) -> RoundEntry:
    """Return a round in which these sites answered; ``opened``: sites in each group's sum."""
    sites = tuple(
        SiteRoundEntry(
            site=site,
            outcome=Outcome.ANSWERED if site in answered else Outcome.REFUSED,
            reason="",
            num_examples=pictures,
            seconds=1.0,
            epsilon=None,
            epsilon_run=None,
            metrics={},
            evaluation={},
        )
        for site in ALL
    )
    groups = {
        name: GroupEntry(sites=count, of=3, reason="", num_examples=None, clipped=None, metrics={})
        for name, count in (opened or {}).items()
    }
    summed = None if opened is None else SumsEntry(groups=groups, reason="", evaluation={})
    return RoundEntry(
        round=number,
        wall_s=1.0,
        central_s=None,
        sent_bytes=0,
        received_bytes=0,
        score=None,
        central={},
        sites=sites,
        epsilon=None,
        epsilon_run=None,
        floor=None,
        summed=summed,
    )


def keeping(config: RunConfig, *layers: str) -> RunConfig:
    rules = config.federation.model_copy(update={"local_layers": layers})
    return config.model_copy(update={"federation": rules})


def test_where_every_head_was_trained_nothing_is_left_out(
    config: RunConfig, names: list[str]
) -> None:
    assert untrained_tasks(config, names, [entry(1, ALL)], participation=(), until=1) == {}


def test_a_head_that_was_trained_after_the_models_round_does_not_count(
    config: RunConfig, names: list[str]
) -> None:
    rounds = [entry(0, ()), entry(1, ("north", "coast")), entry(2, ALL)]
    found = untrained_tasks(config, names, rounds, participation=(), until=1)
    assert set(found) == {"retina"}
    assert "until round 1" in found["retina"]
    assert untrained_tasks(config, names, rounds, participation=(), until=2) == {}
    # Before any training nobody has trained anything.
    before = untrained_tasks(config, names, rounds, participation=(), until=0)
    assert set(before) == set(config.tasks)
    assert "round 0, before any training" in before["retina"]


def test_a_head_or_a_part_of_it_that_stays_is_untrained_here(
    config: RunConfig, names: list[str]
) -> None:
    rounds = [entry(1, ALL)]
    for layer in ("heads.retina", "heads.retina.parts.gate"):
        found = untrained_tasks(keeping(config, layer), names, rounds, participation=(), until=1)
        assert set(found) == {"retina"}
        assert "federation.local_layers" in found["retina"]


def test_signs_that_stay_leave_the_answers_as_they_are(config: RunConfig, names: list[str]) -> None:
    assert any(name.startswith("heads.retina.concepts.") for name in names)
    local = keeping(config, "heads.retina.concepts")
    assert untrained_tasks(local, names, [entry(1, ALL)], participation=(), until=1) == {}


def test_a_layer_of_the_trunk_that_stays_leaves_out_every_task(
    config: RunConfig, names: list[str]
) -> None:
    first = next(name for name in names if name.startswith("trunk."))
    found = untrained_tasks(
        keeping(config, first), names, [entry(1, ALL)], participation=(), until=1
    )
    assert set(found) == set(config.tasks)
    assert all(first in why for why in found.values())


def test_a_head_of_too_few_sites_for_a_sum_stays_and_says_how_many_it_takes(
    config: RunConfig, names: list[str]
) -> None:
    sums = SecureAggregationConfig(**config.secure_aggregation.model_dump() | {"enabled": True})
    run, _ = secured(config.model_copy(update={"secure_aggregation": sums}))
    found = untrained_tasks(
        run, names, [entry(1, ALL, opened={TRUNK: 5})], participation=(), until=1
    )
    assert set(found) == set(config.tasks)
    assert "as 1 are too few for a sum under masks, which needs 3" in found["retina"]


def test_a_sum_that_was_never_opened_has_trained_nothing(
    config: RunConfig, names: list[str]
) -> None:
    closed = entry(1, ALL, pictures=None, opened={TRUNK: 5, "chestx": 0, "retina": 3})
    assert set(untrained_tasks(config, names, [closed], participation=(), until=1)) == {
        "chestx",
        "pathoscan",
    }
    assert training_of(config, "retina", [closed], participation=(), until=1) == (1, None)
    assert training_of(config, "chestx", [closed], participation=(), until=1)[0] == 0
    failed = closed.model_copy(
        update={"summed": SumsEntry(groups={}, reason="too few sites", evaluation={})}
    )
    assert set(untrained_tasks(config, names, [failed], participation=(), until=1)) == set(
        config.tasks
    )


def test_a_round_that_too_few_sites_answered_has_trained_nothing(
    config: RunConfig, names: list[str]
) -> None:
    """Who answered in it is said to have answered; its update is in no model."""
    rounds = [entry(1, ("valley",)), entry(2, ("north", "harbour"))]
    came = [
        Participation(1, (Reply("valley", Outcome.ANSWERED, ""),), changed_model=False),
        Participation(2, (Reply("north", Outcome.ANSWERED, ""),), changed_model=True),
    ]
    found = untrained_tasks(config, names, rounds, participation=came, until=2)
    assert set(found) == {"retina", "pathoscan"}
    assert training_of(config, "retina", rounds, participation=came, until=2)[0] == 0
    assert training_of(config, "chestx", rounds, participation=came, until=2) == (2, 160)


def test_pictures_are_counted_once_for_each_site(config: RunConfig) -> None:
    rounds = [entry(1, ("north",)), entry(2, ALL)]
    assert training_of(config, "chestx", rounds, participation=(), until=2) == (2, 160)
    assert training_of(config, "chestx", rounds, participation=(), until=1) == (1, 80)
