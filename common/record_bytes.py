"""Flower records ⇄ bytes, for the door between connector and trainer. No pickle on the way."""

from flwr.app import RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as RecordDictMessage
from google.protobuf.message import DecodeError

from common.errors import WireError


def to_bytes(content: RecordDict) -> bytes:
    """Return records as Flower's own protobuf message."""
    return bytes(recorddict_to_proto(content).SerializeToString())


def from_bytes(content: bytes) -> RecordDict:
    """Return the records that bytes stand for. Raises WireError when they are no such message."""
    message = RecordDictMessage()
    try:
        message.ParseFromString(content)
        return recorddict_from_proto(message)
    except (DecodeError, ValueError, TypeError, KeyError) as error:
        raise WireError(f"the message cannot be read: {type(error).__name__}.") from error
