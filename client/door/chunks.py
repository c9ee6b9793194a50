"""Messages of any agreed size through a stream of small parts, the size announced first."""

from collections.abc import Iterable, Iterator

from client.door.site_pb2 import Chunk
from common.errors import WireError

CHUNK_BYTES = 2**20


class TooLargeError(WireError):
    """A message is larger than the site takes: raise limits.request_mb, or use a smaller model."""


def split(content: bytes) -> Iterator[Chunk]:
    """Yield a message in parts."""
    yield Chunk(total_bytes=len(content))
    for start in range(0, len(content), CHUNK_BYTES):
        yield Chunk(data=content[start : start + CHUNK_BYTES])


def joined(chunks: Iterable[Chunk], *, most_mb: int) -> bytes:
    """Return the message that parts make up.

    Raises TooLargeError before anything beyond the limit is kept, WireError when the parts are
    not as many bytes as were announced.
    """
    announced: int | None = None
    parts: list[bytes] = []
    received = 0
    for chunk in chunks:
        if announced is None:
            announced = _announced(chunk, most_mb)
            continue
        if chunk.WhichOneof("part") != "data":
            raise WireError("a message in parts: expected data after the size.")
        received += len(chunk.data)
        if received > announced:
            raise WireError(f"a message in parts: more came than the {announced} bytes announced.")
        parts.append(chunk.data)
    if announced is None or received != announced:
        raise WireError(f"a message in parts: {received} of {announced or 0} bytes came.")
    return b"".join(parts)


def _announced(chunk: Chunk, most_mb: int) -> int:
    if chunk.WhichOneof("part") != "total_bytes":
        raise WireError("a message in parts: expected its size first.")
    if chunk.total_bytes > most_mb * 2**20:
        raise TooLargeError(
            f"a message of {chunk.total_bytes / 2**20:.1f} MB; at most {most_mb} MB are taken."
        )
    return chunk.total_bytes
