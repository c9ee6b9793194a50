"""The one seam to Flower's private names at a site: its authenticated line to the SuperLink.

Flower's own loop exits the process on a refusal and retries without an end that could be asked
for, so only its HTTP client, heartbeat and object transfer are used here. Flower is pinned
exactly; this file is the only one of the site to change when it moves.
"""

import logging
import os
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

# Flower reads these when it is imported.
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"

from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Message, MessageType, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL, HEARTBEAT_PATIENCE
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fab_pb2 import GetFabRequest
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ObjectTree,
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.heartbeat import HeartbeatSender
from flwr.supercore.inflatable.inflatable_object import (
    UnexpectedObjectContentError,
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectPushError,
    ObjectUnavailableError,
    inflate_object_from_contents,
    pull_objects,
    push_objects,
)
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.client import ProtobufClientInterceptor
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from client.network.line import CertificateReader, FleetError, Line, Trouble, Watcher
from common.errors import WireError

log = logging.getLogger(__name__)

OFFLINE_AFTER_S = HEARTBEAT_DEFAULT_INTERVAL * HEARTBEAT_PATIENCE  # without a heartbeat
MAX_UPLOADS = 5  # of one answer, while the line keeps breaking
MAX_CONTENT_BYTES = 2000 * 2**20  # protobuf ends at 2 GiB; the trainer's own limit is lower


@dataclass(frozen=True, eq=False)
class Delivery:
    """A message that the SuperLink has handed out; its content is still there."""

    message: Message
    tree: ObjectTree

    @property
    def run_id(self) -> int:
        """Flower's number of the run."""
        return int(self.message.metadata.run_id)

    @property
    def message_id(self) -> str:
        """Flower's name of the message."""
        return str(self.message.metadata.message_id)

    @property
    def is_training(self) -> bool:
        """Whether it asks for a round's training."""
        return bool(self.message.metadata.message_type.split(".")[0] == MessageType.TRAIN)

    @property
    def expires_at(self) -> float:
        """Seconds of the epoch after which nobody takes an answer."""
        return float(self.message.metadata.created_at + self.message.metadata.ttl)

    def to_bytes(self) -> tuple[bytes, bytes]:
        """Return message and object tree for a file."""
        return message_to_proto(self.message).SerializeToString(), self.tree.SerializeToString()

    @staticmethod
    def from_bytes(message: bytes, tree: bytes) -> "Delivery":
        """Return what ``to_bytes`` has written. Raises google.protobuf's DecodeError."""
        return Delivery(
            message_from_proto(MessageProto.FromString(message)), ObjectTree.FromString(tree)
        )


@dataclass(frozen=True)
class Former:
    """This site's connection before this one, if its process was killed."""

    node_id: int
    seconds_ago: float  # since the coordinator last answered; infinite: it was left in order


class Fleet:
    """One connection, from activation to deactivation. Made by ``connect``."""

    def __init__(self, client: FleetHttpClient, line: Line) -> None:
        """Take the HTTP client; no node is active yet."""
        self._client = client
        self._line = line
        self._node = Node(node_id=0)

    @property
    def node_id(self) -> int:
        """The number under which the coordinator has registered this site."""
        return int(self._node.node_id)

    def activate(self, key: ec.EllipticCurvePrivateKey) -> None:
        """Come online. Raises FleetError where the coordinator refuses."""
        request = ActivateNodeRequest(
            public_key=public_key_to_bytes(key.public_key()),
            heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL,
        )
        self._node = Node(node_id=self._line.call(self._client.ActivateNode, request).node_id)

    def resume(self, node_id: int) -> None:
        """Go on with a connection that this site had seconds ago and lost with its process.

        Flower would refuse to activate the node until that connection counts as lost.
        """
        self._node = Node(node_id=node_id)
        self._line.call(self._client.SendNodeHeartbeat, self._heartbeat_request())

    def is_registered(self, node_id: int) -> bool:
        """Whether the coordinator still knows this node; changes nothing there."""
        try:
            request = GetRunRequest(node=Node(node_id=node_id), run_id=0)
            self._line.call(self._client.GetRun, request)
        except FleetError as error:
            return error.trouble != Trouble.UNKNOWN_NODE
        return True

    def deactivate(self) -> None:
        """Go offline at once, so that nobody waits for this site. Never raises."""
        if self._line.is_down or self._line.is_unknown:
            return
        try:
            self._line.once(
                self._client.DeactivateNode, DeactivateNodeRequest(node_id=self.node_id)
            )
        except FleetError as error:
            log.info("left without a word: %s", error, extra={"action": "left_without_a_word"})

    def beat(self) -> bool:
        """Send one heartbeat; False asks for another try soon."""
        try:
            self._line.once(self._client.SendNodeHeartbeat, self._heartbeat_request())
        except FleetError as error:
            return error.trouble == Trouble.UNKNOWN_NODE  # of no use; ``receive`` ends the line
        return True

    def receive(self) -> Delivery | None:
        """Return the next message for this site, if there is one."""
        if self._line.is_unknown:
            raise FleetError(
                Trouble.UNKNOWN_NODE, "the coordinator no longer knows this site's node."
            )
        came = self._line.call(self._client.PullMessages, PullMessagesRequest(node=self._node))
        if not came.messages_list:
            return None
        return Delivery(message_from_proto(came.messages_list[0]), came.message_object_trees[0])

    def bundle(self, run_id: int) -> bytes:
        """Return the app bundle of a run, as it came."""
        run = self._line.call(
            self._client.GetRun, GetRunRequest(node=self._node, run_id=run_id)
        ).run
        request = GetFabRequest(node=self._node, hash_str=run.fab_hash, run_id=run_id)
        return bytes(self._line.call(self._client.GetFab, request).fab.content)

    def content(self, delivery: Delivery) -> RecordDict:
        """Return a message's records; the SuperLink keeps them until ``confirm``.

        Raises WireError for what is no message, FleetError where the content is gone.
        """
        total = 0
        counting = threading.Lock()

        def pull(object_id: str) -> bytes:
            nonlocal total
            if self._line.stop.is_set():
                raise FleetError(Trouble.STOPPED, "this process was asked to end.")
            request = PullObjectRequest(
                node=self._node, run_id=delivery.run_id, object_id=object_id
            )
            came = self._line.call(self._client.PullObject, request)
            if not came.object_found:
                raise ObjectPullError(object_id, "it is not there.")
            if not came.object_available:
                raise ObjectUnavailableError(object_id)
            with counting:
                total += len(came.object_content)
                if total > MAX_CONTENT_BYTES:
                    raise WireError(f"the message has more than {MAX_CONTENT_BYTES} bytes.")
            return bytes(came.object_content)

        try:
            names = [part.object_id for part in iterate_object_tree(delivery.tree)]
            parts = pull_objects(names, pull)
            self._line.watcher.moved(bytes_in=total, bytes_out=0)
            message = inflate_object_from_contents(delivery.tree.object_id, parts)
        except ObjectPullError as error:
            raise FleetError(Trouble.GONE, f"the message's content is gone: {error}") from error
        # Whatever parts a coordinator chooses to send, they are only ever parsed.
        except (UnexpectedObjectContentError, ValueError, KeyError, TypeError) as error:
            raise WireError(f"the message cannot be read ({type(error).__name__}).") from error
        if not isinstance(message, Message) or not message.has_content():
            raise WireError("the message has no content.")
        return message.content

    def reply(self, delivery: Delivery, content: RecordDict, *, seconds: float) -> bool:
        """Send an answer. Returns False when the coordinator no longer waits for it."""
        reply = Message(content, reply_to=delivery.message)
        reply.metadata.__dict__["_message_id"] = reply.object_id
        with no_object_id_recompute():
            parts = get_all_nested_objects(reply)
            request = PushMessagesRequest(
                node=self._node,
                messages_list=[message_to_proto(remove_content_from_message(reply))],
                message_object_trees=[get_object_tree(reply)],
                clientapp_runtime_list=[seconds],
            )
            for upload in range(1, MAX_UPLOADS + 1):
                accepted = self._line.call(self._client.PushMessages, request)
                wanted = set(accepted.objects_to_push)
                push = partial(self._push, delivery.run_id, accepted.session_id)
                try:
                    push_objects(parts, push, object_ids_to_push=wanted, keep_objects=True)
                except ObjectPushError as error:
                    # After minutes without a line the SuperLink drops a half-sent answer.
                    log.info("sending the answer anew", extra={"action": "upload_anew"})
                    if upload == MAX_UPLOADS:
                        raise FleetError(
                            Trouble.GONE, f"the coordinator dropped the answer {upload} times."
                        ) from error
                else:
                    break
        return bool(wanted) or upload > 1

    def confirm(self, delivery: Delivery) -> None:
        """Let the SuperLink forget a message's content."""
        request = ConfirmMessageReceivedRequest(
            node=self._node, run_id=delivery.run_id, message_object_id=delivery.tree.object_id
        )
        self._line.call(self._client.ConfirmMessageReceived, request)

    def _push(self, run_id: int, session_id: str, object_id: str, content: bytes) -> None:
        request = PushObjectRequest(
            node=self._node,
            run_id=run_id,
            object_id=object_id,
            object_content=content,
            session_id=session_id,
        )
        if not self._line.call(self._client.PushObject, request).stored:
            raise ObjectPushError(object_id, run_id, session_id)
        self._line.watcher.moved(bytes_in=0, bytes_out=len(content))

    def _heartbeat_request(self) -> SendNodeHeartbeatRequest:
        return SendNodeHeartbeatRequest(
            node=self._node, heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL
        )


@contextmanager
def connect(
    *,
    coordinator: str,
    authority: bytes,
    key: ec.EllipticCurvePrivateKey,
    watcher: Watcher,
    stop: threading.Event,
    former: Former | None,
) -> Iterator[Fleet]:
    """Come online with a heartbeat of its own, and go offline at the end.

    Args:
        coordinator: ``host:port``.
        authority: The pinned certificate authority, PEM.
        key: The node's key.
        watcher: Told how the line is.
        stop: When set, nothing is tried a second time.
        former: What is known of this site's connection before this one.

    Raises:
        FleetError: The coordinator refuses, or its certificate is not the authority's.
    """
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.minimum_version = ssl.TLSVersion.TLSv1_2
    tls.load_verify_locations(cadata=authority.decode("ascii"))
    interceptors: list[ProtobufClientInterceptor] = [
        CertificateReader(watcher),
        NodeAuthHttpInterceptor(key, key.public_key()),
    ]
    with FleetHttpClient(f"https://{coordinator}", interceptors=interceptors, verify=tls) as client:
        fleet = Fleet(client, Line(watcher, stop))
        _come_online(fleet, key, former)
        heartbeat = HeartbeatSender(fleet.beat)
        heartbeat.start()
        try:
            yield fleet
        finally:
            if heartbeat.is_running:
                heartbeat.stop()
            fleet.deactivate()


def _come_online(fleet: Fleet, key: ec.EllipticCurvePrivateKey, former: Former | None) -> None:
    if former is not None and former.seconds_ago < OFFLINE_AFTER_S:
        try:
            fleet.resume(former.node_id)
        except FleetError as error:
            if error.trouble != Trouble.UNKNOWN_NODE:
                raise
        else:
            return
    try:
        fleet.activate(key)
    except FleetError as error:
        if error.trouble != Trouble.REFUSED:
            raise
        if former is not None and fleet.is_registered(former.node_id):
            raise FleetError(
                Trouble.STILL_OPEN,
                "an earlier connection of this site still counts as open, which takes up to "
                f"{OFFLINE_AFTER_S} seconds. If it stays so, another machine uses this site's key.",
            ) from error
        raise FleetError(
            Trouble.REFUSED,
            "this site is not admitted by the coordinator. Send it admission.json, or ask whether "
            "the site was retired.",
        ) from error
