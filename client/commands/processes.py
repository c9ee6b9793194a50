"""The programs that stay: trainer, connector, and both under one supervisor."""

import logging
import sys

import click
from rich.console import Console

from client.commands.terminal import site_command
from client.home.folders import SiteHome
from common.machine.log import configure


@click.command()
@site_command
def run(home: SiteHome) -> None:
    """Run this site on a workstation: trainer and connector, watched and restarted.

    Both run under one user, so the network's side could read what the trainer reads. In a
    hospital, install the two services of deploy/systemd instead: `fovea-site trainer` and
    `fovea-site connector` under users of their own.

    Ctrl-C or SIGTERM ends it: a round that is being trained is finished and kept first.

    Exit codes: 0 ended as asked, 1 an error (the message says the remedy), 2 wrong usage.
    """
    from client.operations.supervisor import run_site  # noqa: PLC0415 - brings the schema

    Console(stderr=True).print(
        "trainer and connector run under one user: they are not isolated from each other",
        style="yellow",
        highlight=False,
        soft_wrap=True,
    )
    _log(as_json=False)
    run_site(home)


@click.command()
@click.option("--log-json", is_flag=True, help="Log JSON lines instead of text.")
@site_command
def trainer(home: SiteHome, log_json: bool) -> None:
    """Run the trainer alone: it reads the pictures and has no network.

    What the service fovea-trainer starts. It answers on the site's Unix socket and stays
    until SIGTERM, which lets it finish and keep the round that it trains.

    Exit codes: 0 ended as asked, 1 an error (the message says the remedy), 2 wrong usage.
    """
    from client.operations.trainer_process import run_trainer  # noqa: PLC0415 - brings torch

    _log(as_json=log_json)
    run_trainer(home)


@click.command()
@click.option("--log-json", is_flag=True, help="Log JSON lines instead of text.")
@site_command
def connector(home: SiteHome, log_json: bool) -> None:
    """Run the connector alone: it speaks with the coordinator and sees no picture.

    What the service fovea-connector starts, under a user who can open neither data nor
    policy nor keys of the trainer. It stays until SIGTERM.

    Exit codes: 0 ended as asked, 1 an error (the message says the remedy), 2 wrong usage.
    """
    from client.network.connector import run_connector  # noqa: PLC0415 - brings Flower

    _log(as_json=log_json)
    run_connector(home)


def _log(*, as_json: bool) -> None:
    configure(level=logging.INFO, as_json=as_json, stream=sys.stderr)
