"""What whoever runs the coordinator could read: everything that goes through its SuperLink.

A trigger in the SuperLink's database copies each object as it is stored; Flower itself deletes what
has been delivered.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from flwr.app import Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_object_type_from_object_content
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from common.messages.envelope import SignedRequest, decode_signed_request
from common.messages.kinds import Answer, Evaluation, Keys, MaskedUpdate, Shares, SiteCard, Update
from common.messages.wire import decode_answer

_ANSWERS: dict[str, Any] = {
    "site-card": SiteCard,
    "update": Update,
    "masked-update": MaskedUpdate,
    "evaluation": Evaluation,
    "keys": Keys,
    "shares": Shares,
    "refusal": SiteCard,  # may stand in the place of any answer
}

_TRIGGER = """
CREATE TABLE tapped (object_id TEXT PRIMARY KEY, content BLOB);
CREATE TRIGGER tap AFTER UPDATE OF content ON objects WHEN length(new.content) > 0 BEGIN
    INSERT OR IGNORE INTO tapped VALUES (new.object_id, new.content);
END;
"""
_BUSY_S = 30.0  # the SuperLink writes to it too


class Tap:
    """Reads along from the moment it is made; the SuperLink's tables must be there."""

    def __init__(self, database: Path) -> None:
        self._database = database
        with closing(self._connected()) as connected:
            connected.executescript(_TRIGGER)

    def messages(self) -> list[SignedRequest | Answer]:
        """Return each different message that went through, in no order."""
        with closing(self._connected()) as database:
            objects = dict(database.execute("SELECT object_id, content FROM tapped"))
        found = []
        for name, content in objects.items():
            if get_object_type_from_object_content(content) != Message.__qualname__:
                continue
            message = inflate_object_from_contents(name, objects, keep_object_contents=True)
            assert isinstance(message, Message)
            if message.has_content():
                found.append(_read(message.content))
        return found

    def _connected(self) -> sqlite3.Connection:
        return sqlite3.connect(self._database, timeout=_BUSY_S)


def _read(content: RecordDict) -> SignedRequest | Answer:
    kind = str(content.config_records["fovea"]["kind"])
    if kind not in _ANSWERS:
        return decode_signed_request(content)
    bare = RecordDict({name: part for name, part in content.items() if name != "seal"})
    answer: Answer = decode_answer(bare, _ANSWERS[kind])
    return answer
