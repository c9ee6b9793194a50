"""One sum, one question: a coordinator that asks its sites differently opens nothing."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from members import SHAPES, TASKS, Federation, config_of

from common.errors import AggregationError
from common.messages.kinds import MaskedUpdate, Refusal, RefusalCode, TrainRequest
from common.secure_sum.context import model_digests
from common.secure_sum.groups import groups_of
from common.secure_sum.opening import open_sums
from common.secure_sum.statements import (
    MaskedNote,
    OpenedShares,
    RoundContext,
    RoundOpening,
    Unmasking,
    parsed,
    roster_digest,
)

FOUR = dict.fromkeys(("amber", "birch", "cedar", "delta"), "chestx")
UNTRUSTED, FORBIDDEN = RefusalCode.UNTRUSTED, RefusalCode.FORBIDDEN


@pytest.fixture
def four(tmp_path: Path) -> Federation:
    return Federation(tmp_path, config_of(FOUR))


@pytest.fixture
def nine(tmp_path: Path) -> Federation:
    return Federation(tmp_path)


def assert_refused(answer: object, code: RefusalCode, words: str) -> None:
    assert isinstance(answer, Refusal), answer
    assert (answer.code, words in answer.reason) == (code, True), answer.reason


def digest_of(model: str) -> str:
    return model_digests({f"{model}.w": np.full(3, 9.0, np.float32)})[model]


Change = Callable[[RoundContext], RoundContext]


def changed(**changes: object) -> Change:
    return lambda context: context.model_copy(update=changes)


def with_model(group: str) -> Change:
    return lambda context: context.model_copy(
        update={"models": {**context.models, group: digest_of("trunk")}}
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (changed(run_digest="0" * 64), "another manifest"),
        (changed(server_round=2), "context is of round 2"),
        (changed(evaluates=False), "asked alike whether they measure"),
        (changed(proximal_mu=0.5), "proximal_mu 0.5"),
        (with_model("trunk"), "arrays of trunk"),
        (with_model("chestx"), "arrays of chestx"),
        (changed(models={}), "arrays of chestx"),
    ],
)
def test_a_context_that_is_not_what_this_site_is_asked_is_refused_and_uses_no_masks(
    four: Federation, change: Change, words: str
) -> None:
    members = four.member_list()
    true = four.opening("amber", members, four.bundles(members))
    forged = true.model_copy(update={"context": change(true.context)})
    request = four.request("amber", forged)
    objection = four.members["amber"].objection(request, terms=four.terms("amber"))
    assert_refused(objection, UNTRUSTED, words)
    assert_refused(four.mask("amber", forged), UNTRUSTED, words)
    assert isinstance(four.mask("amber", true), MaskedUpdate)


def test_a_request_that_differs_from_what_the_others_are_asked_is_refused(
    four: Federation,
) -> None:
    members = four.member_list()
    request = four.request("amber", four.opening("amber", members, four.bundles(members)))
    dead = {name: np.zeros_like(array) + 7 for name, array in request.arrays.items()}
    for changes in ({"arrays": dead}, {"evaluates": False}, {"proximal_mu": 1e6}):
        asked: TrainRequest = replace(request, **changes)  # type: ignore[arg-type]
        objection = four.members["amber"].objection(asked, terms=four.terms("amber"))
        assert isinstance(objection, Refusal)
        assert objection.code is UNTRUSTED


def test_an_array_that_is_of_no_group_cannot_be_read(four: Federation) -> None:
    members = four.member_list()
    request = four.request("amber", four.opening("amber", members, four.bundles(members)))
    asked = replace(request, arrays={**request.arrays, "stray": np.zeros(1, np.float32)})
    objection = four.members["amber"].objection(asked, terms=four.terms("amber"))
    assert_refused(objection, RefusalCode.UNREADABLE, "stray")


class Divided:
    """A round in which amber gets the run's model, and the others a dead one that they believe."""

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
        members = federation.member_list()
        bundles = federation.bundles(members)
        self.openings: dict[str, RoundOpening] = {}
        self.masked: dict[str, MaskedUpdate] = {}
        alive = federation.arrays
        dead = {t: {n: a + 7 for n, a in arrays.items()} for t, arrays in alive.items()}
        for site in federation.tasks:
            federation.arrays = alive if site == "amber" else dead
            self.openings[site] = federation.opening(site, members, bundles)
            update = federation.update(site)
            if site != "amber":
                zeros = {name: np.zeros_like(array) for name, array in update.arrays.items()}
                update = replace(update, arrays=zeros)
            answer = federation.members[site].masked(
                federation.request(site, self.openings[site]),
                update,
                terms=federation.terms(site),
            )
            assert isinstance(answer, MaskedUpdate), answer
            self.masked[site] = answer

    def unmasking(self, roster: str) -> Unmasking:
        notes = {s: parsed(a.secure_json, MaskedNote) for s, a in self.masked.items()}
        return Unmasking(
            roster_digest=roster,
            survivors=tuple(sorted(notes)),
            dropped=(),
            signatures={site: note.signature for site, note in notes.items()},
        )


def test_sites_that_were_told_different_contexts_give_no_shares(four: Federation) -> None:
    divided = Divided(four)
    rosters = {site: roster_digest(opening) for site, opening in divided.openings.items()}
    assert len(set(rosters.values())) == 2
    for site in FOUR:
        for roster in rosters.values():
            given = four.ask_shares(site, divided.unmasking(roster))
            assert isinstance(given, Refusal)
            assert given.code is UNTRUSTED


def test_even_with_every_share_the_masks_of_different_contexts_stay_on(four: Federation) -> None:
    divided = Divided(four)
    shares = {}
    for site in FOUR:  # as if the sites gave what lies at them, whoever asks
        memory = four.members[site]._memory.round("trial-1", 1)
        assert memory is not None
        assert memory.masked is not None
        letters = memory.masked.letters
        seeds = {other: letter.self_seeds for other, letter in letters.items()}
        shares[site] = OpenedShares(self_seeds=seeds, mask_keys={})
    sums = open_sums(
        divided.openings["amber"],
        {site: answer.masked for site, answer in divided.masked.items()},
        shares,
        groups=groups_of(four.config),
        sites=len(FOUR),
        run="trial-1",
        server_round=1,
    )
    sent = four.update("amber").arrays["trunk.stem"]
    found = four.decoded(sums)["trunk"].arrays["trunk.stem"]
    assert abs(np.corrcoef(sent.ravel(), found.ravel())[0, 1]) < 0.4  # of 200 numbers
    assert SHAPES["trunk.stem"] == sent.shape


# --- how many are in a sum -------------------------------------------------------------------


@pytest.mark.parametrize("count", [3, 5])
def test_a_short_list_of_members_that_the_coordinator_picks_gets_no_secrets(
    nine: Federation, count: int
) -> None:
    members = nine.member_list(sorted(TASKS)[:count])
    answer = nine.ask_bundle("amber", 1, members)
    assert_refused(answer, FORBIDDEN, f"{count} members of the run's 9 sites")
    assert_refused(answer, FORBIDDEN, "takes 6")


def test_a_site_may_ask_for_more_sites_in_a_sum_than_the_run(four: Federation) -> None:
    four.least["amber"] = 4
    three = four.member_list(sorted(FOUR)[:3])
    assert_refused(four.ask_bundle("amber", 1, three), FORBIDDEN, "a sum needs at least 4")
    members = four.member_list()
    bundles = four.bundles(members)
    without = {site: bundle for site, bundle in bundles.items() if site != "delta"}
    refused = four.mask("amber", four.opening("amber", members, without))
    assert_refused(refused, FORBIDDEN, "3 sites are in the round, a sum needs at least 4")
    masked = four.masked_by(members, bundles)
    fewer = {site: masked[site] for site in sorted(FOUR)[:3]}
    unmasking = four.unmasking(four.opening("amber", members, bundles), fewer)
    assert_refused(four.ask_shares("amber", unmasking), FORBIDDEN, "3 sites survived")
    assert isinstance(four.ask_shares("birch", unmasking), OpenedShares)


@pytest.mark.parametrize(("strict", "heads"), [(3, True), (4, False)])
def test_a_head_of_fewer_sites_than_some_ask_for_opens_only_with_enough_others(
    nine: Federation, strict: int, heads: bool
) -> None:
    nine.least = dict.fromkeys(sorted(TASKS)[:strict], 4)
    members = nine.member_list()
    bundles = nine.bundles(members)
    masked = nine.masked_by(members, bundles)
    opening = nine.opening("amber", members, bundles)
    given = nine.ask_shares("amber", nine.unmasking(opening, masked))
    assert isinstance(given, OpenedShares)
    assert {group for seeds in given.self_seeds.values() for group in seeds} == {"trunk"}
    sums = nine.opened(opening, masked)
    assert set(sums) == ({"trunk", *TASKS.values()} if heads else {"trunk"})


def test_fewer_shares_than_the_threshold_of_the_run_open_no_trunk(nine: Federation) -> None:
    members = nine.member_list(sorted(TASKS)[:6])
    bundles = nine.bundles(members)
    masked = nine.masked_by(members, bundles)
    opening = nine.opening("amber", members, bundles)
    with pytest.raises(AggregationError, match="shares of 6 sites, 5 came"):
        nine.opened(opening, masked, silent=["birch"])
