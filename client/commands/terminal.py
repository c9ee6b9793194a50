"""What every command of ``fovea-site`` shares: the site's folder, exit codes, shown errors."""

import functools
import os
import pwd
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn, ParamSpec, TypeVar

import click
from pydantic import JsonValue
from rich.console import Console
from rich.markup import escape

from client.home.folders import DEFAULT_HOME, HOME_VARIABLE, SiteHome
from common.errors import ConfigError, FoveaError
from common.machine.printable import printable

EXIT_ERROR = 1  # something was wrong; the message says what and what to do
EXIT_FINDINGS = 3  # done, but there is something that a person should look at

MAKES_A_SITE = "init"  # every other command needs one

P = ParamSpec("P")
R = TypeVar("R")


def site_command(command: Callable[P, R]) -> Callable[..., R]:
    """Give a command its site as first argument, by --home here or before it, and show errors."""

    def with_site(
        context: click.Context, /, home: Path | None, *args: object, **options: object
    ) -> R:
        chosen = SiteHome(_folder(context, home))
        try:
            if context.info_name != MAKES_A_SITE:
                _look_for_a_site(chosen)
            return command(chosen, *args, **options)  # type: ignore[arg-type]
        except FoveaError as error:
            fail(str(error))
        except PermissionError as error:
            fail(_not_yours(error))
        except OSError as error:  # a full disk, a file taken away meanwhile
            fail(f"{os.fsdecode(error.filename or chosen.root)}: {error.strerror}.")

    functools.update_wrapper(with_site, command)
    option = click.option(
        "--home",
        type=click.Path(path_type=Path),
        help=f"Folder of the site.  [default: ${HOME_VARIABLE}, or {DEFAULT_HOME}]",
    )
    return option(click.pass_context(with_site))


def as_json(command: Callable[P, R]) -> Callable[P, R]:
    """Give a command the option --json."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, nothing else.")(
        command
    )


def present() -> datetime:
    """Return the time."""
    return datetime.now(UTC)


def record(home: SiteHome, event: str, **fields: JsonValue) -> None:
    """Write what a person did into the audit log."""
    from client.records.audit import AuditLog  # noqa: PLC0415 - brings Flower

    AuditLog(home.audit_log).append(event, present(), **fields)


def fail(message: str) -> NoReturn:
    """Show an error and end."""
    # Part of it may come from outside: it must not move the cursor.
    lines = "\n".join(printable(line) for line in message.split("\n"))
    shown = f"[bold red]error[/]: {escape(lines)}"
    Console(stderr=True).print(shown, highlight=False, soft_wrap=True)
    sys.exit(EXIT_ERROR)


def _folder(context: click.Context, named: Path | None) -> Path:
    before: Path | None = context.find_root().params.get("home")
    return (named or before or DEFAULT_HOME).absolute()


def _look_for_a_site(home: SiteHome) -> None:
    if not home.root.is_dir():
        raise ConfigError(
            f"{home.root}: there is no site here. Make one with `fovea-site init --kit DIR`, or "
            f"name its folder with --home or {HOME_VARIABLE}."
        )


def _not_yours(error: PermissionError) -> str:
    path = Path(os.fsdecode(error.filename or "a file"))
    owner = _owner_above(path)
    remedy = f" Run it as {owner}: sudo -u {owner} fovea-site …" if owner else ""
    return f"{path}: you may not use it.{remedy}"


def _owner_above(path: Path) -> str | None:
    """Return who owns a file, or the nearest folder above it that can be looked at."""
    for place in (path, *path.parents):
        try:
            return pwd.getpwuid(place.stat().st_uid).pw_name
        except (OSError, KeyError):
            continue
    return None
