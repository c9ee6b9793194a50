"""How far a run is, as events in the log: for runs that nobody watches at a terminal."""

import logging
from collections.abc import Sequence

from server.exchange.participation import Outcome, Reply

log = logging.getLogger(__name__)


def log_preparation(name: str, done: int, total: int) -> None:
    """Say when the pictures of one shard are read."""
    if done == total:
        extra = {"action": "pictures_read", "shard": name, "pictures": total}
        log.info("pictures read", extra=extra)


class LoggedProgress:
    """One event per step of a round, and a warning per site that brought nothing."""

    def waiting_for(self, sites: Sequence[str]) -> None:
        """Say which sites have not come yet."""
        extra = {"action": "waiting_for_sites", "sites": ",".join(sites)}
        log.info("waiting for sites", extra=extra)

    def round_started(self, server_round: int, *, rounds: int, sites: Sequence[str]) -> None:
        """Say who trains."""
        extra = {"action": "round_started", "round": server_round, "rounds": rounds}
        log.info("round started", extra={**extra, "sites": ",".join(sites)})

    def site_answered(self, site: str) -> None:
        """Say that something came from a site."""
        log.info("site answered", extra={"action": "site_answered", "site": site})

    def evaluating(self, server_round: int, *, sites: Sequence[str]) -> None:
        """Say that the model is being measured."""
        extra = {"action": "evaluating", "round": server_round, "sites": ",".join(sites)}
        log.info("measuring the model", extra=extra)

    def round_finished(self, server_round: int, *, replies: Sequence[Reply]) -> None:
        """Name every site that brought nothing; the rounds say themselves that one is over."""
        for reply in replies:
            if reply.outcome is not Outcome.ANSWERED:
                extra = {"action": "site_without_update", "round": server_round}
                extra |= {"site": reply.site, "outcome": reply.outcome.value}
                log.warning("site brought nothing: %s", reply.reason, extra=extra)
