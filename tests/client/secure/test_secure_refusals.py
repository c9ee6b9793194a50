"""What a coordinator that plays false is refused, by name: each test is one of its tries."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from members import RUN, Federation, config_of

from client.secure.checks import Terms
from common.config.reading import canonical_json
from common.errors import DataError
from common.messages.kinds import KeysRequest, MaskedUpdate, Refusal, RefusalCode, UnmaskRequest
from common.messages.signing import PrivateKey
from common.secure_sum.statements import (
    MemberKey,
    MemberList,
    OpenedShares,
    RoundOpening,
    Unmasking,
    as_text,
    signed_member_key,
    signed_round_key,
)

TASKS = dict.fromkeys(("amber", "birch", "cedar", "delta"), "chestx")
UNTRUSTED, FORBIDDEN = RefusalCode.UNTRUSTED, RefusalCode.FORBIDDEN
OUT_OF_ORDER = RefusalCode.OUT_OF_ORDER


class Ring:
    """Four sites of one task, and a round that is ready to be masked."""

    def __init__(self, folder: Path) -> None:
        self.federation = Federation(folder, config_of(TASKS))
        self.members = self.federation.member_list()
        self.bundles = self.federation.bundles(self.members)
        self.opening = self.federation.opening("amber", self.members, self.bundles)

    def key_of(self, site: str) -> MemberKey:
        return next(member for member in self.members.members if member.site == site)

    def with_member(self, changed: MemberKey) -> MemberList:
        others = [member for member in self.members.members if member.site != changed.site]
        return MemberList(members=tuple(sorted([*others, changed], key=lambda m: m.site)))

    def with_round_key(self, altered: str, **changes: object) -> RoundOpening:
        """The opening with a site's round key altered, its signature as it was."""
        keys = [
            key.model_copy(update=changes) if key.site == altered else key
            for key in self.opening.keys
        ]
        return self.opening.model_copy(update={"keys": tuple(keys)})


@pytest.fixture
def ring(tmp_path: Path) -> Ring:
    return Ring(tmp_path)


def assert_refused(answer: object, code: RefusalCode, *words: str) -> None:
    assert isinstance(answer, Refusal), answer
    assert answer.site == "amber"
    assert answer.code == code, answer.reason
    for word in words:
        assert word in answer.reason


# --- members: who is summed with -------------------------------------------------------------


def an_invented_site(ring: Ring) -> MemberList:
    key = PrivateKey.new()
    forged = signed_member_key(
        run=RUN, site="zebra", task="chestx", letter_key=ring.key_of("birch").letter_key, key=key
    )
    return ring.with_member(forged)


def a_letter_key_of_its_own(ring: Ring) -> MemberList:
    other = ring.key_of("birch").model_copy(update={"letter_key": ring.key_of("cedar").letter_key})
    return ring.with_member(other)


def a_letter_key_signed_by_itself(ring: Ring) -> MemberList:
    forged = signed_member_key(
        run=RUN,
        site="birch",
        task="chestx",
        letter_key=ring.key_of("cedar").letter_key,
        key=PrivateKey.new(),
    )
    return ring.with_member(forged)


def a_key_of_another_run(ring: Ring) -> MemberList:
    return ring.with_member(ring.federation.member_key("birch", "trial-2"))


def its_own_key_altered(ring: Ring) -> MemberList:
    own = ring.key_of("amber").model_copy(update={"letter_key": ring.key_of("cedar").letter_key})
    return ring.with_member(own)


def its_own_key_missing(ring: Ring) -> MemberList:
    return MemberList(members=ring.members.members[1:])


def another_task(ring: Ring) -> MemberList:
    forged = signed_member_key(
        run=RUN,
        site="birch",
        task="retina",
        letter_key=ring.key_of("birch").letter_key,
        key=ring.federation.signing["birch"],
    )
    return ring.with_member(forged)


def too_few(ring: Ring) -> MemberList:
    return MemberList(members=ring.members.members[:2])


@pytest.mark.parametrize(
    ("forge", "code", "words"),
    [
        (an_invented_site, FORBIDDEN, ("zebra", "run's sites")),
        (a_letter_key_of_its_own, UNTRUSTED, ("birch", "not signed")),
        (a_letter_key_signed_by_itself, UNTRUSTED, ("birch", "not signed")),
        (a_key_of_another_run, UNTRUSTED, ("birch", "another run")),
        (its_own_key_altered, UNTRUSTED, ("own key", "altered")),
        (its_own_key_missing, UNTRUSTED, ("own key", "missing")),
        (another_task, FORBIDDEN, ("birch", "retina")),
        (too_few, FORBIDDEN, ("2 members", "3")),
    ],
)
def test_forged_members_are_refused_before_secrets_are_shared_and_before_masking(
    ring: Ring, forge: Callable[[Ring], MemberList], code: RefusalCode, words: tuple[str, ...]
) -> None:
    members = forge(ring)
    assert_refused(ring.federation.ask_bundle("amber", 2, members), code, *words)
    opening = ring.opening.model_copy(update={"members": members.members})
    request = ring.federation.request("amber", opening)
    amber, terms = ring.federation.members["amber"], ring.federation.terms("amber")
    assert_refused(amber.objection(request, terms=terms), code, *words)
    assert_refused(ring.federation.mask("amber", opening), code, *words)


def without_pin(ring: Ring, site: str) -> Terms:
    terms = ring.federation.terms("amber")
    return replace(terms, peers={name: key for name, key in terms.peers.items() if name != site})


def test_a_site_that_no_person_has_pinned_is_refused(ring: Ring) -> None:
    terms = without_pin(ring, "cedar")
    request = ring.federation.request("amber", ring.opening)
    answer = ring.federation.members["amber"].objection(request, terms=terms)
    assert_refused(answer, FORBIDDEN, "cedar", "fovea-site peers add cedar")


def test_a_site_pinned_with_another_key_is_refused(ring: Ring) -> None:
    peers = ring.federation.peers("amber") | {"cedar": PrivateKey.new().public}
    terms = replace(ring.federation.terms("amber"), peers=peers)
    request = ring.federation.request("amber", ring.opening)
    answer = ring.federation.members["amber"].objection(request, terms=terms)
    assert_refused(answer, UNTRUSTED, "cedar", "pinned")


# --- the opening of a round ------------------------------------------------------------------


def resigned(ring: Ring, signer: str, **changes: object) -> RoundOpening:
    """The opening with a round key altered and signed by the site itself: an old one, replayed."""
    key = ring.bundles[signer].key
    values = key.model_dump(exclude={"signature", "shares_digest"}) | changes
    fresh = signed_round_key(
        **values, shares=ring.bundles[signer].shares, key=ring.federation.signing[signer]
    )
    return ring.with_round_key(signer, **fresh.model_dump())


def a_mask_key_swapped(ring: Ring) -> RoundOpening:
    return ring.with_round_key("birch", mask_key=ring.bundles["cedar"].key.mask_key)


def a_round_key_of_another_run(ring: Ring) -> RoundOpening:
    return resigned(ring, "birch", run="trial-2")


def a_round_key_of_another_round(ring: Ring) -> RoundOpening:
    return resigned(ring, "birch", server_round=2)


def a_round_key_of_other_members(ring: Ring) -> RoundOpening:
    return resigned(ring, "birch", members_digest="0" * 64)


def a_round_key_of_another_task(ring: Ring) -> RoundOpening:
    return resigned(ring, "birch", task="retina")


def its_own_round_key_altered(ring: Ring) -> RoundOpening:
    return ring.with_round_key("amber", mask_key=ring.bundles["cedar"].key.mask_key)


def its_own_round_key_missing(ring: Ring) -> RoundOpening:
    return ring.opening.model_copy(update={"keys": ring.opening.keys[1:]})


def a_site_that_is_no_member(ring: Ring) -> RoundOpening:
    zebra = resigned(ring, "birch", site="zebra").keys[1]
    return ring.opening.model_copy(update={"keys": (*ring.opening.keys, zebra)})


def another_site_s_letter(ring: Ring) -> RoundOpening:
    shares = {**ring.opening.shares, "birch": ring.opening.shares["cedar"]}
    return ring.opening.model_copy(update={"shares": shares})


def a_letter_to_another_site(ring: Ring) -> RoundOpening:
    shares = {**ring.opening.shares, "birch": ring.bundles["birch"].shares["cedar"]}
    return ring.opening.model_copy(update={"shares": shares})


def a_letter_missing(ring: Ring) -> RoundOpening:
    shares = {site: text for site, text in ring.opening.shares.items() if site != "birch"}
    return ring.opening.model_copy(update={"shares": shares})


def two_sites(ring: Ring) -> RoundOpening:
    shares = {"birch": ring.opening.shares["birch"]}
    return ring.opening.model_copy(update={"keys": ring.opening.keys[:2], "shares": shares})


@pytest.mark.parametrize(
    ("forge", "code", "words"),
    [
        (a_mask_key_swapped, UNTRUSTED, ("birch", "not signed")),
        (a_round_key_of_another_run, UNTRUSTED, ("birch", "another run or round")),
        (a_round_key_of_another_round, UNTRUSTED, ("birch", "another run or round")),
        (a_round_key_of_other_members, UNTRUSTED, ("birch", "other members")),
        (a_round_key_of_another_task, UNTRUSTED, ("birch", "no member")),
        (its_own_round_key_altered, UNTRUSTED, ("own key of round 1",)),
        (its_own_round_key_missing, UNTRUSTED, ("own key of round 1",)),
        (a_site_that_is_no_member, UNTRUSTED, ("zebra", "no member")),
        (another_site_s_letter, UNTRUSTED, ("letter of birch",)),
        (a_letter_to_another_site, UNTRUSTED, ("letter of birch",)),
        (a_letter_missing, UNTRUSTED, ("letter of birch",)),
        (two_sites, FORBIDDEN, ("2 sites", "3")),
    ],
)
def test_a_forged_round_is_refused_before_training_and_again_before_masking(
    ring: Ring, forge: Callable[[Ring], RoundOpening], code: RefusalCode, words: tuple[str, ...]
) -> None:
    opening = forge(ring)
    request = ring.federation.request("amber", opening)
    amber, terms = ring.federation.members["amber"], ring.federation.terms("amber")
    assert_refused(amber.objection(request, terms=terms), code, *words)
    assert_refused(ring.federation.mask("amber", opening), code, *words)
    # Nothing of it has used up the masks: the true opening is still answered.
    assert isinstance(ring.federation.mask("amber", ring.opening), MaskedUpdate)


def test_a_round_that_could_never_be_opened_is_refused(tmp_path: Path) -> None:
    tasks = dict.fromkeys(("amber", "birch", "cedar", "delta", "ember", "fjord"), "chestx")
    federation = Federation(tmp_path, config_of(tasks))
    members = federation.member_list()
    bundles = federation.bundles(members, without=["delta", "ember", "fjord"])
    answer = federation.mask("amber", federation.opening("amber", members, bundles))
    assert_refused(answer, FORBIDDEN, "3 sites are in the round, opening it takes 4")


def test_other_groups_than_secrets_were_made_for_are_refused(ring: Ring) -> None:
    federation = ring.federation
    values = federation.config.federation.model_copy(update={"local_layers": ("heads.",)})
    federation.config_json = canonical_json(
        federation.config.model_copy(update={"federation": values})
    )
    assert_refused(federation.mask("amber", ring.opening), UNTRUSTED, "groups")


# --- masking twice ---------------------------------------------------------------------------


def test_a_round_is_masked_once_also_after_a_restart(ring: Ring) -> None:
    federation = ring.federation
    assert isinstance(federation.mask("amber", ring.opening), MaskedUpdate)
    for _ in range(2):
        request = federation.request("amber", ring.opening)
        update = federation.update("amber", seed=1)
        amber, terms = federation.members["amber"], federation.terms("amber")
        assert_refused(amber.objection(request, terms=terms), OUT_OF_ORDER, "round 1")
        assert_refused(amber.masked(request, update, terms=terms), OUT_OF_ORDER, "round 1")
        assert_refused(federation.ask_bundle("amber", 1, ring.members), OUT_OF_ORDER, "over")
        federation.members["amber"] = federation.restarted("amber")


def test_a_crash_before_the_run_knows_of_the_masking_does_not_allow_a_second(ring: Ring) -> None:
    federation = ring.federation
    file = federation.folder / "amber" / RUN / "run.json"
    before = file.read_bytes()
    federation.mask("amber", ring.opening)
    file.write_bytes(before)  # the last of the two files was not written any more
    federation.members["amber"] = federation.restarted("amber")
    assert_refused(federation.mask("amber", ring.opening), OUT_OF_ORDER, "masks", "used")


def test_an_earlier_round_cannot_be_masked_later(ring: Ring) -> None:
    federation = ring.federation
    later = federation.bundles(ring.members, server_round=2)
    opening = federation.opening("amber", ring.members, later)
    assert isinstance(federation.mask("amber", opening, server_round=2), MaskedUpdate)
    assert_refused(federation.mask("amber", ring.opening), OUT_OF_ORDER, "round 1 is over")


def test_a_used_round_gets_no_other_secrets_for_other_members(ring: Ring) -> None:
    federation = ring.federation
    federation.mask("amber", ring.opening)
    fewer = MemberList(members=ring.members.members[:3])
    assert_refused(federation.ask_bundle("amber", 1, fewer), OUT_OF_ORDER, "over")


def test_no_keys_are_made_beyond_the_last_round(ring: Ring) -> None:
    answer = ring.federation.ask_bundle("amber", 5, ring.members)
    assert_refused(answer, OUT_OF_ORDER, "4 rounds")


def test_an_update_that_is_not_finite_uses_no_masks(ring: Ring) -> None:
    federation = ring.federation
    update = federation.update("amber")
    spoilt = {**update.arrays, "trunk.bias": np.full(7, np.nan, np.float32)}
    request = federation.request("amber", ring.opening)
    amber, terms = federation.members["amber"], federation.terms("amber")
    with pytest.raises(DataError, match="cannot be summed"):
        amber.masked(request, replace(update, arrays=spoilt), terms=terms)
    assert isinstance(federation.mask("amber", ring.opening), MaskedUpdate)


def test_statements_that_cannot_be_read_are_refused(ring: Ring) -> None:
    federation = ring.federation
    amber, terms = federation.members["amber"], federation.terms("amber")
    request = federation.request("amber", ring.opening)
    garbled = replace(request, secure_json='{"members": 1}')
    assert_refused(amber.objection(garbled, terms=terms), RefusalCode.UNREADABLE, "RoundOpening")
    garbled = replace(request, config_json="{}")
    assert_refused(amber.objection(garbled, terms=terms), RefusalCode.UNREADABLE, "config")
    asked = KeysRequest(RUN, 2, federation.config_json, "{}")
    assert_refused(amber.keys(asked, terms=terms), RefusalCode.UNREADABLE, "MemberList")


def test_a_damaged_memory_is_an_error_with_its_remedy(ring: Ring) -> None:
    path = ring.federation.folder / "amber" / RUN / "round-000001.json"
    path.write_text("{")
    with pytest.raises(DataError, match=r"round-000001.json: is damaged.*older copy"):
        ring.federation.mask("amber", ring.opening)


# --- opening ---------------------------------------------------------------------------------


@pytest.fixture
def masked(ring: Ring) -> dict[str, MaskedUpdate]:
    return ring.federation.masked_by(ring.members, ring.bundles)


def of(ring: Ring, masked: dict[str, MaskedUpdate], *survivors: str) -> Unmasking:
    chosen = {site: masked[site] for site in survivors}
    return ring.federation.unmasking(ring.opening, chosen)


def test_another_roster_is_not_opened(ring: Ring, masked: dict[str, MaskedUpdate]) -> None:
    forged = of(ring, masked, *TASKS).model_copy(update={"roster_digest": "0" * 64})
    assert_refused(ring.federation.ask_shares("amber", forged), UNTRUSTED, "other keys")


def test_a_site_opens_no_sum_that_it_is_not_in(ring: Ring, masked: dict[str, MaskedUpdate]) -> None:
    forged = of(ring, masked, "birch", "cedar", "delta")
    assert_refused(ring.federation.ask_shares("amber", forged), FORBIDDEN, "itself")


def test_no_site_both_survives_and_drops_out(ring: Ring, masked: dict[str, MaskedUpdate]) -> None:
    forged = of(ring, masked, *TASKS).model_copy(update={"dropped": ("cedar",)})
    assert_refused(ring.federation.ask_shares("amber", forged), FORBIDDEN, "cedar", "both")


def test_every_site_of_the_round_is_accounted_for(
    ring: Ring, masked: dict[str, MaskedUpdate]
) -> None:
    forged = of(ring, masked, "amber", "birch", "cedar").model_copy(update={"dropped": ()})
    assert_refused(ring.federation.ask_shares("amber", forged), FORBIDDEN, "delta")
    forged = of(ring, masked, *TASKS).model_copy(update={"dropped": ("zebra",)})
    assert_refused(ring.federation.ask_shares("amber", forged), FORBIDDEN, "zebra")


def test_survivors_must_have_signed_this_round(ring: Ring, masked: dict[str, MaskedUpdate]) -> None:
    true = of(ring, masked, *TASKS)
    swapped = {**true.signatures, "cedar": true.signatures["birch"]}
    forged = true.model_copy(update={"signatures": swapped})
    assert_refused(ring.federation.ask_shares("amber", forged), UNTRUSTED, "cedar", "not signed")
    fewer = {site: text for site, text in true.signatures.items() if site != "cedar"}
    forged = true.model_copy(update={"signatures": fewer})
    assert_refused(ring.federation.ask_shares("amber", forged), UNTRUSTED, "survivors")


def test_a_survivor_whose_pin_was_removed_meanwhile_is_refused(
    ring: Ring, masked: dict[str, MaskedUpdate]
) -> None:
    terms = without_pin(ring, "cedar")
    asked = as_text(of(ring, masked, *TASKS))
    request = UnmaskRequest(RUN, 1, ring.federation.config_json, asked)
    answer = ring.federation.members["amber"].shares(request, terms=terms)
    assert_refused(answer, FORBIDDEN, "cedar", "not pinned")


def test_too_few_survivors_are_not_opened(ring: Ring, masked: dict[str, MaskedUpdate]) -> None:
    answer = ring.federation.ask_shares("amber", of(ring, masked, "amber", "birch"))
    assert_refused(answer, FORBIDDEN, "2 sites survived", "3")


def test_only_one_unmasking_a_round_is_answered_also_after_a_restart(
    ring: Ring, masked: dict[str, MaskedUpdate]
) -> None:
    federation = ring.federation
    everyone, fewer = of(ring, masked, *TASKS), of(ring, masked, "amber", "birch", "cedar")
    first = federation.ask_shares("amber", everyone)
    assert isinstance(first, OpenedShares)
    for _ in range(2):
        assert federation.ask_shares("amber", everyone) == first
        # Both sums together would tell delta's update.
        assert_refused(
            federation.ask_shares("amber", fewer), OUT_OF_ORDER, "other survivors already"
        )
        federation.members["amber"] = federation.restarted("amber")


def test_of_each_site_one_kind_of_share_is_given(
    ring: Ring, masked: dict[str, MaskedUpdate]
) -> None:
    given = ring.federation.ask_shares("amber", of(ring, masked, "amber", "birch", "cedar"))
    assert isinstance(given, OpenedShares)
    assert set(given.mask_keys) == {"delta"}
    assert set(given.self_seeds) == {"amber", "birch", "cedar"}
    assert all(set(groups) == {"trunk", "chestx"} for groups in given.self_seeds.values())


def test_nothing_is_opened_that_was_not_masked_or_is_long_over(
    ring: Ring, masked: dict[str, MaskedUpdate]
) -> None:
    true = of(ring, masked, *TASKS)
    answer = ring.federation.ask_shares("amber", true, server_round=2)
    assert_refused(answer, OUT_OF_ORDER, "not masked in round 2")
    answer = ring.federation.ask_shares("amber", true, run="trial-2")
    assert_refused(answer, OUT_OF_ORDER, "not masked")


def test_a_smaller_least_group_asked_for_later_does_not_count(tmp_path: Path) -> None:
    federation = Federation(tmp_path, config_of(dict(TASKS)))
    federation.least = dict.fromkeys(TASKS, 4)
    members = federation.member_list()
    bundles = federation.bundles(members)
    masked = federation.masked_by(members, bundles)
    federation.least = {}
    three = {site: masked[site] for site in ("amber", "birch", "cedar")}
    unmasking = federation.unmasking(federation.opening("amber", members, bundles), three)
    answer = federation.ask_shares("amber", unmasking)
    assert_refused(answer, FORBIDDEN, "3 sites survived", "takes 4")
