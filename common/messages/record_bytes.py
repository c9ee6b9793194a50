"""Flower records ⇄ bytes, for the door between connector and trainer. No pickle on the way."""

from flwr.app import Array, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as RecordDictMessage
from google.protobuf.message import DecodeError

from common.errors import WireError


def to_bytes(content: RecordDict) -> bytes:
    """Return records as Flower's own protobuf message."""
    return bytes(recorddict_to_proto(content).SerializeToString())


def payload_bytes(content: RecordDict) -> int:
    """Return the size of what records hold: arrays, texts and numbers, without any framing."""
    size = 0
    for record in content.values():
        for key, value in record.items():
            size += len(key)
            if isinstance(value, Array):
                size += len(value.data)
            elif isinstance(value, str | bytes):
                size += len(value)
            elif isinstance(value, list):
                size += 8 * len(value)
            else:
                size += 8
    return size


def from_bytes(content: bytes) -> RecordDict:
    """Return the records that bytes stand for.

    Raises WireError when they are no such message, or not in the form that :func:`to_bytes` gives
    it: fields that Flower does not know would otherwise travel unseen.
    """
    message = RecordDictMessage()
    try:
        message.ParseFromString(content)
        records = recorddict_from_proto(message)
    except (DecodeError, ValueError, TypeError, KeyError) as error:
        raise WireError(f"the message cannot be read: {type(error).__name__}.") from error
    if to_bytes(records) != content:
        raise WireError("the message is not in the form that Fovea writes: bytes have no meaning.")
    return records
