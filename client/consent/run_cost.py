"""What taking part in a run to its end would cost this site, before a person says yes to it."""

from collections.abc import Iterator
from typing import Literal

from client.consent.policy import Policy
from client.consent.policy_privacy import objections_to_noise, objections_to_sum
from client.home.folders import SiteHome
from client.records.accountant import shown
from client.records.ledger import ledger_of
from client.records.spending import round_spending
from client.trust.peers import read_pins
from common.config.privacy import Unit
from common.config.run import Section
from common.messages.manifest import Manifest
from common.not_covered import NOT_COVERED_LINE


class NoiseCost(Section):
    """What the noise of a run spends, at the policy's unit and delta."""

    unit: Unit
    delta: float
    epsilon_before: float
    epsilon_after: float  # after all rounds of the run
    budget: float | None

    @property
    def is_within(self) -> bool:
        """Whether all rounds fit into the budget."""
        return self.budget is None or self.epsilon_after <= self.budget


class RunCost(Section):
    """What a run does for this site's patients, and whether this site's policy takes it so."""

    noise: NoiseCost | None  # None: no noise, or such that the policy refuses it
    masks: Literal["none", "with pinned sites", "refused"]
    objections: tuple[str, ...]  # the policy's, to noise and to the sum
    is_private: bool

    @property
    def is_refused(self) -> bool:
        """Whether a round of it would be refused however the person decides."""
        return bool(self.objections) or (self.noise is not None and not self.noise.is_within)


def cost_of(home: SiteHome, manifest: Manifest, policy: Policy, *, site: str) -> RunCost:
    """Return what all rounds of a run would cost.

    Args:
        home: Has the ledger and the pinned peers.
        manifest: Of the run.
        policy: The site's.
        site: Its name.

    Raises LedgerError where the ledger is damaged, ConfigError where the pins are.
    """
    is_summed = manifest.config.secure_aggregation.enabled
    against_noise = tuple(objections_to_noise(manifest.config.privacy, policy.privacy))
    against_sum = tuple(
        objections_to_sum(
            manifest,
            site=site,
            pinned=read_pins(home.peers) if is_summed else {},
            rules=policy.secure_aggregation,
        )
    )
    masks: Literal["with pinned sites", "refused"] = (
        "refused" if against_sum else "with pinned sites"
    )
    return RunCost(
        noise=None if against_noise else _noise_cost(home, manifest, policy),
        masks=masks if is_summed else "none",
        objections=(*against_noise, *against_sum),
        is_private=manifest.config.privacy.enabled,
    )


def in_sentences(cost: RunCost) -> Iterator[str]:
    """Yield what a person should know of it before deciding."""
    if not cost.is_private:
        yield "Its updates carry no noise: nothing bounds what they tell of a single patient."
    elif cost.noise is not None:
        yield _of_noise(cost.noise)
        yield NOT_COVERED_LINE
    if cost.masks == "with pinned sites":
        yield "Its updates are summed under masks, with sites that are all pinned here."
    elif cost.masks == "none":
        yield "Its updates are not summed under masks: the coordinator sees this site's."
    for objection in cost.objections:
        yield f"Its rounds would be refused: {objection}."


def in_short(cost: RunCost) -> str:
    """Return it in a few words, for a table."""
    noise = "no noise"
    if cost.noise is not None:
        of = "" if cost.noise.budget is None else f" of {cost.noise.budget:g}"
        noise = f"ε {shown(cost.noise.epsilon_after)}{of}"
    elif cost.is_private:
        noise = "too little noise"
    masks = {"none": "", "with pinned sites": ", sum", "refused": ", sum with unpinned sites"}
    return noise + masks[cost.masks] + (" (refused)" if cost.is_refused else "")


def _of_noise(noise: NoiseCost) -> str:
    told = (
        f"Its updates carry noise that protects each {noise.unit}: epsilon over all runs goes from "
        f"{shown(noise.epsilon_before)} to {shown(noise.epsilon_after)} with all its rounds, at "
        f"delta {noise.delta:g}"
    )
    if noise.budget is None:
        return f"{told}; the policy sets no budget."
    if noise.is_within:
        return f"{told}; the budget is {noise.budget:g}."
    return f"{told}. The budget is {noise.budget:g}: rounds beyond it would be refused."


def _noise_cost(home: SiteHome, manifest: Manifest, policy: Policy) -> NoiseCost | None:
    spending, rules = round_spending(manifest.config), policy.privacy
    if spending is None:
        return None
    ledger = ledger_of(home)
    spent = {
        entry.server_round
        for entry in ledger.entries()
        if entry.run == manifest.run and entry.spending is not None
    }
    left = max(0, manifest.config.federation.rounds - len(spent))
    rounds = [spending] * left
    return NoiseCost(
        unit=rules.unit,
        delta=rules.delta,
        epsilon_before=ledger.epsilon(unit=rules.unit, delta=rules.delta),
        epsilon_after=ledger.epsilon(unit=rules.unit, delta=rules.delta, also=rounds),
        budget=rules.epsilon,
    )
