"""Statements have one form, one order, and signatures for one purpose."""

import pytest

from common.errors import TrustError, WireError
from common.messages.signing import PrivateKey
from common.secure_sum.statements import (
    MemberKey,
    MemberList,
    RoundKey,
    as_text,
    parsed,
    shares_digest,
    signed_member_key,
    signed_round_key,
    verify_member_key,
    verify_round_key,
)

KEY = PrivateKey.new()
X25519 = "A" * 43 + "="


def member(site: str) -> MemberKey:
    return signed_member_key(run="r", site=site, task="chestx", letter_key=X25519, key=KEY)


def round_key() -> RoundKey:
    return signed_round_key(
        run="r",
        server_round=2,
        site="north",
        task="chestx",
        mask_key=X25519,
        members_digest="0" * 64,
        shares={"valley": "AAAA"},
        key=KEY,
    )


def test_statements_come_back_as_they_were_written() -> None:
    members = MemberList(members=(member("coast"), member("north")))
    assert parsed(as_text(members), MemberList) == members
    assert as_text(parsed(as_text(members), MemberList)) == as_text(members)


@pytest.mark.parametrize("sites", [("north", "coast"), ("coast", "coast")])
def test_sites_stand_in_order_and_once(sites: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="by name, each once"):
        MemberList(members=tuple(member(site) for site in sites))


def test_what_cannot_be_read_is_named() -> None:
    with pytest.raises(WireError, match="MemberList: members"):
        parsed('{"members": [{"run": "r"}]}', MemberList)
    with pytest.raises(WireError, match="MemberKey: letter_key"):
        parsed(as_text(member("north")).replace(X25519, "short"), MemberKey)


def test_signatures_hold_for_what_was_signed_and_for_that_alone() -> None:
    verify_member_key(member("north"), KEY.public)
    verify_round_key(round_key(), KEY.public)
    for changes in ({"run": "s"}, {"site": "coast"}, {"task": "retina"}):
        with pytest.raises(TrustError):
            verify_member_key(member("north").model_copy(update=changes), KEY.public)
    for changes in ({"server_round": 3}, {"members_digest": "1" * 64}, {"shares_digest": "1" * 64}):
        with pytest.raises(TrustError):
            verify_round_key(round_key().model_copy(update=changes), KEY.public)
    with pytest.raises(TrustError):
        verify_member_key(member("north"), PrivateKey.new().public)


def test_a_round_key_names_its_letters_and_a_list_its_members() -> None:
    assert round_key().shares_digest == shares_digest({"valley": "AAAA"})
    both = MemberList(members=(member("coast"), member("north")))
    assert both.digest != MemberList(members=(member("north"),)).digest
