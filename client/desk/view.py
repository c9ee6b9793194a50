"""How a site stands to a request at one moment: what its people decided, and what it holds.

Looked at anew for every step of a request that may take hours.
"""

from collections.abc import Callable
from dataclasses import dataclass

from client.consent.policy import Policy, Standing
from client.consent.policy_file import read_policy
from client.desk.case import Case
from client.desk.permission import Permission
from client.home.folders import SiteHome
from client.home.own_shard import OpenShard, OwnShard
from client.trust.signed_request import Denial
from common.messages.kinds import RefusalCode
from common.messages.manifest import Manifest


@dataclass(frozen=True)
class View:
    """How the site stands to a request."""

    policy: Policy
    standing: Standing
    shard: OpenShard
    objection: Denial | None


class Viewer:
    """Reads policy, decisions and shard."""

    def __init__(
        self,
        home: SiteHome,
        *,
        shard: OwnShard,
        permission: Permission,
        believe: Callable[[Case], Manifest | Denial],
    ) -> None:
        """Take where to look; ``believe`` verifies a request anew."""
        self._home, self._shard, self._permission = home, shard, permission
        self._believe = believe

    def look(
        self, case: Case, manifest: Manifest, *, rounds_trained: int, spends: bool = False
    ) -> View:
        """Return how things stand now.

        Args:
            case: What is asked.
            manifest: Of its run, verified.
            rounds_trained: Of this run, without the round that is asked for.
            spends: Whether carrying it out spends of the privacy budget, where the run has noise;
                a repeat of what was stored does not.
        """
        policy, shard = read_policy(self._home.policy_file), self._shard.current()
        standing = self._permission.standing(
            case,
            manifest,
            policy,
            shard.counts,
            rounds_trained=rounds_trained,
            spends=spends,
        )
        no = self._permission.objection(case, manifest, policy, standing)
        return View(policy, standing, shard, no)

    def withdrawn(self, case: Case, before: View, after: View) -> Denial | None:
        """Return why an answer must not leave although the request was permitted.

        A pause, or hours that end, let a round that was begun end.
        """
        manifest = self._believe(case)
        if isinstance(manifest, Denial):
            return manifest
        if after.objection is not None and after.objection.code is not RefusalCode.PAUSED:
            return after.objection
        if after.shard is not before.shard:
            reason = "its pictures were prepared anew while it worked: they must be asked again"
            return Denial(RefusalCode.UNAVAILABLE, reason)
        return None
