"""What a person at the site decides on runs: look at them, approve, revoke."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import click
from pydantic import JsonValue
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from client.commands.terminal import as_json, present, record, site_command
from client.home.folders import SiteHome
from client.home.ownership import person
from common.errors import ConfigError, FoveaError
from common.machine.printable import printable

if TYPE_CHECKING:
    from client.consent.kept_manifest import Kept
    from client.consent.run_cost import RunCost


@click.command()
@click.option("--all", "is_all", is_flag=True, help="Also runs that were approved or revoked.")
@as_json
@site_command
def waiting(home: SiteHome, is_all: bool, as_json: bool) -> None:
    """List the runs that wait for approval, by the digest of their manifest.

    \b
    fovea-site waiting                what waits
    fovea-site approve demo-3         look at a run, then approve it
    fovea-site waiting --all --json   everything ever seen, with differences, for machines

    Exit codes: 0 listed, 1 an error (the message says the remedy), 2 wrong usage.
    """  # noqa: D301 - click's mark for lines that stay as they are
    from client.commands.manifests import as_record  # noqa: PLC0415 - likewise
    from client.consent.approvals import Approvals  # noqa: PLC0415 - brings the schema

    approvals, now = Approvals(home.approvals), present()
    listed = approvals.waiting()
    if is_all:
        listed += approvals.approved() + approvals.revoked()
    if as_json:
        records = [
            as_record(home, kept, now=now) | {"privacy": _privacy_record(home, kept)}
            for kept in listed
        ]
        click.echo(json.dumps(records, indent=2))
        return
    if not listed:
        click.echo("No run waits for approval.")
        return
    Console().print(_listing(home, listed, now))


def _listing(home: SiteHome, listed: Sequence["Kept"], now: datetime) -> Table:
    table = Table("run", header_style="bold")
    for name in ("manifest", "state", "since", "expires"):
        table.add_column(name, no_wrap=True)
    table.add_column("privacy")
    table.add_column("by")
    for kept in listed:
        since = kept.decided_at or kept.first_seen
        expires = f"{kept.expires_at:%Y-%m-%d}"
        table.add_row(
            escape(printable(kept.run)),
            kept.digest[:16],
            kept.state,
            f"{since:%Y-%m-%d}",
            f"[red]{expires}[/]" if now >= kept.expires_at else expires,
            escape(_privacy_in_short(home, kept)),
            escape(printable(kept.decided_by or "")),
        )
    return table


def _cost(home: SiteHome, kept: "Kept") -> "RunCost":
    """Return what a run would cost. Raises FoveaError where it cannot be said, with the reason."""
    from client.consent.policy_file import read_policy  # noqa: PLC0415 - brings the schema
    from client.consent.run_cost import cost_of  # noqa: PLC0415 - likewise
    from client.home.site import read_site  # noqa: PLC0415 - likewise

    policy, site = read_policy(home.policy_file), read_site(home.site_file).name
    return cost_of(home, kept.manifest(), policy, site=site)


def _privacy_in_short(home: SiteHome, kept: "Kept") -> str:
    from client.consent.run_cost import in_short  # noqa: PLC0415 - brings the schema

    try:
        return in_short(_cost(home, kept))
    except FoveaError:
        return "unknown"  # `fovea-site approve` says why; the list must come all the same


def _privacy_record(home: SiteHome, kept: "Kept") -> dict[str, JsonValue]:
    try:
        cost = _cost(home, kept)
    except FoveaError as error:
        return {"unknown": str(error)}
    return cost.model_dump(mode="json") | {"is_refused": cost.is_refused}


@click.command()
@click.argument("run_or_digest", metavar="RUN|DIGEST")
@click.option("--yes", is_flag=True, help="Do not ask; for scripts of people who have looked.")
@site_command
def approve(home: SiteHome, run_or_digest: str, yes: bool) -> None:
    """Show what a waiting run would do here and how it differs, then approve it.

    RUN is its name; of DIGEST, the SHA-256 of its manifest, 8 characters are enough. What is
    approved is this manifest and no other: a run that is changed waits again. The bounds of
    policy.yaml hold all the same.

    \b
    fovea-site approve demo-3
    fovea-site approve 3f9c01ab

    Exit codes: 0 approved, 1 not approved (the message says why), 2 wrong usage.
    """  # noqa: D301 - click's mark for lines that stay as they are
    from client.commands.manifests import show  # noqa: PLC0415 - likewise
    from client.consent.approvals import Approvals  # noqa: PLC0415 - brings the schema
    from client.consent.run_cost import in_sentences  # noqa: PLC0415 - likewise

    approvals, now = Approvals(home.approvals), present()
    found = approvals.find(run_or_digest)
    open_ones = [kept for kept in found if kept.state != "approved"]
    if not open_ones:
        click.echo(f"{found[-1].run} was approved already, by {found[-1].decided_by}.")
        return
    if len(open_ones) > 1:
        digests = ", ".join(
            f"{kept.digest[:16]} ({kept.state}, seen {kept.first_seen:%Y-%m-%d %H:%M})"
            for kept in open_ones
        )
        raise ConfigError(f"{run_or_digest!r} stands for several manifests: {digests}. Give one.")
    chosen = open_ones[0]
    if now >= chosen.expires_at:
        raise ConfigError(
            f"{chosen.run}: its manifest expired on {chosen.expires_at:%Y-%m-%d %H:%M}. Ask the "
            "coordinator to launch the run again."
        )
    console = Console()
    show(home, chosen, console, now=now)
    for sentence in in_sentences(_cost(home, chosen)):
        console.print(printable(sentence), markup=False, highlight=False, soft_wrap=True)
    if not yes:
        click.confirm(f"Approve {chosen.run}?", abort=True)
    by = person()
    # First the log: an approval that is in force is never missing from it.
    record(home, "run-approved", run=chosen.run, manifest=chosen.digest, by=by)
    approvals.approve(chosen.digest, now, by)
    click.echo(f"Approved {chosen.run}, manifest {chosen.digest}.")


@click.command()
@click.argument("run_or_digest", metavar="RUN|DIGEST")
@click.option("--reason", default="", help="Kept in the audit log; it does not leave the site.")
@site_command
def revoke(home: SiteHome, run_or_digest: str, reason: str) -> None:
    """Withdraw from a run: every further request of it is refused, at once.

    RUN means all manifests of that name. What was already sent cannot be called back. It also
    ends the standing rule of policy.yaml until a person approves a run again.

    \b
    fovea-site revoke demo-3 --reason "ethics vote withdrawn"

    Exit codes: 0 revoked, 1 an error (the message says the remedy), 2 wrong usage.
    """  # noqa: D301 - click's mark for lines that stay as they are
    from client.consent.approvals import Approvals  # noqa: PLC0415 - brings the schema

    by = person()
    # First the deed: a full disk must not keep a site from withdrawing.
    revoked = Approvals(home.approvals).revoke(run_or_digest, present(), by)
    for kept in revoked:
        record(home, "run-revoked", run=kept.run, manifest=kept.digest, by=by, reason=reason)
        click.echo(f"Revoked {kept.run}, manifest {kept.digest}.")
