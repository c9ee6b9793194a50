"""How much a run sends and receives."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Traffic:
    """How much was sent to the sites and came from them, all together, without any framing."""

    sent_bytes: int = 0
    received_bytes: int = 0

    def since(self, before: "Traffic") -> "Traffic":
        """Return what was added after an earlier moment."""
        return Traffic(
            self.sent_bytes - before.sent_bytes, self.received_bytes - before.received_bytes
        )
