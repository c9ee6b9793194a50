"""A kept manifest as the terminal shows it and as machines read it."""

from datetime import datetime

from pydantic import JsonValue
from rich.console import Console

from client.consent.approvals import Approvals
from client.consent.kept_manifest import Kept
from client.consent.manifest_diff import Difference, changes_table, difference, headlines, in_words
from client.consent.policy_file import read_policy
from client.home.folders import SiteHome
from client.home.site import read_site
from common.errors import WireError
from common.machine.printable import printable
from common.messages.code_digest import site_code_digest


def as_record(home: SiteHome, kept: Kept, *, now: datetime) -> dict[str, JsonValue]:
    """Return a kept manifest as JSON values; its difference where one was approved before."""
    found = _difference(home, kept, now)
    values = kept.model_dump(mode="json", exclude={"version", "manifest_json", "signature"})
    return values | {
        "digest": kept.digest,
        "is_expired": now >= kept.expires_at,
        "difference": found.model_dump(mode="json") if isinstance(found, Difference) else None,
        "comparison": found if isinstance(found, str) else "compared",
    }


def show(home: SiteHome, kept: Kept, console: Console, *, now: datetime) -> None:
    """Print what a run would do here, and how it differs from the last one approved.

    Raises WireError for a manifest of another version, ConfigError when site or policy is wrong.
    """
    words = in_words(
        kept.manifest(),
        site=read_site(home.site_file).name,
        policy=read_policy(home.policy_file),
        code_digest=site_code_digest(),
    )
    _say(console, *words, "")
    found = _difference(home, kept, now)
    if isinstance(found, str):
        _say(console, found)
        return
    _say(console, *headlines(found))
    if found.changes:
        console.print(changes_table(found.changes))


def _difference(home: SiteHome, kept: Kept, now: datetime) -> Difference | str:
    """Return how a run differs from the last one approved, or why nothing can be compared."""
    last = Approvals(home.approvals).last_approved(now)
    if last is None:
        return "No run was approved here before."
    if last.digest == kept.digest:
        return "This is the run that was approved last."
    try:
        return difference(last.manifest(), kept.manifest())
    except WireError as error:
        return f"They cannot be compared: {error}"


def _say(console: Console, *lines: str) -> None:
    for line in lines:
        # Part of it comes from outside: it must not paint over what a person is to read.
        console.print(printable(line), markup=False, highlight=False, soft_wrap=True)
