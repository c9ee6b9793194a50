"""How the site stands, from what its processes say and from its files when they are away."""

import json
import sys
import time
from typing import TYPE_CHECKING

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from client.commands.pausing import Pause, read_pause
from client.commands.terminal import EXIT_FINDINGS, as_json, present, site_command
from client.home.folders import SiteHome
from common.machine.printable import printable

if TYPE_CHECKING:
    from client.standing.status import SiteStatus

_WATCHED_EVERY_S = 2.0


@click.command()
@click.option("--watch", is_flag=True, help="Show it anew every two seconds, until Ctrl-C.")
@as_json
@site_command
def status(home: SiteHome, watch: bool, as_json: bool) -> None:
    """Say whether this site is fit to take part, and if not, what to do.

    Healthy means connected to the coordinator, able to train, and no run waiting for a person. It
    answers without trainer and connector too, from the files that they have left.

    Exit codes: 0 healthy, 1 an error (the message says the remedy), 2 wrong usage, 3 not healthy.
    """
    if watch:
        _watch(home)
        return
    stands, paused = _look(home)
    if as_json:
        told = stands.model_dump(mode="json") | {"paused": paused}
        click.echo(json.dumps(told, indent=2))
    else:
        Console().print(_view(stands, paused))
    if not stands.healthy:
        sys.exit(EXIT_FINDINGS)


def _watch(home: SiteHome) -> None:
    with Live(_view(*_look(home)), auto_refresh=False) as live:
        try:
            while True:
                time.sleep(_WATCHED_EVERY_S)
                live.update(_view(*_look(home)), refresh=True)
        except KeyboardInterrupt:
            return


def _look(home: SiteHome) -> tuple["SiteStatus", Pause | None]:
    from client.standing.status import site_status  # noqa: PLC0415 - brings gRPC

    return site_status(home, present()), read_pause(home)


def _view(stands: "SiteStatus", paused: Pause | None) -> RenderableType:
    from client.standing.status import status_view  # noqa: PLC0415 - brings gRPC

    lines = []
    if not stands.trainer_serving:
        lines.append("No trainer runs: this is what the site's files say.")
    if paused is not None:
        lines.append(f"Paused since {paused['since']} by {paused['by']}. {paused['reason']}")
        lines.append("Requests are refused until `fovea-site resume`.")
    return Group(*(Text(printable(line), style="yellow") for line in lines), status_view(stands))
