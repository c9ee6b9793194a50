"""The message that is being answered, on disk: a connector that was killed goes on with it.

Flower hands a message out once. Without this a site whose connector dies while its trainer
works would be missed until the round's deadline, though its answer is there.
"""

import logging
from pathlib import Path

from google.protobuf.message import DecodeError
from pydantic import Base64Bytes, ValidationError

from client.network.fleet import Delivery
from common.config.run import Section

log = logging.getLogger(__name__)

MAX_TRIES = 3  # a message that ends the process each time is not for this site


class _Kept(Section):
    node_id: int
    tries: int
    message: Base64Bytes
    tree: Base64Bytes


class Pending:
    """A file that holds one message without its content, or is not there."""

    def __init__(self, path: Path) -> None:
        """Take the file's place, in the connector's own folder."""
        self._path = path

    def keep(self, delivery: Delivery, *, node_id: int, tries: int = 1) -> None:
        """Write the message down. Where the disk is full it is answered all the same."""
        message, tree = delivery.to_bytes()
        # Not through the constructor: it expects Base64 text.
        kept = _Kept.model_construct(node_id=node_id, tries=tries, message=message, tree=tree)
        temporary = self._path.with_suffix(".new")
        try:
            temporary.write_text(kept.model_dump_json(), encoding="utf-8")
            temporary.replace(self._path)
        except OSError as error:
            log.warning(
                "the message in work cannot be written down: %s",
                error.strerror,
                extra={"action": "pending_unwritable"},
            )

    def left(self, *, node_id: int) -> tuple[Delivery, int] | None:
        """Return a message that this node did not finish, and how often it was tried."""
        try:
            kept = _Kept.model_validate_json(self._path.read_bytes())
            delivery = Delivery.from_bytes(kept.message, kept.tree)
        except FileNotFoundError:
            return None
        except (OSError, ValidationError, DecodeError, ValueError) as error:
            log.warning(
                "the message in work cannot be read: %s",
                type(error).__name__,
                extra={"action": "pending_unreadable"},
            )
            return None
        return (delivery, kept.tries) if kept.node_id == node_id else None

    def clear(self) -> None:
        """Forget it: it was answered, or nobody waits for an answer."""
        self._path.unlink(missing_ok=True)
