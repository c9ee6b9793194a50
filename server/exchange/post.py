"""The coordinator's post: letters to nodes over Flower's grid, and the replies to them.

A reply belongs to the message it replies to, not to the node it seems to come from: an error reply
may be the SuperLink's own.
"""

import logging
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from flwr.app import Message
from flwr.serverapp import Grid

from common.messages.kinds import Release, Request
from common.messages.record_bytes import payload_bytes
from server.exchange.sealing import Sealing
from server.exchange.traffic import Traffic

log = logging.getLogger(__name__)

TTL_MARGIN_S = 60.0  # a message outlives our patience, so that lateness is told from failure
MESSAGES_AT_ONCE = 8  # each holds a model while it is handed over


@dataclass(frozen=True, eq=False)
class Letter:
    """What one site is asked; it may be sent more than once."""

    site: str
    node: int
    request: Request
    message_type: str  # Flower's
    kind: type[Release]  # of the answer
    is_named: bool = True  # False: `site` is the node's number, it is to say which site it is


@dataclass(frozen=True)
class _Stray:
    """A message whose answer is no longer wanted."""

    site: str
    node: int
    until: float  # monotonic; Flower forgets it then
    is_late: bool  # False: nothing is wrong with an answer, there were enough


class Post:
    """Sends letters and collects what comes back, until told to forget them."""

    def __init__(self, grid: Grid, sealing: Sealing) -> None:
        """Speak over a grid; ``sealing`` closes what is sent."""
        self._grid = grid
        self._sealing = sealing
        self._waiting: dict[str, tuple[Letter, float]] = {}  # message → letter, when it expires
        self._strays: dict[str, _Stray] = {}
        self.late_replies = 0  # that came for letters already answered or given up
        self.traffic = Traffic()

    def present(self) -> dict[int, str]:
        """Return the nodes that are connected, each with when it last connected anew."""
        return {node.node_id: node.last_activated_at for node in self._grid.get_nodes()}

    def send(self, letters: Sequence[Letter], *, timeout_s: float) -> tuple[Letter, ...]:
        """Send letters; return those that Flower took."""
        taken: list[Letter] = []
        for start in range(0, len(letters), MESSAGES_AT_ONCE):
            taken += self._send(letters[start : start + MESSAGES_AT_ONCE], timeout_s + TTL_MARGIN_S)
        return tuple(taken)

    def collect(self, present: Collection[int]) -> list[tuple[Letter, Message]]:
        """Take what has come for the letters that are waited for, in the order it came.

        Only for nodes that are connected: asked for an absent node's reply, Flower would give an
        error and throw away what the node may have sent before it left.
        """
        now = time.monotonic()
        self._strays = {m: stray for m, stray in self._strays.items() if now < stray.until}
        wanted = [m for m, (letter, _) in self._waiting.items() if letter.node in present]
        wanted += [m for m, stray in self._strays.items() if stray.node in present]
        came = []
        for reply in self._grid.pull_messages(wanted) if wanted else ():
            if not reply.has_error():
                came_bytes = self.traffic.received_bytes + payload_bytes(reply.content)
                self.traffic = replace(self.traffic, received_bytes=came_bytes)
            message = reply.metadata.reply_to_message_id
            if message in self._waiting:
                came.append((self._waiting.pop(message)[0], reply))
            else:
                self._count_late(self._strays.pop(message, None), reply)
        return came

    def awaits(self, letter: Letter) -> bool:
        """Say whether an answer to some copy of this letter may still come."""
        return any(known is letter for known, _ in self._waiting.values())

    def forget(self, letter: Letter, *, as_late: bool = True) -> None:
        """Wait no longer for this letter; what still comes is only counted.

        Not even that where it would not be ``as_late``: the letter itself asked for no more.
        """
        for message, (known, until) in list(self._waiting.items()):
            if known is letter:
                del self._waiting[message]
                self._strays[message] = _Stray(letter.site, letter.node, until, as_late)

    def _send(self, letters: Sequence[Letter], ttl_s: float) -> list[Letter]:
        contents = [self._sealing.close(letter.request, site=letter.site) for letter in letters]
        sizes = [payload_bytes(content) for content in contents]
        messages = [
            Message(
                content,
                letter.node,
                letter.message_type,
                ttl=ttl_s,
            )
            for content, letter in zip(contents, letters, strict=True)
        ]
        del contents
        # No message is kept here: the grid holds what it still needs, and models are large.
        stored = {message for message in self._grid.push_messages(messages) if message}
        until, taken = time.monotonic() + ttl_s, []
        for letter, message, size in zip(letters, messages, sizes, strict=True):
            if message.metadata.message_id in stored:
                sent_bytes = self.traffic.sent_bytes + size
                self.traffic = replace(self.traffic, sent_bytes=sent_bytes)
                self._waiting[message.metadata.message_id] = (letter, until)
                taken.append(letter)
        return taken

    def _count_late(self, stray: _Stray | None, reply: Message) -> None:
        if reply.has_error() or (stray is not None and not stray.is_late):
            return  # an error is Flower's own, of a message whose time was over
        self.late_replies += 1
        log.warning(
            "late or duplicate reply left unused",
            extra={
                "action": "late_reply",
                "site": "unknown" if stray is None else stray.site,
                "late_replies": self.late_replies,
            },
        )
