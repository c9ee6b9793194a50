"""Rounds under masks from the coordinator's side, with sites that keep their half of the protocol.

What the sums must be is computed from what the sites trained, which the coordinator never sees.
"""

import json
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from common.errors import ConfigError, RunError
from common.messages.kinds import NOT_SECURE, Keys, MaskedUpdate, Refusal, RefusalCode, Shares
from common.secure_sum.statements import (
    Bundle,
    MaskedNote,
    OpenedShares,
    as_text,
    parsed,
)
from server.exchange.participation import Outcome
from server.exchange.site_config import told
from server.rounds.collecting import Collected

CHESTX, RETINA, PATHOSCAN = (
    ("bay", "cape", "dale", "elm"),
    ("fen", "glen", "hill"),
    ("isle", "lake"),
)
ALL = (*CHESTX, *RETINA, *PATHOSCAN)
EACH = {"trunk.w": ALL, "trunk.b": ALL, "heads.chestx.w": CHESTX, "heads.retina.w": RETINA}

World = Any  # of conftest.py
MakeWorld = Callable[..., World]
NORMAL = ["train", "unmask"]


def outcomes(collected: Collected) -> dict[str, tuple[Outcome, str]]:
    return {reply.site: (reply.outcome, reply.reason) for reply in collected.replies}


def kinds(world: World, server_round: int) -> list[str]:
    """What was asked of sites for a round, in order."""
    return [kind for kind, number in world.exchange.exchanges if number in (0, server_round)]


def check_mean(
    world: World, collected: Collected, *, without: Collection[str] = (), server_round: int = 1
) -> None:
    """The change is the mean over exactly the sites that are said to be in it."""
    assert collected.reason is None
    for name, sites in EACH.items():
        left = [site for site in sites if site not in without]
        if name not in collected.change:
            assert len(left) < 3
            continue
        expected = world.mean(name, left, server_round)
        np.testing.assert_allclose(collected.change[name], expected, atol=1e-5)


def test_a_round_changes_each_group_by_the_weighted_mean_of_its_sites(world: MakeWorld) -> None:
    made = world()

    collected = made.round()

    check_mean(made, collected)
    assert set(collected.change) == set(EACH)
    assert set(outcomes(collected).values()) == {(Outcome.ANSWERED, "")}
    trunk, chestx = collected.sums.groups["trunk"], collected.sums.groups["chestx"]
    assert (trunk.sites, trunk.num_examples, trunk.clipped, trunk.above_floor) == (9, 450, 0, None)
    assert trunk.training["total"].mean == pytest.approx(0.5, abs=1e-5)
    assert chestx.evaluation["auroc"].mean == pytest.approx(0.75, abs=1e-6)
    assert chestx.evaluation["auroc"].sites == 4
    assert set(collected.sums.groups) == {"trunk", "chestx", "retina"}


def test_nothing_of_one_site_is_known(world: MakeWorld) -> None:
    made = world()

    collected = made.round()

    assert all(n.num_examples is None and not n.metrics for n in collected.numbers.values())
    assert not collected.evaluations_before


def test_a_task_of_two_sites_keeps_its_head_at_them(world: MakeWorld) -> None:
    made = world()
    in_the_open = made.config.model_copy(
        update={
            "secure_aggregation": made.config.secure_aggregation.model_copy(
                update={"enabled": False}
            )
        }
    )

    assert told(made.config).federation.local_layers == ("heads.pathoscan.",)
    assert told(told(made.config)) == told(made.config)
    assert told(in_the_open).federation.local_layers == ()


def test_the_second_round_is_one_heavy_and_one_light_exchange(world: MakeWorld) -> None:
    made = world()

    first, second = made.round(1), made.round(2)

    assert kinds(made, 1)[:2] == ["keys", "keys"]
    assert [kind for kind, number in made.exchange.exchanges if number == 2] == NORMAL
    check_mean(made, first)
    check_mean(made, second, server_round=2)


@pytest.mark.parametrize("stage", ["keys", "train", "unmask"])
def test_sites_that_fall_silent_at_any_stage_are_named_and_the_others_go_on(
    world: MakeWorld, stage: str
) -> None:
    made = world()
    made.round(1)
    gone = ("cape", "lake")
    made.exchange.silent = lambda kind, site, number: kind == stage and site in gone and number == 2

    second = made.round(2)
    made.exchange.silent = lambda _kind, _site, _number: False
    third = made.round(3)

    dropped = gone if stage == "train" else ()  # keys came with round 1, shares enough from others
    check_mean(made, second, without=dropped, server_round=2)
    missing = {s for s, (outcome, _) in outcomes(second).items() if outcome is Outcome.MISSING}
    assert missing == set(dropped)
    check_mean(made, third, server_round=3)
    asked = [kind for kind, number in made.exchange.exchanges if number == 3]
    assert asked == (["keys", *NORMAL] if dropped else NORMAL)


@pytest.mark.parametrize("which", [0, 1])
def test_sites_whose_keys_do_not_come_are_left_out_of_the_round_and_asked_again(
    world: MakeWorld, which: int
) -> None:
    made = world()
    made.exchange.silent = lambda kind, site, number: (kind, site, number) == ("keys", "elm", which)

    first = made.round(1)
    made.exchange.silent = lambda _kind, _site, _number: False
    second = made.round(2)

    check_mean(made, first, without=["elm"])
    assert outcomes(first)["elm"] == (Outcome.MISSING, "no answer to keys")
    check_mean(made, second, server_round=2)


def test_a_round_whose_keys_too_few_of_the_run_gave_is_not_begun(world: MakeWorld) -> None:
    made = world()
    made.exchange.silent = lambda kind, site, number: (
        (kind, number) == ("keys", 1) and site not in CHESTX
    )

    first, second = made.round(1), made.round(2)

    assert kinds(made, 1)[:2] == ["keys", "keys"]
    assert ("train", 1) not in made.exchange.exchanges
    assert first.reason == "4 sites gave keys for the secure sum, 6 are needed"
    check_mean(made, second, server_round=2)


@pytest.mark.parametrize(("asked", "measuring"), [(("elm",), 4), ((), 0)])
def test_either_all_sites_measure_the_model_or_none(
    world: MakeWorld, asked: tuple[str, ...], measuring: int
) -> None:
    made = world()

    collected = made.round(evaluating=asked)

    found = collected.sums.groups["chestx"].evaluation.get("auroc")
    assert (0 if found is None else found.sites) == measuring


def test_heads_that_too_many_sites_keep_closed_stay_as_they_are(world: MakeWorld) -> None:
    made = world()
    for site in CHESTX:
        made.sites[site].least = 4

    collected = made.round()

    assert set(collected.change) == {"trunk.w", "trunk.b"} | {"heads.chestx.w"}
    retina = collected.sums.groups["retina"]
    assert (retina.sites, "some ask for more sites in a sum" in retina.reason) == (0, True)


def test_plans_that_differ_between_sites_are_an_error(world: MakeWorld) -> None:
    made = world()
    with pytest.raises(ConfigError, match="proximal weights of their own"):
        made.round(weights={"bay": 0.5})


def test_a_head_with_too_few_sites_left_stays_as_it_is_and_the_report_says_so(
    world: MakeWorld,
) -> None:
    made = world()
    made.exchange.silent = lambda kind, site, _number: (kind, site) == ("train", "glen")

    collected = made.round()

    assert set(collected.change) == {"trunk.w", "trunk.b", "heads.chestx.w"}
    check_mean(made, collected, without=["glen"])
    retina = collected.sums.groups["retina"]
    assert (retina.sites, retina.reason) == (0, "2 sites, a sum is opened over at least 3")


def test_with_too_few_sites_left_no_sum_is_opened_and_nothing_changes(world: MakeWorld) -> None:
    made = world()
    made.exchange.silent = lambda kind, site, _number: kind == "train" and site not in CHESTX

    collected = made.round()

    reason = "4 of 9 sites are left, 6 can open the sums"
    assert (collected.change, collected.reason, collected.sums.reason) == ({}, reason, reason)
    assert outcomes(collected)["bay"] == (Outcome.REJECTED, reason)
    assert outcomes(collected)["lake"] == (Outcome.MISSING, "no answer to train")
    assert "unmask" not in kinds(made, 1)


def test_when_too_few_help_to_open_the_sums_nothing_changes_and_the_next_round_goes_well(
    world: MakeWorld,
) -> None:
    made = world()
    made.exchange.silent = lambda kind, site, number: (
        (kind, number) == ("unmask", 1) and site not in CHESTX
    )

    first, second = made.round(1), made.round(2)

    assert first.reason == "4 sites helped to open the sums, 6 are needed"
    assert first.change == {}
    check_mean(made, second, server_round=2)


def test_a_refusal_is_a_result_and_its_reason_is_told(world: MakeWorld) -> None:
    made = world()
    made.sites["fen"].train = lambda _request: Refusal("fen", RefusalCode.UNABLE, "no pictures")

    collected = made.round()

    assert outcomes(collected)["fen"] == (Outcome.REFUSED, "no pictures")
    check_mean(made, collected, without=["fen"])


# Sites that do not keep to the protocol


def test_a_masked_update_that_is_not_of_the_round_is_rejected_by_name(world: MakeWorld) -> None:
    made = world()

    def alter(answer: object) -> object:
        if not isinstance(answer, MaskedUpdate) or answer.site not in ("cape", "lake"):
            return answer
        if answer.site == "cape":
            return replace(answer, server_round=7)
        return replace(answer, secure_json=NOT_SECURE)

    made.exchange.alter = alter

    collected = made.round()

    found = outcomes(collected)
    assert found["cape"] == (Outcome.REJECTED, "it answers round 7 of run run")
    assert found["lake"][0] is Outcome.REJECTED
    check_mean(made, collected, without=["cape", "lake"])


def test_keys_that_a_site_did_not_sign_are_not_passed_on(world: MakeWorld) -> None:
    made = world()

    def alter(answer: object) -> object:
        if isinstance(answer, Keys) and answer.site == "cape" and answer.server_round == 0:
            other = json.loads(answer.keys_json) | {"letter_key": "A" * 43 + "="}
            return replace(answer, keys_json=json.dumps(other))
        if isinstance(answer, Keys) and answer.site == "fen" and answer.server_round == 1:
            bundle = parsed(answer.keys_json, Bundle)
            swapped = dict(zip(bundle.shares, list(bundle.shares.values())[::-1], strict=True))
            return replace(answer, keys_json=as_text(bundle.model_copy(update={"shares": swapped})))
        return answer

    made.exchange.alter = alter

    collected = made.round()

    found = outcomes(collected)
    assert found["cape"][0] is found["fen"][0] is Outcome.REJECTED
    assert "the signature is not of the pinned key" in found["cape"][1]
    assert found["fen"][1] == "its letters are not one for each other member, as it signed them"
    check_mean(made, collected, without=["cape", "fen"])


def test_a_wrong_share_is_got_round_with_one_to_spare(world: MakeWorld) -> None:
    made = world()

    def alter(answer: object) -> object:
        if not isinstance(answer, Shares) or answer.site != "bay":
            return answer
        shares = parsed(answer.shares_json, OpenedShares)
        wrong = {s: {g: "abc" for g in seeds} for s, seeds in shares.self_seeds.items()}
        return replace(answer, shares_json=as_text(shares.model_copy(update={"self_seeds": wrong})))

    made.exchange.alter = alter

    check_mean(made, made.round())


def test_bad_keys_of_the_next_round_do_not_spoil_this_one(world: MakeWorld) -> None:
    made = world()

    def alter(answer: object) -> object:
        if isinstance(answer, MaskedUpdate) and answer.site == "bay" and answer.server_round == 1:
            note = parsed(answer.secure_json, MaskedNote)
            return replace(answer, secure_json=as_text(note.model_copy(update={"next": None})))
        return answer

    made.exchange.alter = alter

    check_mean(made, made.round(1))
    check_mean(made, made.round(2), server_round=2)
    assert [kind for kind, number in made.exchange.exchanges if number == 2] == ["keys", *NORMAL]


# Sites that come later, and a coordinator that breaks off


def test_a_site_that_comes_later_is_in_the_sums_from_then_on(world: MakeWorld) -> None:
    made = world()
    early = [site for site in ALL if site != "hill"]

    first, second = made.round(1, sites=early), made.round(2)

    assert "hill" not in outcomes(first)
    assert first.sums.groups["retina"].sites == 0
    check_mean(made, second, server_round=2)


@pytest.mark.parametrize("breaks_at", ["train", "unmask"])
def test_a_coordinator_that_breaks_off_goes_on_with_the_same_round_in_the_same_words(
    world: MakeWorld, breaks_at: str
) -> None:
    made = world()
    made.round(1)
    made.exchange.breaks_at = (breaks_at, 2)
    with pytest.raises(KeyboardInterrupt):
        made.round(2)
    before = {site: list(each.asked) for site, each in made.sites.items()}

    made.exchange.breaks_at = None
    made.begin()
    collected = made.round(2)

    check_mean(made, collected, server_round=2)
    for name, site in made.sites.items():
        asked = site.asked[len(before[name]) :]
        if breaks_at == "unmask":
            assert asked == before[name][-1:]
    assert made.exchange.exchanges[-2:] == [("train", 2), ("unmask", 2)]


def test_a_coordinator_that_breaks_off_while_shares_come_opens_for_the_same_survivors(
    world: MakeWorld,
) -> None:
    made = world()
    made.exchange.silent = lambda kind, site, _number: (kind, site) == ("train", "lake")

    def break_off(answer: object) -> object:
        if isinstance(answer, Shares) and answer.site == "cape":
            raise KeyboardInterrupt
        return answer

    made.exchange.alter = break_off
    with pytest.raises(KeyboardInterrupt):
        made.round()
    made.exchange.silent = lambda _kind, _site, _number: False
    made.exchange.alter = lambda answer: answer

    made.begin()
    collected = made.round()

    check_mean(made, collected, without=["lake"])
    assert outcomes(collected)["lake"] == (
        Outcome.MISSING,
        "it had dropped out of the round before the coordinator broke off",
    )


def test_a_survivor_that_is_gone_after_a_break_leaves_the_sums_closed(world: MakeWorld) -> None:
    made = world()
    made.exchange.breaks_at = ("unmask", 1)
    with pytest.raises(KeyboardInterrupt):
        made.round()
    made.exchange.breaks_at = None
    made.exchange.silent = lambda kind, site, _number: (kind, site) == ("train", "bay")

    made.begin()
    collected = made.round()

    assert collected.change == {}
    assert collected.reason == "bay did not answer again, and its part was in the sums already"


def test_another_run_s_round_is_not_gone_on_with_and_a_damaged_one_is_an_error(
    world: MakeWorld,
) -> None:
    made = world()
    made.round()
    kept = json.loads(made.path.read_text())
    made.path.write_text(json.dumps(kept | {"run": "another"}))
    made.begin()
    check_mean(made, made.round(2), server_round=2)

    made.path.write_text("{")
    with pytest.raises(RunError, match="Restore it from a copy"):
        made.begin()


def test_a_stopped_run_gives_up_its_round_before_anything_is_opened(world: MakeWorld) -> None:
    made = world()

    def stop(answer: object) -> object:
        made.exchange.is_over = True
        return answer

    made.exchange.alter = stop

    collected = made.round()

    assert not collected.is_whole
    assert kinds(made, 1) == ["keys", "keys"]


@pytest.mark.parametrize("seed", range(3))
def test_whoever_drops_out_wherever_the_change_is_the_mean_of_those_in_it(
    world: MakeWorld, seed: int
) -> None:
    made = world()
    rng = np.random.default_rng(seed)
    silent = {
        (kind, site, number)
        for kind in ("keys", "train", "unmask")
        for site in ALL
        for number in (1, 2, 3)
        if rng.random() < 0.12
    }
    made.exchange.silent = lambda kind, site, number: (kind, site, number) in silent

    for number in (1, 2, 3):
        collected = made.round(number)
        answered = {s for s, (o, _) in outcomes(collected).items() if o is Outcome.ANSWERED}
        if collected.change:
            check_mean(made, collected, without=set(ALL) - answered, server_round=number)
        else:
            assert collected.reason
            assert not answered
