"""What a privacy ledger comes to under a site's policy, for people and for machines."""

from collections import Counter
from collections.abc import Mapping, Sequence

from pydantic import AwareDatetime

from client.consent.policy_privacy import PrivacyPolicy
from client.records import accountant
from client.records.ledger import Entry, Ledger, uncovered
from client.records.spending import Spending
from common.config.privacy import Unit
from common.config.run import Section


class RunAccount(Section):
    """What one run has spent here."""

    run: str
    first: AwareDatetime
    last: AwareDatetime
    rounds: int  # with noise; one that was trained anew after a breakdown is counted once
    spendings: tuple[Spending, ...]  # equal ones together
    epsilon: float | None  # of this run alone; None: its noise is for another unit


class LedgerReport(Section):
    """What was spent, of what, and what no epsilon covers."""

    unit: Unit  # the policy's
    delta: float  # likewise
    epsilon: float  # of all runs together; infinite where no finite one holds
    budget: float | None  # None: no bound
    entries: int
    head: str  # hash of the last entry: to be noted elsewhere
    runs: tuple[RunAccount, ...]
    without_noise: Mapping[str, int]  # what left so, and how often
    other_unit: int  # updates whose noise does not protect the policy's unit

    @property
    def left(self) -> float | None:
        """How much larger epsilon may become; None: there is no bound."""
        return None if self.budget is None else max(0.0, self.budget - self.epsilon)


def ledger_report(ledger: Ledger, rules: PrivacyPolicy) -> LedgerReport:
    """Read a ledger and add it up. Raises LedgerError when it is not as it was written."""
    entries, verified = ledger.entries(), ledger.verify()
    beside = uncovered(entries, rules.unit)
    spent = [entry.spending for entry in entries if entry.spending is not None]
    return LedgerReport(
        unit=rules.unit,
        delta=rules.delta,
        epsilon=accountant.epsilon(spent, unit=rules.unit, delta=rules.delta),
        budget=rules.epsilon,
        entries=len(entries),
        head=verified.head,
        runs=_accounts(entries, rules),
        without_noise=Counter(entry.what for entry in beside if entry.spending is None),
        other_unit=sum(entry.spending is not None for entry in beside),
    )


def _accounts(entries: Sequence[Entry], rules: PrivacyPolicy) -> tuple[RunAccount, ...]:
    by_run: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.spending is not None:
            by_run.setdefault(entry.run, []).append(entry)
    return tuple(_account(run, of_run, rules) for run, of_run in by_run.items())


def _account(run: str, entries: Sequence[Entry], rules: PrivacyPolicy) -> RunAccount:
    spent = [entry.spending for entry in entries if entry.spending is not None]
    covered = any(accountant.covers(spending, rules.unit) for spending in spent)
    return RunAccount(
        run=run,
        first=entries[0].time,
        last=entries[-1].time,
        rounds=len({entry.server_round for entry in entries}),
        spendings=_together(spent),
        epsilon=accountant.epsilon(spent, unit=rules.unit, delta=rules.delta) if covered else None,
    )


def _together(spent: Sequence[Spending]) -> tuple[Spending, ...]:
    """Return the spendings with the steps of those that are otherwise equal added up."""
    steps: Counter[Spending] = Counter()
    for spending in spent:
        steps[spending.model_copy(update={"steps": 1})] += spending.steps
    return tuple(one.model_copy(update={"steps": count}) for one, count in steps.items())
