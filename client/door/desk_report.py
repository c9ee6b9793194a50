"""What the trainer says of itself to whoever watches over it at the site.

The connector reads it too, which holds the line to the coordinator: nothing of patients is in it.
"""

from collections.abc import Mapping

from pydantic import AwareDatetime

from common.config.run import Section


class DeskReport(Section):
    """How the trainer stands. It stays at the site."""

    site: str
    task: str
    able: bool  # a request that is permitted would be carried out now
    reasons: tuple[str, ...]  # why not
    is_paused: bool
    last_round: Mapping[str, int]  # the latest training answered, per run
    waiting: tuple[str, ...]  # digests of manifests that wait for a person
    busy_since: AwareDatetime | None
