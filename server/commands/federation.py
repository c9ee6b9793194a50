"""Commands on a federation: provision, admit, retire, renew, sites, serve."""

import json
import logging
import sys
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from server.commands.failing import failing_plainly, home_option
from server.operations.home import CoordinatorHome


@click.command()
@click.argument("federation", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="The coordinator's folder: keys, certificates and kits go there.",
)
@failing_plainly
def provision(federation: Path, out: Path) -> None:
    """Make authority, server certificate, run key and a kit per site of FEDERATION.

    FEDERATION is a YAML file (configs/federations/example.yaml documents every key). Nothing that
    exists is made anew: add a site to the file and provision again for its kit alone.

    Then: keep ca/ca.key offline if you can, send every hospital its folder of kits/, and tell it
    both fingerprints by telephone.
    """
    from server.operations.federation_file import read_federation  # noqa: PLC0415
    from server.operations.provision import provision as make  # noqa: PLC0415

    done = make(read_federation(federation), CoordinatorHome(out), now=datetime.now(UTC))
    click.echo(f"made: {', '.join(done.made) or 'nothing, all was there'}")
    for site in done.outdated_kits:
        click.echo(f"kit of {site} is from other values: fovea renew kits --home {out}")
    click.echo(f"kits, one per site, nothing secret: {done.kits}")
    click.echo(f"authority fingerprint  {done.authority_fingerprint}")
    click.echo(f"run key fingerprint    {done.run_key_fingerprint}")
    click.echo(f"server certificate expires {done.certificate_expires:%Y-%m-%d}")
    click.echo(f"next: fovea serve --home {out}")


@click.command()
@click.argument("admission", type=click.Path(path_type=Path))
@home_option
@failing_plainly
def admit(admission: Path, home: CoordinatorHome) -> None:
    """Let the site that sent ADMISSION (its admission.json) take part.

    Compare its fingerprints by telephone first: from now on its keys stand for the hospital.
    Needs `fovea serve` running. The same file again changes nothing.
    """
    from common.messages.admission import read_admission  # noqa: PLC0415
    from server.operations.admitted import admit as take_in  # noqa: PLC0415
    from server.operations.flower_control import control_of  # noqa: PLC0415

    with control_of(home) as control:
        site = take_in(home, read_admission(admission), control, datetime.now(UTC))
    click.echo(f"site {site.site} ({site.task}) may connect, as node {site.node_id}")


@click.command()
@click.argument("site")
@home_option
@failing_plainly
def retire(site: str, home: CoordinatorHome) -> None:
    """Let SITE take part no more; nobody else is touched.

    Its node cannot connect again and its keys are never admitted again. Needs `fovea serve`.
    """
    from server.operations.admitted import retire as shut_out  # noqa: PLC0415
    from server.operations.flower_control import control_of  # noqa: PLC0415

    with control_of(home) as control:
        gone = shut_out(home, site, control=control, now=datetime.now(UTC))
    click.echo(f"site {gone.site} is retired")


RENEWABLE = (
    "server",
    "authority",
    "drop-authority",
    "run-key",
    "drop-run-key",
    "kits",
)


@click.command()
@click.argument("what", type=click.Choice(RENEWABLE))
@click.option(
    "--sites-updated",
    is_flag=True,
    help="Every site has pinned the current authority (for server).",
)
@click.option(
    "--drop-former",
    is_flag=True,
    help="The former run key counts no more, at once: it was lost or stolen (for run-key).",
)
@click.option(
    "--federation",
    type=click.Path(path_type=Path),
    help="The federation's file as it shall be from now on.  [default: the one in --home]",
)
@home_option
@failing_plainly
def renew(
    what: str,
    sites_updated: bool,
    drop_former: bool,
    federation: Path | None,
    home: CoordinatorHome,
) -> None:
    """Renew one thing; former files are kept beside the new ones.

    server: its certificate, before it expires. Sites need do nothing; restart `fovea serve`.

    authority, then server --sites-updated, then drop-authority: sites get new kits and
    run `fovea-site update-pins` in between.

    run-key, then drop-run-key once every site has its new kit.

    kits: after the federation's file has changed.
    """
    from server.commands.renewing import renew_one  # noqa: PLC0415

    for line in renew_one(
        home,
        what,
        federation or home.federation_file,
        sites_updated=sites_updated,
        keep_former=not drop_former,
        now=datetime.now(UTC),
    ):
        click.echo(line)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON, nothing else.")
@home_option
@failing_plainly
def sites(as_json: bool, home: CoordinatorHome) -> None:
    """List the federation's sites: admitted or not, connected or not."""
    from server.operations.site_list import list_sites  # noqa: PLC0415

    listed = list_sites(home)
    if as_json:
        click.echo(json.dumps([site.model_dump(mode="json") for site in listed.sites], indent=2))
        return
    table = Table(box=None, pad_edge=False)
    for column in ("site", "task", "state", "node", "last seen"):
        table.add_column(column)
    for site in listed.sites:
        seen = f"{site.online_until:%Y-%m-%d %H:%M}" if site.online_until else ""
        table.add_row(site.name, site.task, site.state, str(site.node_id or ""), seen)
    Console().print(table)
    if listed.problem:
        click.echo(f"connections are unknown: {listed.problem}", err=True)


@click.command()
@click.option("--json-log", is_flag=True, help="Write events as JSON lines.")
@home_option
@failing_plainly
def serve(json_log: bool, home: CoordinatorHome) -> None:
    """Keep Flower's SuperLink running for this federation, until SIGTERM or Ctrl-C.

    It listens on 127.0.0.1 alone: its control API asks for no password. Hospitals connect to the
    federation's endpoint, where the reverse proxy of deploy/ passes on the fleet paths and nothing
    else. When the SuperLink dies it is started again; runs that it was running show as interrupted
    in `fovea runs` and go on with `fovea resume`.
    """
    from common.machine.log import configure  # noqa: PLC0415
    from server.operations.serve import serve as keep_running  # noqa: PLC0415

    configure(level=logging.INFO, as_json=json_log, stream=sys.stderr)
    keep_running(home, say=click.echo)
