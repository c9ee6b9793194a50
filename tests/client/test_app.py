"""The ClientApp of a simulated site: what goes wrong is told in the site's own name."""

import pytest
from flwr.app import Context, Message, MessageType, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from client.app import client_app
from common.errors import ConfigError, DataError, FoveaError, LedgerError
from common.messages.kinds import QueryRequest, Refusal, RefusalCode, SiteCard
from common.messages.wire import decode_answer, encode


class BrokenSite:
    """Cannot even say who it is."""

    def __init__(self, error: FoveaError) -> None:
        self.error = error

    def describe(self) -> None:
        raise self.error


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            LedgerError("/srv/sites/north/ledger.jsonl cannot be written (OSError)."),
            "its ledger cannot be used, and nothing leaves without it; the site's log says why",
        ),
        (
            DataError("/srv/pictures/mueller.png, row 7: is no picture."),
            "its shard cannot be used; the site's log says why",
        ),
        (ConfigError("num_threads must be at least 1."), "num_threads must be at least 1."),
    ],
)
def test_what_fails_is_refused_by_name_without_files_and_rows(error: FoveaError, told: str) -> None:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    app = client_app(lambda _: ("north", BrokenSite(error)))
    asked = Message(encode(QueryRequest(run="r")), dst_node_id=2, message_type=MessageType.QUERY)

    reply = app(asked, Context(1, 2, {}, RecordDict(), {}))

    answer = decode_answer(reply.content, SiteCard)
    assert isinstance(answer, Refusal)
    assert (answer.site, answer.code, answer.reason) == ("north", RefusalCode.UNABLE, told)
