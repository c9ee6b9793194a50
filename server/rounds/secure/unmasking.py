"""Opens the sums of a round, once it is known who is in them: the light exchange."""

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.errors import AggregationError, WireError
from common.messages.kinds import MaskedSums, Refusal, Shares, UnmaskRequest
from common.model.layers import TRUNK
from common.secure_sum.opening import open_sums, threshold
from common.secure_sum.statements import OpenedShares, Unmasking, as_text, parsed
from server.exchange.awaited import NoAnswer
from server.exchange.exchange import Exchange
from server.rounds.secure.kept import OpenedRound

log = logging.getLogger(__name__)


def unmask(
    exchange: Exchange,
    opened: OpenedRound,
    unmasking: Unmasking,
    masked: Mapping[str, MaskedSums],
    *,
    groups: Mapping[str, tuple[str, ...]],
    sites: int,
    config_json: str,
    timeout_s: float,
) -> dict[str, NDArray[np.uint32]]:
    """Ask the survivors for shares; return the sums as soon as there are enough to open them.

    ``masked`` is what each survivor sent, ``groups`` names the sums to open, each with the
    survivors in it, ``sites`` is how many the run has. A head that too few sites give shares of is
    not among the sums: some ask for more sites in a sum than the run does.

    Raises AggregationError saying what is missing or wrong.
    """
    run, server_round = opened.run, opened.server_round
    needed = threshold(sites)
    request = UnmaskRequest(run, server_round, config_json, as_text(unmasking))
    reading, result = _Reading(opened, unmasking, groups), _Result()

    def is_open(came: Mapping[str, Shares]) -> bool:
        shares = {site: found for site, a in came.items() if (found := reading.of(a)) is not None}
        # All together first. A wrong share among them is got round once there is one to spare.
        for left_out in (None, *sorted(shares)) if len(shares) > needed else (None,):
            chosen = {site: given for site, given in shares.items() if site != left_out}
            if len(chosen) < needed:
                return False
            try:
                sums = open_sums(
                    opened.opening(),
                    masked,
                    chosen,
                    groups=groups,
                    sites=sites,
                    run=run,
                    server_round=server_round,
                )
            except AggregationError as error:
                result.reason = result.reason if left_out else str(error)
            else:
                result.sums = sums
                # Shares still to come may open a head that these do not.
                return set(sums) == set(groups)
        return False

    answers = exchange.unmask(
        dict.fromkeys(unmasking.survivors, request), timeout_s=timeout_s, enough=is_open
    )
    for site, answer in answers.items():
        if isinstance(answer, Refusal | NoAnswer):
            log.warning(
                "site without shares: %s",
                answer.reason,
                extra={"action": "no_shares", "site": site, "round": server_round},
            )
    if result.sums is None:
        usable = sum(a.site in reading.usable for a in answers.values())
        too_few = f"{usable} sites helped to open the sums, {needed} are needed"
        raise AggregationError(result.reason or too_few)
    if result.reason:
        log.warning(
            "a wrong share was left out: %s",
            result.reason,
            extra={"action": "wrong_share", "round": server_round},
        )
    return result.sums


@dataclass
class _Result:
    sums: dict[str, NDArray[np.uint32]] | None = None
    reason: str = ""  # why it could not be opened, when last all shares were tried


class _Reading:
    """Reads each site's shares once."""

    def __init__(
        self,
        opened: OpenedRound,
        unmasking: Unmasking,
        groups: Mapping[str, Collection[str]],
    ) -> None:
        self._opened, self._unmasking, self._groups = opened, unmasking, groups
        self._read: dict[str, OpenedShares | None] = {}

    @property
    def usable(self) -> set[str]:
        """The sites whose shares can be used."""
        return {site for site, shares in self._read.items() if shares is not None}

    def of(self, answer: Shares) -> OpenedShares | None:
        """Return a site's shares, None when they are not those that it was asked for."""
        if answer.site not in self._read:
            self._read[answer.site] = self._usable(answer)
        return self._read[answer.site]

    def _usable(self, answer: Shares) -> OpenedShares | None:
        try:
            shares = parsed(answer.shares_json, OpenedShares)
        except WireError as error:
            reason: str | None = str(error)
        else:
            reason = self._objection(answer, shares)
            if reason is None:
                return shares
        log.warning(
            "shares of a site cannot be used: %s",
            reason,
            extra={"action": "shares_unusable", "site": answer.site},
        )
        return None

    def _objection(self, answer: Shares, shares: OpenedShares) -> str | None:
        if (answer.run, answer.server_round) != (self._opened.run, self._opened.server_round):
            return f"they are of round {answer.server_round} of run {answer.run}"
        if set(shares.mask_keys) != set(self._unmasking.dropped):
            return "they are not of the mask keys of the sites that dropped out"
        # A site may keep a head closed, but then for all of it; the trunk is opened by every giver.
        given = {group for seeds in shares.self_seeds.values() for group in seeds} | {TRUNK}
        for site in self._unmasking.survivors:
            groups = {group for group, sites in self._groups.items() if site in sites}
            if not groups & given <= set(shares.self_seeds.get(site, {})):
                return f"the seeds of {site} are missing"
        return None
