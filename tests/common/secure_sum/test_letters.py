"""A letter opens for its recipient, in its place, unaltered; and for nobody and nowhere else."""

import base64

import pytest

from common.errors import TrustError
from common.secure_sum.letters import Letter, LetterPlace, opened, sealed
from common.secure_sum.masks import agreed, new_key, public_half

LETTER = Letter(mask_key="1f", self_seeds={"trunk": "ab", "chestx": "0"})
PLACE = LetterPlace(
    run="r", server_round=2, sender="north", recipient="valley", members_digest="0" * 64
)
NORTH, VALLEY = new_key(), new_key()


def test_sender_and_recipient_read_the_same() -> None:
    text = sealed(LETTER, agreed(NORTH, public_half(VALLEY)), PLACE)
    assert opened(text, agreed(VALLEY, public_half(NORTH)), PLACE) == LETTER


@pytest.mark.parametrize(
    "change",
    [
        {"run": "s"},
        {"server_round": 3},
        {"sender": "coast"},
        {"recipient": "coast"},
        {"members_digest": "1" * 64},
    ],
)
def test_a_letter_for_another_place_does_not_open(change: dict[str, str | int]) -> None:
    agreement = agreed(NORTH, public_half(VALLEY))
    text = sealed(LETTER, agreement, PLACE)
    with pytest.raises(TrustError, match="cannot be opened"):
        opened(text, agreement, PLACE.model_copy(update=change))


def test_an_altered_or_foreign_letter_does_not_open() -> None:
    agreement = agreed(NORTH, public_half(VALLEY))
    raw = base64.b64decode(sealed(LETTER, agreement, PLACE))
    altered = base64.b64encode(raw[:-1] + bytes([raw[-1] ^ 1])).decode()
    for text, secret in ((altered, agreement), (base64.b64encode(raw).decode(), new_key())):
        with pytest.raises(TrustError, match="letter of north"):
            opened(text, secret, PLACE)
    for text in ("AAAA", base64.b64encode(b"x" * 12).decode()):
        with pytest.raises(TrustError, match="letter of north"):
            opened(text, agreement, PLACE)


def test_equal_letters_are_sealed_differently() -> None:
    agreement = agreed(NORTH, public_half(VALLEY))
    assert sealed(LETTER, agreement, PLACE) != sealed(LETTER, agreement, PLACE)
