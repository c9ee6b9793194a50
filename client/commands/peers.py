"""Which other hospitals this one adds its updates to: their keys' fingerprints, by telephone."""

import json

import click

from client.commands.terminal import as_json, record, site_command
from client.home.folders import SiteHome
from client.home.ownership import as_owner, person


@click.group()
def peers() -> None:
    """Say which other hospitals' keys this site trusts when updates are summed under masks.

    In such a run nobody sees one hospital's update alone, as long as the others are really other
    hospitals and not made up by the coordinator. So each pair of hospitals calls once: both type
    `fovea-site peers show`, read the fingerprint out, and the other side pins it with
    `fovea-site peers add`. A site whose key is not pinned here is never summed with.

    \b
    fovea-site peers show
    fovea-site peers add valley "1a2b 3c4d 5e6f 7081 92a3 b4c5 d6e7 f809"
    fovea-site peers list
    """  # noqa: D301 - click's mark for lines that stay as they are


@peers.command()
@as_json
@site_command
def show(home: SiteHome, as_json: bool) -> None:
    """Show this site's own name and fingerprint, to be read out by telephone.

    Exit codes: 0 shown, 1 an error (the message says the remedy), 2 wrong usage.
    """
    name, fingerprint = _own(home)
    if as_json:
        click.echo(json.dumps({"site": name, "fingerprint": fingerprint}, indent=2))
        return
    click.echo(f"{name}  {fingerprint}")
    click.echo(f'The other hospital types: fovea-site peers add {name} "{fingerprint}"')


@peers.command()
@click.argument("name")
@click.argument("fingerprint", nargs=-1, required=True)
@site_command
def add(home: SiteHome, name: str, fingerprint: tuple[str, ...]) -> None:
    """Pin the site NAME with the FINGERPRINT that it has read out by telephone.

    NAME is what the run's manifest calls it. FINGERPRINT is 32 hexadecimal digits, with or without
    spaces, as `fovea-site peers show` shows it there. Take it from a person at that hospital, never
    from the coordinator. It holds from the next request on; the audit log keeps who pinned it.

    \b
    fovea-site peers add valley "1a2b 3c4d 5e6f 7081 92a3 b4c5 d6e7 f809"

    Exit codes: 0 pinned, 1 an error (the message says the remedy), 2 wrong usage.
    """  # noqa: D301 - click's mark for lines that stay as they are
    from client.trust import peers as pinned  # noqa: PLC0415 - brings cryptography
    from common.errors import ConfigError  # noqa: PLC0415 - beside it

    name, given = pinned.check_name(name), pinned.fingerprint_of(" ".join(fingerprint))
    own_name, own_fingerprint = _own(home)
    if name == own_name or given == own_fingerprint:
        raise ConfigError(f"{name} {given}: is this site itself. Pin the other hospital's.")
    pins = pinned.read_pins(home.peers)
    if pins.get(name) == given:
        click.echo(f"{name} is pinned with this fingerprint already.")
        return
    if name in pins:
        raise ConfigError(
            f"{name} is pinned with another fingerprint, {pins[name]!r}. If that hospital has told "
            f"you of a new key, first type `fovea-site peers remove {name}`."
        )
    if twins := sorted(other for other, known in pins.items() if known == given):
        raise ConfigError(f"{twins[0]} is pinned with this fingerprint: two sites have two keys.")
    # First the log: a key that is trusted is never missing from it.
    record(home, "peer-pinned", by=person(), peer=name, fingerprint=given)
    pinned.write_pins(home.peers, {**pins, name: given})
    click.echo(f"{name} is pinned.")


@peers.command("list")
@as_json
@site_command
def list_pinned(home: SiteHome, as_json: bool) -> None:
    """List the pinned sites with their fingerprints.

    Exit codes: 0 listed, also where there is none; 1 an error (the message says the remedy),
    2 wrong usage.
    """
    from client.trust.peers import read_pins  # noqa: PLC0415 - brings cryptography

    pins = read_pins(home.peers)
    if as_json:
        click.echo(json.dumps(pins, indent=2))
        return
    width = max((len(name) for name in pins), default=0)
    for name, fingerprint in pins.items():
        click.echo(f"{name:{width}}  {fingerprint}")
    if not pins:
        click.echo("No other site is pinned. Begin with `fovea-site peers show`.")


@peers.command()
@click.argument("name")
@site_command
def remove(home: SiteHome, name: str) -> None:
    """Trust the key of the site NAME no longer; runs that it takes part in are refused from now on.

    Exit codes: 0 removed, 1 an error (the message says the remedy), 2 wrong usage.
    """
    from client.trust.peers import read_pins, write_pins  # noqa: PLC0415 - brings cryptography
    from common.errors import ConfigError  # noqa: PLC0415 - beside it

    pins = read_pins(home.peers)
    if name not in pins:
        known = ", ".join(pins) or "none"
        raise ConfigError(f"{name} is not pinned. Pinned are: {known}.")
    # First the deed: a full log must not keep a key trusted.
    write_pins(home.peers, {other: known for other, known in pins.items() if other != name})
    record(home, "peer-unpinned", by=person(), peer=name, fingerprint=pins[name])
    click.echo(f"{name} is no longer pinned.")


def _own(home: SiteHome) -> tuple[str, str]:
    from client.home.site import read_site_name  # noqa: PLC0415 - brings the configuration's schema
    from common.messages.signing import read_private_key  # noqa: PLC0415 - brings cryptography

    with as_owner(home.trainer):
        name = read_site_name(home.site_file)
        return name, read_private_key(home.signing_key).public.fingerprint
