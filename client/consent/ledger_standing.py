"""How much of its privacy budget a site has spent, in a line; nothing where nothing was."""

import os

from client.home.folders import SiteHome
from client.records.accountant import shown
from common.config.privacy import Unit
from common.config.run import Section
from common.errors import ConfigError
from common.not_covered import NOT_COVERED

EXCEEDED_NEXT = "another round like the last would exceed the budget"


class PrivacyStanding(Section):
    """Epsilon of all runs together at the policy's unit and delta, and the budget."""

    unit: Unit
    delta: float
    epsilon: float
    epsilon_next: float  # with the last round's spending once more
    budget: float | None  # None: no bound
    not_covered: tuple[str, ...]  # what leaves this site and epsilon says nothing of

    @property
    def is_spent(self) -> bool:
        """Whether another round like the last would be refused.

        Epsilon itself stays within the budget, for what would exceed it is refused before.
        """
        return self.budget is not None and self.epsilon_next > self.budget

    @property
    def in_words(self) -> str:
        """As a line for a terminal."""
        of = "" if self.budget is None else f" of {self.budget:g}"
        return f"epsilon {shown(self.epsilon)}{of} for each {self.unit}, at delta {self.delta:g}"


def privacy_standing(home: SiteHome) -> PrivacyStanding | None:
    """Return what was spent; None where nothing was, or this user may not see it.

    None also where the policy cannot be read: who looks at the site hears of that elsewhere. Raises
    LedgerError when the ledger is not as it was written.
    """
    may_read = os.access(home.ledger.parent, os.R_OK | os.X_OK)
    if not may_read and not os.access(home.ledger_reach, os.R_OK):
        return None  # where the second may be read, the ledger is gone
    from client.consent.policy_file import read_policy  # noqa: PLC0415 - likewise
    from client.records.ledger import ledger_of  # noqa: PLC0415 - status starts in a blink

    ledger = ledger_of(home)
    spent = [entry.spending for entry in ledger.entries() if entry.spending is not None]
    if not spent:
        return None
    try:
        rules = read_policy(home.policy_file).privacy
    except ConfigError:
        return None
    return PrivacyStanding(
        unit=rules.unit,
        delta=rules.delta,
        epsilon=ledger.epsilon(unit=rules.unit, delta=rules.delta),
        epsilon_next=ledger.epsilon(unit=rules.unit, delta=rules.delta, also=spent[-1:]),
        budget=rules.epsilon,
        not_covered=NOT_COVERED,
    )
