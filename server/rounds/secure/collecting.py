"""A round whose updates are summed under masks: who is in it, its keys, the sums, and no more.

Bonawitz et al. 2017, https://doi.org/10.1145/3133956.3133982, as common/secure_sum/statements.py
lays it out. A round in which nobody drops out is one heavy exchange, which brings the keys of the
next round along, and one light exchange, which opens the sums. Keys are asked for by themselves
before the first round, and whenever others are to take part than the keys were made for.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace

from common.config.reading import canonical_json
from common.config.run import RunConfig
from common.errors import AggregationError, ConfigError, TrustError, WireError
from common.messages.kinds import Arrays, MaskedUpdate, Refusal, TrainRequest
from common.messages.signing import PublicKey
from common.model.layers import held_by
from common.secure_sum.context import round_context
from common.secure_sum.groups import groups_among, groups_of
from common.secure_sum.layout import Layout, layouts
from common.secure_sum.opening import threshold
from common.secure_sum.statements import Bundle, RoundContext, Unmasking, as_text
from server.exchange.awaited import NoAnswer
from server.exchange.exchange import Exchange
from server.exchange.participation import Outcome
from server.exchange.replies import judged, unusable_together
from server.exchange.requests import train_requests
from server.exchange.site_config import told
from server.rounds.collecting import Collected, SiteNumbers, Task, ask
from server.rounds.round_report import Progress
from server.rounds.secure.contributions import Contribution, believed
from server.rounds.secure.gathering import Gathered, Gathering
from server.rounds.secure.kept import KeptFile, OpenedRound
from server.rounds.secure.sums import Merged, merged, unopened
from server.rounds.secure.unmasking import unmask
from server.strategies import TrainPlan

log = logging.getLogger(__name__)

LIGHT_SHARE = 0.25  # of federation.round_timeout_s, for messages that carry no model

Scales = Mapping[str, Layout]  # by group
Contributions = Mapping[str, Contribution]  # by site


class SecureCollecting:
    """The coordinator sees sums over sites only."""

    def __init__(
        self,
        *,
        run: str,
        config: RunConfig,
        exchange: Exchange,
        site_keys: Mapping[str, PublicKey],
        kept: KeptFile,
    ) -> None:
        """Collect in the name of a run; a round that was begun before is gone on with.

        ``site_keys`` are what the sites sign with. Raises RunError when a round was kept and
        cannot be read.
        """
        self._run, self._exchange, self._kept = run, exchange, kept
        # As the sites hear of it: both ends derive groups and layouts from the same words.
        self._config = told(config)
        self._config_json = canonical_json(self._config)
        self._site_keys = dict(site_keys)
        rules = config.federation
        self._min_group = config.secure_aggregation.min_group
        self._light_s = LIGHT_SHARE * rules.round_timeout_s
        self._gathering = Gathering(
            exchange,
            run=run,
            config_json=self._config_json,
            tasks={site.name: site.task for site in config.sites},
            site_keys=site_keys,
            least=max(self._min_group, rules.min_sites, threshold(len(config.sites))),
            timeout_s=self._light_s,
        )
        self._opened = kept.read()  # the round that was opened last
        if self._opened is not None:
            self._gathering.know(self._opened.members)
        self._following: Mapping[str, Bundle] = {}  # of the round after it

    def collect(self, task: Task, progress: Progress) -> Collected:
        """Ask for what is missing, have the sites train, and open what they add up to."""
        gathered = self._gathered(task)
        absent = {**task.discovery.absent, **gathered.absent}
        opened = gathered.opened
        if opened is None or self._exchange.is_stopped():
            rounds = self._config.federation.rounds
            progress.round_started(task.server_round, rounds=rounds, sites=[])
            _, replies = judged(absent, MaskedUpdate, lambda _update: None)
            is_whole = not self._exchange.is_stopped()
            return self._unchanged(Collected(replies, is_whole), gathered.reason)
        self._remember(opened)
        requests = self._requests(task, opened)
        answers = ask(self._exchange, requests, self._config, task.server_round, progress)
        contributions: dict[str, Contribution] = {}
        scales = self._scales(opened, task.model)

        def reason_against(update: MaskedUpdate) -> str | None:
            site = update.site
            try:
                contributions[site] = believed(
                    update,
                    opened,
                    key=self._site_keys[site],
                    scales=scales[opened.tasks[site]],
                )
            except (WireError, TrustError) as error:
                return str(error)
            return None

        outside = self._outside(task, opened, requests)
        _, replies = judged({**outside, **absent, **answers}, MaskedUpdate, reason_against)
        collected = Collected(replies, is_whole=len(answers) == len(requests))
        if not collected.is_whole:
            return collected
        self._take_in_following(opened, contributions)
        unmasking = opened.unmasking or _unmasking(opened, contributions)
        if reason := self._reason_to_stay_closed(unmasking, contributions):
            return self._unchanged(collected, reason)
        self._remember(opened.model_copy(update={"unmasking": unmasking}))
        try:
            found = self._opened_sums(opened, unmasking, contributions, scales)
        except AggregationError as error:
            if self._exchange.is_stopped():
                return replace(collected, is_whole=False)
            return self._unchanged(collected, str(error))
        return replace(
            collected,
            change=found.change,
            numbers={site: _numbers(given) for site, given in contributions.items()},
            sums=found.sums,
        )

    # --- before the round -------------------------------------------------------------------

    def _context(self, task: Task) -> RoundContext:
        """Return what all sites of a round are asked alike.

        Either every site measures the model or none does: whoever has no pictures for that adds
        nothing to the measures. Raises ConfigError for plans that differ between sites.
        """
        weights = sorted({plan.proximal_mu for plan in task.plans.values()})
        if len(weights) > 1:
            raise ConfigError(
                "the strategy gives sites proximal weights of their own, and a secure sum needs "
                "all sites alike. Choose another strategy, or secure_aggregation.enabled=false."
            )
        return round_context(
            task.model,
            run_digest=self._exchange.run_digest(self._config_json),
            server_round=task.server_round,
            evaluates=bool(task.evaluating),
            proximal_mu=weights[0] if weights else 0.0,
        )

    def _gathered(self, task: Task) -> Gathered:
        """Return the round to run: the one that was begun, or one of all sites that can."""
        last, sites = self._opened, sorted(task.plans)
        if last is not None and last.server_round == task.server_round:
            log.info(
                "the round was begun before and is gone on with",
                extra={"action": "round_gone_on_with", "round": task.server_round},
            )
            return Gathered(last, {}, "")
        context = self._context(task)
        if last is not None and last.server_round == task.server_round - 1:
            # Secrets were shared out among the members: they serve while these are the same.
            members = [member.site for member in last.members]
            if members == sites == sorted(self._following):
                following = last.model_copy(
                    update={
                        "server_round": task.server_round,
                        "context": context,
                        "bundles": dict(self._following),
                        "unmasking": None,
                    }
                )
                return Gathered(following, {}, "")
        return self._gathering.round(context, sites)

    def _remember(self, opened: OpenedRound) -> None:
        """Keep a round on the disk, before anything is asked that it depends on."""
        self._kept.write(opened)
        self._opened = opened

    def _requests(self, task: Task, opened: OpenedRound) -> dict[str, TrainRequest]:
        wanted = opened.unmasking.survivors if opened.unmasking else opened.sites
        cards, context = task.discovery.cards, opened.context
        plan = TrainPlan(proximal_mu=context.proximal_mu)
        plans = {site: plan for site in wanted if site in task.plans}
        requests = train_requests(
            plans,
            cards,
            self._config,
            run=self._run,
            server_round=task.server_round,
            model=task.model,
            evaluating=plans if context.evaluates else (),
        )
        return {
            site: replace(request, secure_json=as_text(opened.opening(site)))
            for site, request in requests.items()
        }

    def _outside(
        self, task: Task, opened: OpenedRound, requests: Mapping[str, TrainRequest]
    ) -> dict[str, Refusal | NoAnswer]:
        """Return what is said of sites that are there and were not asked to train."""
        reason = "it came when the round's keys had been shared out among others"
        if opened.unmasking is not None:
            reason = "it had dropped out of the round before the coordinator broke off"
        return {
            site: NoAnswer(site, Outcome.MISSING, reason)
            for site in task.plans
            if site not in requests
        }

    # --- after the heavy exchange -----------------------------------------------------------

    def _scales(self, opened: OpenedRound, model: Arrays) -> dict[str, Scales]:
        """Return by task how the vectors of the groups that this round has are written."""
        groups = groups_among(self._config, opened.sites)
        scales: dict[str, Scales] = {}
        for task in sorted(set(opened.tasks.values())):
            shapes = {name: model[name].shape for name in held_by(task, model)}
            made = layouts(self._config, shapes, task=task)
            scales[task] = {group: layout for group, layout in made.items() if group in groups}
        return scales

    def _take_in_following(self, opened: OpenedRound, contributions: Contributions) -> None:
        """Take the next round's keys from what came, each only if every other site would."""
        following: dict[str, Bundle] = {}
        for site, given in contributions.items():
            if given.note.next is None:
                continue
            reason = self._gathering.objection_to_bundle(
                given.note.next,
                site=site,
                server_round=opened.server_round + 1,
                members=opened.member_list,
            )
            if reason is None:
                following[site] = given.note.next
            else:
                log.warning(
                    "keys of the next round cannot be used: %s",
                    reason,
                    extra={"action": "keys_unusable", "site": site},
                )
        self._following = following

    def _reason_to_stay_closed(self, unmasking: Unmasking, contributions: Contributions) -> str:
        """Return why no sum of the round can be opened, nothing when the trunk's can."""
        came, least = len(unmasking.survivors), self._config.federation.min_sites
        if silent := [site for site in unmasking.survivors if site not in contributions]:
            return f"{silent[0]} did not answer again, and its part was in the sums already"
        if came < least:
            return f"{came} usable updates, federation.min_sites is {least}"
        if came < self._min_group:
            return f"{came} usable updates, a sum is opened over at least {self._min_group}"
        sites = len(self._config.sites)
        if came < (needed := threshold(sites)):
            return f"{came} of {sites} sites are left, {needed} can open the sums"
        return ""

    def _opened_sums(
        self,
        opened: OpenedRound,
        unmasking: Unmasking,
        contributions: Contributions,
        scales: Mapping[str, Scales],
    ) -> Merged:
        """Return what the sites add up to. Raises AggregationError saying why it stays closed."""
        summed = groups_among(self._config, unmasking.survivors)
        groups = groups_of(self._config)
        found = unmask(
            self._exchange,
            opened,
            unmasking,
            {site: contributions[site].update.masked for site in unmasking.survivors},
            groups={group: groups[group] for group in summed},
            sites=len(self._config.sites),
            config_json=self._config_json,
            timeout_s=self._light_s,
        )
        by_group = {group: layout for made in scales.values() for group, layout in made.items()}
        kept_closed = "too few sites gave shares of it: some ask for more sites in a sum"
        closed = {group: kept_closed for group in summed if group not in found}
        closed |= self._too_small(unmasking.survivors)
        return merged(found, by_group, groups=summed, closed=closed)

    def _too_small(self, survivors: tuple[str, ...]) -> dict[str, str]:
        """Return the groups that are not opened with these survivors, each with the reason."""
        open_ones = groups_among(self._config, survivors)
        reasons = {}
        for group, sites in groups_of(self._config).items():
            if group not in open_ones:
                came = len(set(sites) & set(survivors))
                reasons[group] = f"{came} sites, a sum is opened over at least {self._min_group}"
        return reasons

    def _unchanged(self, collected: Collected, reason: str) -> Collected:
        """Return a round that changes nothing, whoever answered."""
        return replace(
            collected,
            replies=unusable_together(collected.replies, reason),
            reason=reason,
            sums=unopened(dict.fromkeys(groups_of(self._config), reason), reason),
        )


def _unmasking(opened: OpenedRound, contributions: Contributions) -> Unmasking:
    return Unmasking(
        roster_digest=opened.roster_digest,
        survivors=tuple(sorted(contributions)),
        dropped=tuple(site for site in opened.sites if site not in contributions),
        signatures={site: given.note.signature for site, given in contributions.items()},
    )


def _numbers(given: Contribution) -> SiteNumbers:
    """Return what may be known of one site: its epsilon says nothing of its pictures."""
    epsilon = given.note.epsilon
    return SiteNumbers(None, {} if epsilon is None else {"epsilon": epsilon})
