"""What is demanded of a masked update, which nobody can look into."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from common.errors import FoveaError
from common.messages.kinds import NOT_SECURE, MaskedUpdate
from common.messages.signing import PublicKey
from common.secure_sum.layout import Layout, layouts
from common.secure_sum.statements import MaskedNote, as_text, parsed
from server.exchange.site_config import told
from server.rounds.secure.contributions import believed
from server.rounds.secure.kept import KeptFile, OpenedRound


@dataclass(frozen=True)
class OneRound:
    opened: OpenedRound
    update: MaskedUpdate  # of cape
    key: PublicKey
    scales: dict[str, Layout]


@pytest.fixture(scope="module")
def one_round(world: Callable[..., Any]) -> OneRound:
    """A round in which every site has masked, and what one of them sent."""
    made, sent = world(), []

    def watch(answer: object) -> object:
        if isinstance(answer, MaskedUpdate) and answer.site == "cape":
            sent.append(answer)
        return answer

    made.exchange.alter = watch
    made.round()
    opened = KeptFile(made.path, run="run").read()
    assert opened is not None
    shapes = {name: array.shape for name, array in made.model.items()}
    scales = layouts(told(made.config), shapes, task="chestx")
    return OneRound(opened, sent[0], made.sites["cape"].key.public, scales)


def forged_signature(answer: MaskedUpdate) -> MaskedUpdate:
    note = parsed(answer.secure_json, MaskedNote)
    forged = note.model_copy(update={"signature": "A" * 86 + "=="})
    return replace(answer, secure_json=as_text(forged))


def other_roster(answer: MaskedUpdate) -> MaskedUpdate:
    note = parsed(answer.secure_json, MaskedNote)
    return replace(answer, secure_json=as_text(note.model_copy(update={"roster_digest": "0" * 64})))


def short(answer: MaskedUpdate) -> MaskedUpdate:
    return replace(answer, masked={g: v[:-1] for g, v in answer.masked.items()})


def without_trunk(answer: MaskedUpdate) -> MaskedUpdate:
    return replace(answer, masked={g: v for g, v in answer.masked.items() if g != "trunk"})


LIES: dict[str, tuple[Callable[[MaskedUpdate], MaskedUpdate], str]] = {
    "of another round": (lambda a: replace(a, server_round=7), "it answers round 7 of run run"),
    "of another task": (lambda a: replace(a, task="retina"), "task is 'retina', its key says"),
    "forged signature": (forged_signature, "the signature is not of the pinned key"),
    "for other keys": (other_roster, "it was masked for other members or keys"),
    "too short": (short, "has shape"),
    "a sum too few": (without_trunk, "the sum of trunk is missing"),
    "no note": (lambda a: replace(a, secure_json=NOT_SECURE), "MaskedNote"),
}


def test_what_a_site_sent_for_this_round_is_believed(one_round: OneRound) -> None:
    found = believed(one_round.update, one_round.opened, key=one_round.key, scales=one_round.scales)

    assert found.update is one_round.update
    assert found.note.next is not None


@pytest.mark.parametrize("lie", LIES)
def test_what_is_not_of_the_round_or_the_site_is_refused(one_round: OneRound, lie: str) -> None:
    change, reason = LIES[lie]

    with pytest.raises(FoveaError, match=reason):
        believed(
            change(one_round.update),
            one_round.opened,
            key=one_round.key,
            scales=one_round.scales,
        )
