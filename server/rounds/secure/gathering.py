"""Gathers what a round of the secure sum needs of every site before it: keys and shared secrets.

What a site sends is checked here as every other site will check it, so that one that sends
nonsense is left out by name and does not make all the others refuse.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from common.errors import TrustError, WireError
from common.messages.kinds import NOT_SECURE, Keys, KeysRequest, Refusal
from common.messages.signing import PublicKey
from common.secure_sum.statements import (
    Bundle,
    MemberKey,
    MemberList,
    RoundContext,
    as_text,
    parsed,
    shares_digest,
    verify_member_key,
    verify_round_key,
)
from server.exchange.awaited import NoAnswer
from server.exchange.exchange import Exchange
from server.exchange.participation import Outcome
from server.rounds.secure.kept import OpenedRound

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Gathered:
    """What came of asking for keys."""

    opened: OpenedRound | None  # None: too few sites for a round
    absent: Mapping[str, Refusal | NoAnswer]  # sites that are not in the round
    reason: str  # why there is no round; empty when there is


class Gathering:
    """Asks the sites of one run for keys, and remembers those that last for the run."""

    def __init__(
        self,
        exchange: Exchange,
        *,
        run: str,
        config_json: str,
        tasks: Mapping[str, str],
        site_keys: Mapping[str, PublicKey],
        least: int,
        timeout_s: float,
    ) -> None:
        """Ask in the name of a run.

        Args:
            exchange: With the sites.
            run: Its name.
            config_json: As every request carries it.
            tasks: The run's sites, each with its task.
            site_keys: With which each site signs.
            least: Sites that a round needs, the threshold of the run's sites at least.
            timeout_s: How long all sites together are waited for.
        """
        self._exchange, self._run, self._config_json = exchange, run, config_json
        self._tasks, self._site_keys = dict(tasks), dict(site_keys)
        self._least, self._timeout_s = least, timeout_s
        self._members: dict[str, MemberKey] = {}

    def know(self, members: Sequence[MemberKey]) -> None:
        """Take in keys that an earlier process of this run was given."""
        self._members.update({member.site: member for member in members})

    def round(self, context: RoundContext, sites: Sequence[str]) -> Gathered:
        """Return a round of these sites, or of those that answered, if they are enough."""
        absent = self._ask_for_members([site for site in sites if site not in self._members])
        members = {site: self._members[site] for site in sites if site in self._members}
        if len(members) >= self._least:
            bundles, without = self._ask_for_bundles(context.server_round, members)
            absent |= without
            if len(bundles) >= self._least:
                opened = OpenedRound(
                    run=self._run,
                    server_round=context.server_round,
                    context=context,
                    members=tuple(members[site] for site in sorted(members)),
                    bundles=bundles,
                )
                return Gathered(opened, absent, "")
            members = {site: members[site] for site in bundles}
        reason = f"{len(members)} sites gave keys for the secure sum, {self._least} are needed"
        for site in members:
            absent[site] = NoAnswer(site, Outcome.MISSING, reason)
        return Gathered(None, absent, reason)

    def objection_to_bundle(
        self, bundle: Bundle, *, site: str, server_round: int, members: MemberList
    ) -> str | None:
        """Return why a site's part in a round cannot be used, None when it can."""
        key = bundle.key
        try:
            verify_round_key(key, self._site_keys[site])
        except TrustError as error:
            return f"its round key: {error}"
        if (key.run, key.server_round) != (self._run, server_round):
            return f"its round key is of round {key.server_round} of run {key.run}"
        if (key.site, key.task) != (site, self._tasks[site]):
            return "its round key is in another's name"
        if key.members_digest != members.digest:
            return "its round key is for other members"
        others = {member.site for member in members.members} - {site}
        if set(bundle.shares) != others or key.shares_digest != shares_digest(bundle.shares):
            return "its letters are not one for each other member, as it signed them"
        return None

    def _ask_for_members(self, sites: Sequence[str]) -> dict[str, Refusal | NoAnswer]:
        answers = self._ask(sites, server_round=0, keys_json=NOT_SECURE)
        absent: dict[str, Refusal | NoAnswer] = {}
        for site, answer in answers.items():
            if not isinstance(answer, Keys):
                absent[site] = answer
                continue
            try:
                member = parsed(answer.keys_json, MemberKey)
                verify_member_key(member, self._site_keys[site])
            except (WireError, TrustError) as error:
                absent[site] = _unusable(site, f"its member key: {error}")
                continue
            if (member.run, member.site, member.task) != (self._run, site, self._tasks[site]):
                absent[site] = _unusable(site, "its member key is of another site or run")
                continue
            self._members[site] = member
        return absent

    def _ask_for_bundles(
        self, server_round: int, members: Mapping[str, MemberKey]
    ) -> tuple[dict[str, Bundle], dict[str, Refusal | NoAnswer]]:
        listed = MemberList(members=tuple(members[site] for site in sorted(members)))
        answers = self._ask(list(members), server_round=server_round, keys_json=as_text(listed))
        bundles: dict[str, Bundle] = {}
        absent: dict[str, Refusal | NoAnswer] = {}
        for site, answer in answers.items():
            if not isinstance(answer, Keys):
                absent[site] = answer
                if isinstance(answer, Refusal):
                    # It may have lost the other half of its key: it is asked for one again.
                    self._members.pop(site, None)
                continue
            try:
                bundle = parsed(answer.keys_json, Bundle)
            except WireError as error:
                absent[site] = _unusable(site, str(error))
                continue
            reason = self.objection_to_bundle(
                bundle, site=site, server_round=server_round, members=listed
            )
            if reason is None:
                bundles[site] = bundle
            else:
                absent[site] = _unusable(site, reason)
        return bundles, absent

    def _ask(
        self, sites: Sequence[str], *, server_round: int, keys_json: str
    ) -> dict[str, Keys | Refusal | NoAnswer]:
        """Ask for keys; what is of another round or task becomes no answer."""
        if not sites:
            return {}
        request = KeysRequest(self._run, server_round, self._config_json, keys_json)
        answers = self._exchange.keys(dict.fromkeys(sites, request), timeout_s=self._timeout_s)
        for site, answer in answers.items():
            if isinstance(answer, Keys):
                said = (answer.run, answer.server_round, answer.task)
                if said != (self._run, server_round, self._tasks[site]):
                    answers[site] = _unusable(site, "its keys are of another round, run or task")
        return answers


def _unusable(site: str, reason: str) -> NoAnswer:
    log.warning(
        "keys of a site cannot be used: %s",
        reason,
        extra={"action": "keys_unusable", "site": site},
    )
    return NoAnswer(site, Outcome.REJECTED, reason)
