"""Making a site: its keys and folders, its shard, and whether all is ready."""

import json
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from client.commands.terminal import (
    EXIT_ERROR,
    EXIT_FINDINGS,
    as_json,
    present,
    record,
    site_command,
)
from client.home.folders import SiteHome
from client.home.ownership import as_owner, person
from common.machine.printable import printable

_STYLES = {"ok": "green", "warning": "yellow", "error": "bold red"}


@click.command()
@click.option(
    "--kit",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder of the start-up kit that the coordinator sent.",
)
@click.option("--trainer-user", help="Give data, policy and keys to this user. Needs root.")
@click.option("--connector-user", help="Give the connection to this user. Needs root.")
@site_command
def init(home: SiteHome, kit: Path, trainer_user: str | None, connector_user: str | None) -> None:
    """Make this site from the coordinator's start-up kit.

    Makes the site's own private keys, which never leave it, and writes admission.json with the
    public ones: send that file back to the coordinator. Then edit site.yaml (where the pictures
    are) and policy.yaml (what this hospital allows), and run `fovea-site prepare` and
    `fovea-site check`.

    \b
    On a workstation:  fovea-site init --kit kit-north
    As services:       sudo fovea-site init --kit kit-north \\
                         --trainer-user fovea-trainer --connector-user fovea-connector

    Exit codes: 0 made, 1 an error (the message says the remedy), 2 wrong usage.
    """  # noqa: D301 - click's mark for lines that stay as they are
    from client.operations.initialise import initialise  # noqa: PLC0415 - brings cryptography

    admission = initialise(
        home, kit, trainer_user=trainer_user, connector_user=connector_user, now=present()
    )
    click.echo(
        f"Site {printable(admission.site)} of federation {printable(admission.federation)} is made "
        f"in {home.root}.\n"
        f"1. Send {home.admission} to the coordinator; nothing in it is secret.\n"
        f"2. Say where the pictures are:      {home.site_file}\n"
        f"3. Say what this hospital allows:   {home.policy_file}\n"
        "4. fovea-site prepare, then fovea-site check."
    )


@click.command()
@click.option("--verify", is_flag=True, help="Read every file again, whatever its time says.")
@as_json
@site_command
def prepare(home: SiteHome, verify: bool, as_json: bool) -> None:
    """Turn this site's pictures into the shard that training reads.

    Can be broken off and run again at any time: it goes on where it was, and touches only what
    has changed. Run it after every change of the pictures, their table or site.yaml.

    Exit codes: 0 the shard is ready, 1 an error (the message says the remedy), 2 wrong usage.
    """
    from client.commands.bars import ReadingBar  # noqa: PLC0415 - rich's progress takes its time
    from client.home.site import read_site  # noqa: PLC0415 - likewise
    from client.operations.prepare import prepare_site  # noqa: PLC0415 - brings the schema

    site = read_site(home.site_file)
    # Root works in the trainer's folder as the trainer: nothing there can lead it elsewhere.
    with as_owner(home.trainer), ReadingBar(Console(stderr=True), name=site.name) as bar:
        done = prepare_site(home, site, watch=bar, verify=verify)
    card = done.shard.card
    record(
        home,
        "shard-prepared",
        by=person(),
        pictures=card.pictures,
        patients=card.patients,
        read_anew=done.read_anew,
    )
    if as_json:
        counts = {"read_anew": done.read_anew, "from_store": done.from_store}
        told = {"seconds": round(done.seconds, 3), "damaged": done.damaged, **counts}
        click.echo(json.dumps(told | {"card": card.as_dict()}, indent=2))
        return
    click.echo(
        f"{card.pictures} pictures of {card.patients} patients: {done.read_anew} read, "
        f"{done.from_store} kept from before, {sum(done.excluded.values())} left out; "
        f"{done.seconds:.0f} s."
    )
    for reason, count in done.excluded.items():
        click.echo(f"  left out: {count} {printable(reason)}")
    for sign in card.signs:
        click.echo(
            f"  sign {sign.name}: shown by {sign.shown_pictures} of the {sign.known_pictures} "
            "pictures of which it is known"
        )


@click.command()
@as_json
@site_command
def check(home: SiteHome, as_json: bool) -> None:
    """Look whether this site is ready: data, keys, certificates, network, machine, versions.

    Changes nothing. Every finding that is not fine comes with its remedy.

    Exit codes: 0 all is well, 1 at least one error, 2 wrong usage, 3 warnings only.
    """
    from client.preflight.everything import check_site  # noqa: PLC0415 - brings the schema

    findings = check_site(home, now=present())
    if as_json:
        fields = ("subject", "status", "found", "remedy")
        rows = [{field: getattr(finding, field) for field in fields} for finding in findings]
        click.echo(json.dumps(rows, indent=2))
    else:
        table = Table("", "subject", "found", "remedy", header_style="bold")
        for finding in findings:
            status = f"[{_STYLES[finding.status]}]{finding.status}[/]"
            remedy = "" if finding.status == "ok" else escape(printable(finding.remedy or ""))
            subject, found = (escape(printable(text)) for text in (finding.subject, finding.found))
            table.add_row(status, subject, found, remedy)
        Console().print(table)
    statuses = {finding.status for finding in findings}
    if "error" in statuses:
        sys.exit(EXIT_ERROR)
    if "warning" in statuses:
        sys.exit(EXIT_FINDINGS)
