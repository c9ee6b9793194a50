"""Pausing a site, and going on."""

import json
from typing import TypedDict

import click

from client.commands.terminal import present, record, site_command
from client.home.folders import SiteHome
from client.home.ownership import as_owner, make_folder, person


class Pause(TypedDict):
    """Who paused the site, when and why."""

    since: str
    by: str
    reason: str


@click.command()
@click.option("--reason", default="", help="Kept at the site; it does not leave it.")
@site_command
def pause(home: SiteHome, reason: str) -> None:
    """Refuse every request from now on, until `fovea-site resume`.

    A round that is being trained is finished. The coordinator sees that a person has paused the
    site and goes on without it; processes may stay up.

    \b
    fovea-site pause --reason "new scanner, pictures are being checked"

    Exit codes: 0 paused, 1 an error (the message says the remedy), 2 wrong usage.
    """  # noqa: D301 - click's mark for lines that stay as they are
    from common.files.whole_file import write_whole  # noqa: PLC0415 - only where files change

    if home.pause_marker.exists():
        click.echo("The site is paused already.")
        return
    by = person()
    note = Pause(since=present().isoformat(timespec="seconds"), by=by, reason=reason)
    # First the deed: a full log must not keep a site from pausing.
    with as_owner(home.pause_marker):
        make_folder(home.pause_marker.parent)
        write_whole(home.pause_marker, json.dumps(note, indent=1).encode() + b"\n", mode=0o600)
    record(home, "site-paused", by=by, reason=reason)
    click.echo("Paused. Requests are refused until `fovea-site resume`.")


@click.command()
@site_command
def resume(home: SiteHome) -> None:
    """Answer requests again after `fovea-site pause`.

    Exit codes: 0 it answers, 1 an error (the message says the remedy), 2 wrong usage.
    """
    from common.files.whole_file import sync_folder  # noqa: PLC0415 - only where files change

    if not home.pause_marker.exists():
        click.echo("The site is not paused.")
        return
    record(home, "site-resumed", by=person())
    with as_owner(home.pause_marker):
        home.pause_marker.unlink()
        sync_folder(home.pause_marker.parent)
    click.echo("Requests are answered again.")


def read_pause(home: SiteHome) -> Pause | None:
    """Return who paused the site, None when it is not, or is not known."""
    try:
        values = json.loads(home.pause_marker.read_bytes())
    except FileNotFoundError:
        return None
    except PermissionError:
        return None  # the connector's user may not look into the trainer's folder
    except ValueError:
        values = None  # made by hand: it pauses the site all the same
    told = values if isinstance(values, dict) else {}
    return Pause(
        since=str(told.get("since", "?")),
        by=str(told.get("by", "?")),
        reason=str(told.get("reason", "")),
    )
