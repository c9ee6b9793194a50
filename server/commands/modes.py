"""``fovea modes``: what goes with noise, with masks, and with both."""

import json

import click
from rich import box
from rich.console import Console
from rich.table import Table


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON, nothing else.")
def modes(as_json: bool) -> None:
    """Show what goes with which way of protecting updates, and why the rest does not.

    plain: neither noise nor masks. secure: updates are summed under masks. dp: every site adds
    noise. both: noise, then masks. `fovea launch` and `fovea simulate` refuse what does not go
    together, before any site hears of the run.
    """
    from server.planning.compatibility import MODES, ROWS, cell_text, numbered_reasons  # noqa: PLC0415 - schema

    if as_json:
        click.echo(json.dumps(_as_json(), indent=2, ensure_ascii=False))
        return
    console = Console()
    reasons = numbered_reasons()
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    # As wide as their longest cell: with a space between them they fit into 80 columns.
    for column in ("", "", *MODES):
        table.add_column(column, no_wrap=True)
    said = ""
    for row in ROWS:
        cells = [cell_text(row.cell(mode), reasons) for mode in MODES]
        about = "" if row.about == said else row.about
        table.add_row(about, row.what.replace("`", ""), *cells)
        said = row.about
    console.print(table)
    for reason, number in reasons.items():
        console.print(f"({number}) {reason}", markup=False, highlight=False)


def _as_json() -> dict[str, object]:
    from server.planning.compatibility import MODE_WORDS, MODES, ROWS  # noqa: PLC0415 - brings the schema

    rows = [
        {
            "about": row.about,
            "what": row.what.replace("`", ""),
            "key": row.key,
            "value": row.value,
            **{
                mode: {"says": c.says, "reason": c.reason}
                for mode, c in zip(MODES, row.cells, strict=True)
            },
        }
        for row in ROWS
    ]
    return {"modes": dict(MODE_WORDS), "rows": rows}
