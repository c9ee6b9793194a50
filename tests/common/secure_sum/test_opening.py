"""The coordinator's arithmetic: who must help, what is noticed, and what cannot be opened."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from members import RUN, Federation, config_of

from common.errors import AggregationError
from common.messages.kinds import MaskedUpdate
from common.secure_sum.groups import groups_of
from common.secure_sum.opening import open_sums, threshold
from common.secure_sum.statements import OpenedShares, RoundOpening, signed_round_key

FIVE = dict.fromkeys(("amber", "birch", "cedar", "delta", "ember"), "chestx")


@given(st.integers(3, 500))
def test_no_two_sets_of_givers_tell_different_survivors(members: int) -> None:
    needed = threshold(members)
    assert needed <= members
    assert needed >= 2 * members / 3
    assert needed - 1 < 2 * members / 3
    # Honest sites are in one set only: so many colluders are needed to stand in both.
    colluders = 2 * needed - members
    assert colluders >= members / 3
    assert 2 * needed > members


def test_a_coordinator_with_fewer_colluders_than_a_third_never_gets_both_kinds_of_shares() -> None:
    for members in range(3, 8):
        colluders = -(-members // 3) - 1  # the most that are fewer than a third
        honest = members - colluders
        for told_survived in range(honest + 1):
            told_dropped = honest - told_survived
            both = min(told_survived, told_dropped) + colluders
            assert both < threshold(members)


class Round:
    """A round of five sites, of which one dropped out, ready to be opened."""

    def __init__(self, folder: Path) -> None:
        self.federation = Federation(folder, config_of(FIVE))
        members = self.federation.member_list()
        bundles = self.federation.bundles(members)
        self.answers = self.federation.masked_by(members, bundles, without=["delta"])
        self.opening = self.federation.opening("amber", members, bundles)
        unmasking = self.federation.unmasking(self.opening, self.answers)
        self.shares: dict[str, OpenedShares] = {}
        for site in self.answers:
            given = self.federation.ask_shares(site, unmasking)
            assert isinstance(given, OpenedShares)
            self.shares[site] = given

    def open(
        self,
        *,
        answers: dict[str, MaskedUpdate] | None = None,
        shares: dict[str, OpenedShares] | None = None,
        opening: RoundOpening | None = None,
    ) -> dict[str, np.ndarray]:
        masked = self.answers if answers is None else answers
        return open_sums(
            opening or self.opening,
            {site: answer.masked for site, answer in masked.items()},
            self.shares if shares is None else shares,
            groups=groups_of(self.federation.config),
            sites=len(FIVE),
            run=RUN,
            server_round=1,
        )

    def with_wrong_seed_share(self, *givers: str) -> dict[str, OpenedShares]:
        shares = dict(self.shares)
        for giver in givers:
            seeds = {site: dict(groups) for site, groups in shares[giver].self_seeds.items()}
            seeds["birch"]["trunk"] = f"{int(seeds['birch']['trunk'], 16) ^ 1:x}"
            shares[giver] = shares[giver].model_copy(update={"self_seeds": seeds})
        return shares


@pytest.fixture(scope="module")
def round_of_five(tmp_path_factory: pytest.TempPathFactory) -> Round:
    return Round(tmp_path_factory.mktemp("five"))


def test_any_sufficient_givers_open_the_same_sum(round_of_five: Round) -> None:
    whole = round_of_five.open()
    assert set(whole) == {"trunk", "chestx"}
    for givers in itertools.combinations(round_of_five.shares, 4):  # threshold of five
        opened = round_of_five.open(shares={site: round_of_five.shares[site] for site in givers})
        for group, vector in whole.items():
            np.testing.assert_array_equal(opened[group], vector)
    decoded = round_of_five.federation.decoded(whole)
    updates = [round_of_five.federation.update(site) for site in round_of_five.answers]
    assert decoded["trunk"].extras["pictures"] == sum(update.num_examples for update in updates)


def test_what_came_is_left_as_it_was(round_of_five: Round) -> None:
    before = {
        site: {group: vector.copy() for group, vector in answer.masked.items()}
        for site, answer in round_of_five.answers.items()
    }
    round_of_five.open()
    for site, answer in round_of_five.answers.items():
        for group, vector in answer.masked.items():
            np.testing.assert_array_equal(vector, before[site][group])


def test_too_few_shares_are_counted_and_named(round_of_five: Round) -> None:
    few = {site: round_of_five.shares[site] for site in ("amber", "birch", "cedar")}
    with pytest.raises(AggregationError, match=r"of 4 sites, 3 came \(from amber, birch, cedar\)"):
        round_of_five.open(shares=few)


def test_a_wrong_share_is_noticed_where_none_is_to_spare(round_of_five: Round) -> None:
    wrong = round_of_five.with_wrong_seed_share("cedar")
    with pytest.raises(AggregationError, match=r"self seed of birch for trunk.*do not fit"):
        round_of_five.open(shares=wrong)


def test_who_gave_a_wrong_share_is_named_where_one_is_to_spare(tmp_path: Path) -> None:
    federation = Federation(tmp_path, config_of(FIVE))
    members = federation.member_list()
    bundles = federation.bundles(members)
    answers = federation.masked_by(members, bundles)
    opening = federation.opening("amber", members, bundles)
    unmasking = federation.unmasking(opening, answers)
    shares = {site: federation.ask_shares(site, unmasking) for site in answers}
    seeds = {site: dict(groups) for site, groups in shares["cedar"].self_seeds.items()}
    seeds["birch"]["trunk"] = f"{int(seeds['birch']['trunk'], 16) ^ 1:x}"
    shares["cedar"] = shares["cedar"].model_copy(update={"self_seeds": seeds})
    with pytest.raises(AggregationError, match="cedar gave a wrong one"):
        open_sums(
            opening,
            {site: answer.masked for site, answer in answers.items()},
            shares,
            groups=groups_of(federation.config),
            sites=len(FIVE),
            run=RUN,
            server_round=1,
        )


def test_a_mask_key_other_than_the_published_one_is_noticed(round_of_five: Round) -> None:
    federation, keys = round_of_five.federation, []
    for key in round_of_five.opening.keys:
        values = key.model_dump(exclude={"signature", "shares_digest"})
        if key.site == "delta":
            values["mask_key"] = round_of_five.opening.keys[0].mask_key
        keys.append(signed_round_key(**values, shares={}, key=federation.signing[key.site]))
    opening = round_of_five.opening.model_copy(update={"keys": tuple(keys)})
    with pytest.raises(AggregationError, match="mask key of delta is not the one"):
        round_of_five.open(opening=opening)


def test_a_vector_missing_or_of_another_size_is_named(round_of_five: Round) -> None:
    answer = round_of_five.answers["cedar"]
    for masked, words in (
        ({"trunk": answer.masked["trunk"]}, "cedar sent no vector for group chestx"),
        ({**answer.masked, "trunk": answer.masked["trunk"][:-1]}, "vector of cedar has shape"),
    ):
        altered = MaskedUpdate(RUN, 1, "cedar", "chestx", answer.secure_json, masked)
        with pytest.raises(AggregationError, match=words):
            round_of_five.open(answers={**round_of_five.answers, "cedar": altered})


def test_strangers_neither_add_nor_give(round_of_five: Round) -> None:
    some = round_of_five.answers["amber"]
    with pytest.raises(AggregationError, match="zebra is not in round 1"):
        round_of_five.open(answers={**round_of_five.answers, "zebra": some})
    with pytest.raises(AggregationError, match="zebra is no member"):
        round_of_five.open(shares={**round_of_five.shares, "zebra": round_of_five.shares["amber"]})
