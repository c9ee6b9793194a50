"""How every command ends: exit codes, and one way to say what went wrong."""

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import NoReturn, ParamSpec

import click
from rich.console import Console
from rich.markup import escape

from common.errors import FoveaError
from server.operations.home import DEFAULT_HOME, HOME_VARIABLE, CoordinatorHome

EXIT_ERROR = 1  # something was wrong; the message says what and what to do
EXIT_PARTIAL = 3  # the run ended, but a required site or round is missing
EXIT_FAILED = 4  # the run failed: it broke off, or produced no model
EXIT_BY_VERDICT = {"COMPLETE": 0, "PARTIAL": EXIT_PARTIAL, "FAILED": EXIT_FAILED}

P = ParamSpec("P")


def show_error(error: FoveaError) -> None:
    """Say on standard error what was wrong."""
    message = f"[bold red]error[/]: {escape(str(error))}"
    Console(stderr=True).print(message, highlight=False, soft_wrap=True)


def fail(error: FoveaError) -> NoReturn:
    """Show an error and end with EXIT_ERROR."""
    show_error(error)
    sys.exit(EXIT_ERROR)


def failing_plainly(command: Callable[P, None]) -> Callable[P, None]:
    """Let a command show the project's own errors as sentences, not as tracebacks."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except FoveaError as error:
            fail(error)

    return run


def _home(context: click.Context, parameter: click.Parameter, root: Path) -> CoordinatorHome:
    del context, parameter
    return CoordinatorHome(root)


overrides_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change one key for this run, e.g. --set train.epochs=2. Repeatable.",
)
home_option = click.option(
    "--home",
    type=click.Path(path_type=Path),
    callback=_home,
    envvar=HOME_VARIABLE,
    default=str(DEFAULT_HOME),
    show_default=True,
    metavar="DIR",
    help=f"The coordinator's folder, which `fovea provision` made; or ${HOME_VARIABLE}.",
)
