"""The audit log: is it whole, and what does it say."""

import csv
import json
import sys
from datetime import UTC, datetime

import click
from rich.console import Console

from client.commands.terminal import EXIT_ERROR, as_json, site_command
from client.home.folders import SiteHome

_FIRST_COLUMNS = ("seq", "time", "event")  # of the table; what differs by event is in the last


@click.group()
def audit() -> None:
    """Check or export the log of every request, decision, refusal and release."""


@audit.command()
@as_json
@site_command
def verify(home: SiteHome, as_json: bool) -> None:
    """Look whether a line of the audit log was changed, removed or reordered.

    Note the head that it prints somewhere else from time to time: who may write the log and its
    head file could write both anew.

    Exit codes: 0 the log is whole, 1 it is not, 2 wrong usage.
    """
    from client.records.audit import verify as verify_log  # noqa: PLC0415 - brings Flower

    report = verify_log(home.audit_log)
    if as_json:
        told = {"records": report.records, "head": report.head, "problems": list(report.problems)}
        click.echo(json.dumps(told, indent=2))
    else:
        click.echo(f"{report.records} records, head {report.head}")
        for problem in report.problems:
            Console(stderr=True).print(problem, style="red", markup=False, soft_wrap=True)
        if not report.problems:
            click.echo("The log is whole.")
    if report.problems:
        sys.exit(EXIT_ERROR)


@audit.command()
@click.option(
    "--since",
    type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]),
    help="Only records from this time on, UTC.",
)
@click.option(
    "--format", "form", type=click.Choice(["jsonl", "csv"]), default="jsonl", show_default=True
)
@site_command
def export(home: SiteHome, since: datetime | None, form: str) -> None:
    """Print the audit log, for a report or another system.

    \b
    fovea-site audit export --since 2026-01-01 --format csv > audit.csv

    Exit codes: 0 printed, 1 an error (the message says the remedy), 2 wrong usage.
    """  # noqa: D301 - click's mark for lines that stay as they are
    from client.records.audit import export as export_log  # noqa: PLC0415 - brings Flower

    start = None if since is None else since.replace(tzinfo=UTC)
    table = csv.writer(sys.stdout)
    if form == "csv":
        table.writerow([*_FIRST_COLUMNS, "details"])
    for entry in export_log(home.audit_log):
        if start is not None and datetime.fromisoformat(str(entry["time"])) < start:
            continue
        if form == "jsonl":
            click.echo(json.dumps(entry, sort_keys=True))
            continue
        details = {key: value for key, value in entry.items() if key not in _FIRST_COLUMNS}
        first = [entry[column] for column in _FIRST_COLUMNS]
        table.writerow([*first, json.dumps(details, sort_keys=True)])
