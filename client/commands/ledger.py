"""The privacy ledger: what was spent, what is left, and what no noise covers."""

import csv
import json
import sys
from typing import TYPE_CHECKING

import click
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from client.commands.terminal import as_json, site_command
from client.home.folders import SiteHome
from common.machine.printable import printable
from common.not_covered import NOT_COVERED, NOT_COVERED_LINE

if TYPE_CHECKING:
    from client.consent.ledger_report import LedgerReport, RunAccount
    from client.records.ledger import Entry

_BAR_CELLS = 40
_COLUMNS = (
    *("seq", "time", "kind", "run", "server_round", "what", "request_digest"),
    *("mechanism", "unit", "noise_multiplier", "sample_rate", "steps"),
)


@click.group()
def ledger() -> None:
    """Read or export what updates of this site have told of its patients, at most."""


@ledger.command()
@as_json
@site_command
def show(home: SiteHome, as_json: bool) -> None:
    """Say what all runs together have spent of the privacy budget, and what it does not cover.

    Epsilon bounds how much surer anyone can become, from the updates that left with noise, that a
    patient was among those trained on: at 0 not at all, at 1 the odds change by a factor of 2.7 at
    most, at 8 by one of 3000. It holds but for a chance of delta. Note the head that is printed
    somewhere else from time to time: who may write the ledger and its head file could put older
    ones in their place.

    \b
    fovea-site ledger show            for people
    fovea-site ledger show --json     for machines

    Exit codes: 0 shown, 1 the ledger is damaged or cannot be read, 2 wrong usage.
    """  # noqa: D301 - click's mark for lines that stay as they are
    from client.consent.ledger_report import ledger_report  # noqa: PLC0415 - likewise
    from client.consent.policy_file import read_policy  # noqa: PLC0415 - likewise
    from client.records.ledger import ledger_of  # noqa: PLC0415 - brings the schema

    report = ledger_report(ledger_of(home), read_policy(home.policy_file).privacy)
    if as_json:
        told = report.model_dump(mode="json") | {
            "left": report.left,
            "not_covered": list(NOT_COVERED),
        }
        click.echo(json.dumps(told, indent=2))
        return
    _show(report, Console())


@ledger.command()
@click.option(
    "--format", "form", type=click.Choice(["jsonl", "csv"]), default="jsonl", show_default=True
)
@site_command
def export(home: SiteHome, form: str) -> None:
    """Print every entry of the ledger, for a report or another system.

    \b
    fovea-site ledger export --format csv > ledger.csv

    Exit codes: 0 printed, 1 the ledger is damaged or cannot be read, 2 wrong usage.
    """  # noqa: D301 - click's mark for lines that stay as they are
    from client.records.ledger import ledger_of  # noqa: PLC0415 - brings the schema

    table = csv.writer(sys.stdout)
    if form == "csv":
        table.writerow(_COLUMNS)
    for entry in ledger_of(home).entries():
        values = _flat(entry)
        if form == "jsonl":
            click.echo(json.dumps(values, sort_keys=True))
        else:
            table.writerow([values.get(column, "") for column in _COLUMNS])


def _flat(entry: "Entry") -> dict[str, object]:
    spending = {} if entry.spending is None else entry.spending.model_dump(mode="json")
    return entry.model_dump(mode="json", exclude={"spending"}) | spending


def _show(report: "LedgerReport", console: Console) -> None:
    for line in (*_headlines(report), NOT_COVERED_LINE):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if report.runs:
        console.print(_runs(report.runs))
    if report.without_noise or report.other_unit:
        console.print(_beside(report))
    console.print(
        f"{report.entries} entries, head {report.head}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _headlines(report: "LedgerReport") -> list[str]:
    from client.records.accountant import shown  # noqa: PLC0415 - brings the schema

    spent = f"epsilon {shown(report.epsilon)}"
    whose = f"for each {report.unit}, at delta {report.delta:g}"
    if report.budget is None or report.left is None:
        return [f"Spent by all runs together: {spent} {whose}. The policy sets no budget."]
    part = min(1.0, report.epsilon / report.budget)
    cells = round(part * _BAR_CELLS)
    return [
        f"Spent by all runs together: {spent} of {report.budget:g}, {whose}.",
        f"{'█' * cells}{'░' * (_BAR_CELLS - cells)} {part:.0%} spent, {report.left:.2f} left",
    ]


def _runs(runs: tuple["RunAccount", ...]) -> Table:
    from client.records.accountant import shown  # noqa: PLC0415 - brings the schema

    table = Table(
        title="Runs with noise, each alone (epsilons do not add up: together they are less)",
        title_justify="left",
        box=box.SIMPLE,
        pad_edge=False,
    )
    table.add_column("run", overflow="fold")
    for name in ("rounds", "last", "protects", "noise", "rate", "steps", "epsilon"):
        is_text = name in ("last", "protects")
        table.add_column(name, justify="left" if is_text else "right", no_wrap=True)
    for account in runs:
        for number, spending in enumerate(account.spendings):
            is_first = number == 0
            alone = "–" if account.epsilon is None else shown(account.epsilon)
            table.add_row(
                escape(printable(account.run)) if is_first else "",
                str(account.rounds) if is_first else "",
                f"{account.last:%Y-%m-%d}" if is_first else "",
                spending.unit,
                f"{spending.noise_multiplier:g}",
                f"{spending.sample_rate:g}",
                str(spending.steps),
                alone if is_first else "",
            )
    return table


def _beside(report: "LedgerReport") -> Table:
    table = Table(
        title="Not covered by epsilon: nothing bounds what these tell",
        title_justify="left",
        box=box.SIMPLE,
    )
    table.add_column("what left")
    table.add_column("times", justify="right")
    for what, count in sorted(report.without_noise.items()):
        table.add_row(f"{escape(printable(what))}, without noise", str(count))
    if report.other_unit:
        table.add_row("update, with noise that protects single images only", str(report.other_unit))
    return table
