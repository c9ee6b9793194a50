"""``fovea-site``: what a hospital types. Heavy libraries load in the command that needs them."""

from pathlib import Path

import click

from client.commands.approval import approve, revoke, waiting
from client.commands.audit_log import audit
from client.commands.auditing import audit_pack
from client.commands.ledger import ledger
from client.commands.pausing import pause, resume
from client.commands.peers import peers
from client.commands.pinning import update_pins
from client.commands.processes import connector, run, trainer
from client.commands.setup import check, init, prepare
from client.commands.standing import status
from client.home.folders import DEFAULT_HOME, HOME_VARIABLE


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="fovea", prog_name="fovea-site")
@click.option(
    "--home",
    type=click.Path(path_type=Path),
    envvar=HOME_VARIABLE,
    default=DEFAULT_HOME,
    show_default=True,
    show_envvar=True,
    help="Folder of the site; may also follow the command.",
)
def main(home: Path) -> None:
    """Take part in a federation: train on this hospital's pictures, which never leave it.

    \b
    fovea-site init --kit kit-north   make the site; send admission.json to the coordinator
    fovea-site prepare                read the pictures once
    fovea-site check                  is everything ready?
    fovea-site run                    take part (a workstation; services: deploy/systemd)
    fovea-site waiting                runs that ask to be approved
    fovea-site approve RUN            look at one and approve it
    fovea-site status                 how it goes
    fovea-site ledger show            what it has told of patients, at most
    fovea-site audit-pack MODEL       a model on this hospital's own pictures, kept here
    fovea-site peers list             sites it adds its updates to, where a run sums them

    Exit codes of every command: 0 as asked, 1 an error (the message says the remedy), 2 wrong
    usage, 3 done, but warnings or findings.
    """  # noqa: D301 - click's mark for lines that stay as they are


COMMANDS = (
    *(init, prepare, check, run, status),
    *(waiting, approve, revoke, pause, resume, audit, ledger),
    *(audit_pack, peers, update_pins, trainer, connector),
)
for command in COMMANDS:
    main.add_command(command)

if __name__ == "__main__":
    main()
