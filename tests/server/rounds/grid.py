"""Flower's grid in this process: every node's ClientApp answers as soon as it is asked.

Nothing is started and nothing is serialised; whatever else Flower's engines do is seen here too: an
app that raises becomes an error reply that names no node.
"""

from collections.abc import Iterable, Sequence
from uuid import uuid4

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

FIRST_NODE = 100  # the number of the first node; the others follow


class GridInThisProcess(Grid):
    """Runs each node's ClientApp as soon as a message for it is pushed; None never answers."""

    def __init__(self, apps: Sequence[ClientApp | None]) -> None:
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
        self._apps = {FIRST_NODE + number: app for number, app in enumerate(apps)}
        self._replies: dict[str, Message] = {}

    def set_run(self, run: Run) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Run:
        raise NotImplementedError

    def create_message(self, *args: object, **kwargs: object) -> Message:
        raise NotImplementedError

    def send_and_receive(self, *args: object, **kwargs: object) -> Iterable[Message]:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return list(self._apps)

    def get_nodes(self) -> Iterable[NodeInfo]:
        return [NodeInfo(node_id=node) for node in self._apps]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        sent = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = str(uuid4())
            sent.append(message.metadata.message_id)
            node = message.metadata.dst_node_id
            app = self._apps[node]
            if app is not None:
                self._replies[message.metadata.message_id] = self._reply(app, node, message)
        return sent

    def _reply(self, app: ClientApp, node: int, message: Message) -> Message:
        place = {"partition-id": node - FIRST_NODE, "num-partitions": len(self._apps)}
        context = Context(1, node, place, RecordDict(), {})
        try:
            return app(message, context)
        except Exception as error:
            code = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
            reply = Message(Error(code=code, reason=f"Traceback\n  {error}"), reply_to=message)
            # Flower's error replies may come from the SuperLink, not from the node.
            reply.metadata.__dict__["_src_node_id"] = 1
            return reply

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self._replies.pop(i) for i in message_ids if i in self._replies]
