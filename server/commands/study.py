"""What attackers get, measured: a study to run on this machine, beside no federation."""

import json
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from common.errors import FoveaError
from server.commands.failing import fail

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.progress import TaskID

    from common.config.run import RunConfig
    from common.studies.audit import Progress as AuditProgress
    from common.studies.audit_config import AuditConfig
    from common.studies.audit_results import Check, Findings

EXIT_UNEXPECTED = 3  # an attack failed that must succeed, or succeeded where something protects
RESULT_FILE = "audit.json"


@click.command(name="audit-privacy")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("out/audit"),
    show_default=True,
    help="Folder for everything the study writes.",
)
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    default=Path("configs/studies/audit.yaml"),
    show_default=True,
    help="The study's settings.",
)
@click.option("--quick", is_flag=True, help="About two minutes: shows that it runs.")
@click.option("--json", "as_json", is_flag=True, help="Print audit.json, nothing else.")
def audit_privacy(out: Path, config_path: Path, *, quick: bool, as_json: bool) -> None:
    """Attack generated patients, with and without protection, and say what came of it.

    Pictures from one update, members from a released model, and canaries that hold the private
    step against the epsilon the ledger would claim. The folder OUT then holds index.html with
    the pictures, audit.json and the MLflow database. The whole study takes about a quarter of an
    hour on two busy cores.

    Exit codes: 0 as expected, 1 an error (the message says the remedy), 2 wrong usage,
    3 an expectation failed.
    """
    console = Console(stderr=as_json)
    try:
        from common.studies.audit import carry_out  # noqa: PLC0415 - brings torch
        from common.studies.audit_config import load_audit_config  # noqa: PLC0415
        from common.studies.audit_results import as_json as in_words  # noqa: PLC0415
        from common.studies.audit_results import judge  # noqa: PLC0415
        from common.studies.audit_tables import (  # noqa: PLC0415
            tables_of,
            terminal_table,
            verdict_of,
        )

        config = load_audit_config(config_path, quick=quick)
        out = out.resolve()
        out.mkdir(parents=True, exist_ok=True)
        with _bars(console) as progress:
            findings = carry_out(config, progress=progress)
        checks = judge(findings, config)
        _keep(findings, checks, config, out=out)
    except FoveaError as error:
        fail(error)
    if as_json:
        click.echo(json.dumps(in_words(findings, checks, config), indent=2))
    else:
        for table in tables_of(findings, checks, config):
            console.print(terminal_table(table))
        console.print(f"{verdict_of(checks)}  ({findings.seconds:.0f} s)", markup=False)
        console.print(f"pictures  {out / 'index.html'}", soft_wrap=True, markup=False)
    sys.exit(0 if all(check.is_met for check in checks) else EXIT_UNEXPECTED)


def _keep(
    findings: "Findings", checks: "Sequence[Check]", config: "AuditConfig", *, out: Path
) -> None:
    """Write figures, pictures and page, and track them."""
    from common.studies.audit_config import run_of  # noqa: PLC0415
    from common.studies.audit_page import (  # noqa: PLC0415
        PAGE_FILE,
        SHEET_FILE,
        draw_sheet,
        write_page,
    )
    from common.studies.audit_results import as_json  # noqa: PLC0415
    from common.studies.audit_tables import tables_of, verdict_of  # noqa: PLC0415

    figures = out / RESULT_FILE
    text = json.dumps(as_json(findings, checks, config), indent=2) + "\n"
    figures.write_text(text, encoding="utf-8")
    sheet = draw_sheet(findings.reconstructions, out / SHEET_FILE)
    page = write_page(
        tables_of(findings, checks, config),
        verdict=verdict_of(checks),
        sheet=sheet,
        seconds=findings.seconds,
        path=out / PAGE_FILE,
    )
    run = run_of(config, model=config.inversion.model)
    _track(run, findings, verdict=verdict_of(checks), out=out, sheet=sheet, files=[figures, page])


def _track(
    run: "RunConfig",
    findings: "Findings",
    *,
    verdict: str,
    out: Path,
    sheet: Path,
    files: "Sequence[Path]",
) -> None:
    from common.studies.audit_results import metrics_of  # noqa: PLC0415
    from server.journal.tracking import start_tracking  # noqa: PLC0415 - brings mlflow

    tracker = start_tracking(run, out=out, tags={"fovea.kind": "privacy audit"})
    tracker.log_config(run, out=out)
    tracker.describe(verdict)
    tracker.log_metrics(metrics_of(findings), step=0)
    tracker.log_picture(sheet, key="reconstructions", step=0)
    for path in files:
        tracker.log_file(path)
    tracker.close()


@contextmanager
def _bars(console: Console) -> "Iterator[AuditProgress]":
    """Show one bar for each kind of attack."""
    from rich.progress import (  # noqa: PLC0415 - every command would wait for it
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
    )

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    ) as bars:
        known: dict[str, TaskID] = {}

        def show(part: str, done: int, of: int) -> None:
            if part not in known:
                known[part] = bars.add_task(part, total=of)
            bars.update(known[part], completed=done)

        yield show
