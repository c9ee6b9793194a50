"""As much of HTTP/2 (RFC 9113) and gRPC's framing as it takes to account for every byte of one.

Nothing is skipped: a frame of an unknown kind, a flag or padding that gRPC does not use, or bytes
after the last frame are errors. Header blocks are returned as they are; their text is not read.
"""

import struct
from collections import defaultdict
from dataclasses import dataclass, field

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # section 3.4, from the client only

DATA, HEADERS, RESET, SETTINGS, PING, GO_AWAY, WINDOW = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS = 0x1, 0x4  # flags; on SETTINGS and PING the first means "received"

_HEADER = struct.Struct(">HBBBI")  # length in 16 + 8 bits, type, flags, stream
_MESSAGE = struct.Struct(">BI")  # compressed or not, length


@dataclass(frozen=True)
class Frame:
    """One frame, section 4.1."""

    kind: int
    flags: int
    stream: int
    payload: bytes


@dataclass
class Spoken:
    """All that one side of a connection said."""

    messages: dict[int, list[bytes]] = field(default_factory=lambda: defaultdict(list))
    header_bytes: int = 0
    message_bytes: int = 0  # with five bytes before each
    control_bytes: int = 0
    frame_bytes: int = 0  # nine before each frame's payload
    pings: list[bytes] = field(default_factory=list)
    farewells: list[bytes] = field(default_factory=list)

    @property
    def explained(self) -> int:
        """How many bytes have a meaning."""
        return self.header_bytes + self.message_bytes + self.control_bytes + self.frame_bytes


def frames_of(content: bytes) -> list[Frame]:
    """Return the frames that bytes are made of. Raises ValueError for anything else."""
    frames, place = [], 0
    while place < len(content):
        high, low, kind, flags, stream = _HEADER.unpack_from(content, place)
        length = high << 8 | low
        place += _HEADER.size
        payload = content[place : place + length]
        if len(payload) != length:
            raise ValueError(f"a frame of {length} bytes, of which {len(payload)} came")
        frames.append(Frame(kind, flags, stream, payload))
        place += length
    return frames


def spoken(content: bytes) -> Spoken:
    """Return what a trainer's side of a connection said. Raises ValueError for what is not gRPC."""
    found = Spoken()
    data: dict[int, bytearray] = defaultdict(bytearray)
    for frame in frames_of(content):
        found.frame_bytes += _HEADER.size
        if frame.kind == DATA:
            _check(frame, flags={0, END_STREAM})
            data[frame.stream] += frame.payload
        elif frame.kind == HEADERS:
            _check(frame, flags={END_HEADERS, END_HEADERS | END_STREAM})
            found.header_bytes += len(frame.payload)
        else:
            _read_control(frame, found)
            found.control_bytes += len(frame.payload)
    for stream, content_of in data.items():
        found.messages[stream] = _messages(bytes(content_of))
        found.message_bytes += len(content_of)
    return found


def _read_control(frame: Frame, found: Spoken) -> None:
    lengths = {RESET: 4, PING: 8, WINDOW: 4}
    if frame.kind == SETTINGS:
        _check(frame, flags={0, END_STREAM})
        if len(frame.payload) % 6 or frame.stream:
            raise ValueError("settings that are none")
    elif frame.kind == GO_AWAY:
        _check(frame, flags={0})
        found.farewells.append(frame.payload[8:])
    elif frame.kind in lengths:
        _check(frame, flags={0, END_STREAM} if frame.kind == PING else {0})
        if len(frame.payload) != lengths[frame.kind]:
            raise ValueError(f"a frame of kind {frame.kind} with {len(frame.payload)} bytes")
        if frame.kind == PING:
            found.pings.append(frame.payload)
    else:
        raise ValueError(f"a frame of kind {frame.kind}, which gRPC does not send")


def _check(frame: Frame, *, flags: set[int]) -> None:
    if frame.flags not in flags:
        raise ValueError(f"a frame of kind {frame.kind} with flags {frame.flags:#x}")


def _messages(content: bytes) -> list[bytes]:
    messages, place = [], 0
    while place < len(content):
        is_compressed, length = _MESSAGE.unpack_from(content, place)
        if is_compressed:
            raise ValueError("a compressed message")
        place += _MESSAGE.size
        message = content[place : place + length]
        if len(message) != length:
            raise ValueError(f"a message of {length} bytes, of which {len(message)} came")
        messages.append(message)
        place += length
    return messages
