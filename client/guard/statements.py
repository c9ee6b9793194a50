"""What the notes on a secure sum may hold when they leave a site: one statement, in its one form.

Pure. The letters in a bundle are sealed for other sites, so nobody here can read them: for whom
they are, and that none is longer than 4 kB, is all that can be checked.
"""

from collections.abc import Iterator
from itertools import chain

from common.errors import WireError
from common.messages.kinds import Keys, MaskedUpdate, Shares
from common.secure_sum.statements import (
    Bundle,
    MaskedNote,
    MemberKey,
    OpenedShares,
    StatementT,
    Unmasking,
    as_text,
    parsed,
)

_NOT_IN_FORM = "a note on the secure sum holds something that has no place there"


def reasons_against_keys(answer: Keys, *, sites: frozenset[str]) -> Iterator[str]:
    """Yield why keys must not leave.

    Args:
        answer: A run's key in round 0, a round's bundle else.
        sites: Of the run.
    """
    if answer.server_round == 0:
        member = _in_form(answer.keys_json, MemberKey)
        named = (answer.run, answer.site, answer.task)
        if member is None:
            yield _NOT_IN_FORM
        elif (member.run, member.site, member.task) != named:
            yield "the run's key is in another site's name, or of another run or task"
        return
    bundle = _in_form(answer.keys_json, Bundle)
    if bundle is None:
        yield _NOT_IN_FORM
    else:
        yield from _reasons_against_bundle(answer, bundle, answer.server_round, sites)


def reasons_against_note(answer: MaskedUpdate, *, sites: frozenset[str]) -> Iterator[str]:
    """Yield why what goes with a masked update must not leave."""
    note = _in_form(answer.secure_json, MaskedNote)
    if note is None:
        yield _NOT_IN_FORM
    elif note.next is not None:
        yield from _reasons_against_bundle(answer, note.next, answer.server_round + 1, sites)


def reasons_against_shares(
    answer: Shares, *, asked: str, sites: frozenset[str], groups: frozenset[str]
) -> Iterator[str]:
    """Yield why shares must not leave.

    Of no site may both kinds leave: together they open its update alone. A site holds shares of
    the others' groups too, for all sites of a run open all of its sums.

    Args:
        answer: The shares.
        asked: The Unmasking that they answer, JSON.
        sites: Of the run.
        groups: Of the run.
    """
    shares, unmasking = _in_form(answer.shares_json, OpenedShares), parsed(asked, Unmasking)
    if shares is None:
        yield _NOT_IN_FORM
        return
    survivors, dropped = set(unmasking.survivors), set(unmasking.dropped)
    if survivors & dropped or set(shares.self_seeds) & set(shares.mask_keys):
        yield "shares of both kinds for one site"
    if not set(shares.self_seeds) <= survivors or not set(shares.mask_keys) <= dropped:
        yield "shares for a site that was not asked for"
    if not survivors | dropped <= sites:
        yield "shares for a site that is not in the run"
    if not set(chain.from_iterable(shares.self_seeds.values())) <= groups:
        yield "shares of a group that the run does not have"


def _reasons_against_bundle(
    answer: Keys | MaskedUpdate, bundle: Bundle, server_round: int, sites: frozenset[str]
) -> Iterator[str]:
    key = bundle.key
    expected = (answer.run, server_round, answer.site, answer.task)
    if (key.run, key.server_round, key.site, key.task) != expected:
        yield "the round's key is in another site's name, or of another run, round or task"
    if not set(bundle.shares) <= sites - {answer.site}:
        yield "a letter to a site that is not in the run"


def _in_form(text: str, kind: type[StatementT]) -> StatementT | None:
    """Return a statement in its one form, None where the text is another."""
    try:
        statement = parsed(text, kind)
    except WireError:
        return None
    return statement if as_text(statement) == text else None
