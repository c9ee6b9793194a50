"""Looks at the privacy ledger: is it whole, and is anything of the budget left?"""

from collections.abc import Iterator

from client.consent.ledger_standing import EXCEEDED_NEXT, privacy_standing
from client.home.folders import SiteHome
from client.preflight.finding import Finding, below, error, ok, warning
from client.records.ledger import ledger_of
from common.errors import LedgerError

_SUBJECT = "privacy ledger"


def check_ledger(home: SiteHome) -> Iterator[Finding]:
    """Look at the ledger, where anything ever left."""
    try:
        entries = ledger_of(home).entries()
        standing = privacy_standing(home)
    except LedgerError as problem:
        yield error(
            _SUBJECT, below(problem, home.root), "Bring back the ledger and its head from a backup."
        )
        return
    if standing is None:
        yield ok(_SUBJECT, f"whole, {len(entries)} entries, nothing spent")
    elif standing.is_spent:
        yield warning(
            _SUBJECT,
            f"{EXCEEDED_NEXT}: {standing.in_words}",
            "Such a round is refused. `fovea-site ledger show` says which runs spent it; a "
            "larger budget is `privacy.epsilon` of policy.yaml.",
        )
    else:
        yield ok(_SUBJECT, f"whole, {standing.in_words}")
