"""Taking over a coordinator's new keys, after a person has compared them."""

import json
from pathlib import Path

import click

from client.commands.terminal import present, record, site_command
from client.home.folders import SiteHome
from client.home.ownership import person


@click.command("update-pins")
@click.argument("kit", type=click.Path(path_type=Path))
@click.option("--yes", is_flag=True, help="Do not ask; for scripts of people who have compared.")
@site_command
def update_pins(home: SiteHome, kit: Path, yes: bool) -> None:
    """Trust the certificate authority and run key of a new KIT, beside or instead of the old.

    Needed when the coordinator renews them. Compare the fingerprints with the coordinator by
    telephone before you say yes: whoever holds the run key can ask this site to train.

    Exit codes: 0 as asked, 1 an error or not confirmed, 2 wrong usage.
    """
    from client.trust import pins  # noqa: PLC0415 - brings cryptography

    changes = pins.pin_changes(home, kit, now=present())
    if changes.is_empty:
        click.echo("Nothing would change: this site has these pins already.")
        return
    listed: dict[str, list[str]] = {
        "new certificate authority": list(changes.new_authorities),
        "dropped certificate authority": list(changes.dropped_authorities),
        "new run key": list(changes.new_run_keys),
        "dropped run key": list(changes.dropped_run_keys),
        "coordinator's address": [] if changes.coordinator is None else [*changes.coordinator],
    }
    for what, values in listed.items():
        for value in values:
            click.echo(f"{what}: {value}")
    if not changes.continues:
        click.echo("None of the pinned keys stays: this may be another coordinator altogether.")
    if not yes:
        click.confirm("Have you compared them by telephone, and shall they be trusted?", abort=True)
    # First the log: a key that is trusted is never missing from it.
    record(home, "pins-updated", by=person(), changes=json.dumps(listed, sort_keys=True))
    pins.update_pins(home, kit, now=present())
    click.echo("Done. Restart trainer and connector, so that both use them.")
