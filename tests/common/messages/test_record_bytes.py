"""The size that is told of a message, held against the bytes that travel."""

import numpy as np
from flwr.app import ConfigRecord, RecordDict

from common.messages.kinds import Update
from common.messages.record_bytes import payload_bytes, to_bytes
from common.messages.wire import encode


def update(numbers: int) -> Update:
    return Update(
        run="run",
        server_round=1,
        site="north",
        task="chestx",
        num_examples=10,
        num_steps=2,
        metrics={"total": 0.5},
        evaluation={},
        arrays={"trunk.a": np.ones(numbers, dtype=np.float32)},
    )


def test_the_payload_is_nearly_all_that_travels() -> None:
    content = encode(update(50_000))
    framed = len(to_bytes(content))
    assert 200_000 < payload_bytes(content) <= framed
    assert framed - payload_bytes(content) < 1_000


def test_every_number_more_counts() -> None:
    smaller, larger = (payload_bytes(encode(update(numbers))) for numbers in (1_000, 1_500))
    assert larger - smaller == 4 * 500


def test_texts_and_lists_count() -> None:
    content = RecordDict({"note": ConfigRecord({"text": "abcd", "values": [1, 2, 3]})})
    assert payload_bytes(content) == len("text") + 4 + len("values") + 3 * 8
