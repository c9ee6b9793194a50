"""What a reviewer reads at the end of a run: a table in the terminal, report.md, index.html."""

from pathlib import Path

from rich import box
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from server.exchange.participation import Status
from server.record.protection import epsilon_columns, epsilon_rows, protection
from server.record.summary import Summary
from server.report import explanation_summary as explanations
from server.report.comparison import (
    Row,
    attendance,
    averaged_classes,
    count,
    interval,
    late_sentence,
    number,
    remarks,
    site_columns,
    site_rows,
    standing_sentence,
    task_rows,
    trained_rounds,
    when,
)
from server.report.curves import draw_curves
from server.report.definitions import DEFINITIONS, MARKS, MEASURED_ON, lead
from server.report.explanation_blocks import closing_blocks, watched_blocks
from server.report.method_table import TABLE_FILE, methods_csv
from server.report.page import PAGE_FILE, write_page
from server.report.tables import markdown_table

CURVES_FILE = "curves.png"
MARKDOWN_FILE = "report.md"
METHODS = "explanation methods"  # what the table file is

STATUS_STYLE = {Status.COMPLETE: "bold green", Status.PARTIAL: "bold yellow"}
STYLE = {"better": "green", "worse": "red", "unclear": ""}
COLUMNS = {  # name → width
    "Measure": 23,
    "Baseline": 8,
    "Before": 6,
    "After": 6,
    "95 % interval": 14,
    "Cases": 8,
    "Patients": 8,
}


def report_files(out: Path) -> dict[str, Path]:
    """Return where a run's report lies, by what each file is; METHODS is not always there."""
    return {
        "curves": out / CURVES_FILE,
        "report": out / MARKDOWN_FILE,
        "page": out / PAGE_FILE,
        METHODS: out / TABLE_FILE,
    }


def write_report(summary: Summary, out: Path) -> dict[str, Path]:
    """Write the curves and the pages of a run into its folder; returns what each file is."""
    files = report_files(out)
    draw_curves(summary, files["curves"])
    files["report"].write_text(markdown(summary), encoding="utf-8")
    write_page(summary, out, curves=CURVES_FILE)
    table = methods_csv(summary)
    if table is None:
        del files[METHODS]
    else:
        files[METHODS].write_text(table, encoding="utf-8")
    return files


def render_table(summary: Summary, console: Console) -> None:
    """Print the closing table, what is not clearly learned, and why a run is not complete."""
    shown = [r.round for r in summary.rounds] or [0]
    heading = f"{summary.name}: {when(shown[0])} → {when(shown[-1])}"
    console.print(Text(heading, style="bold"))
    for task, about in summary.tasks.items():
        console.print()
        console.print(Text.assemble((about.title, "bold"), _over(summary, task)))
        console.print(_table(summary, task))
    console.print()
    console.print(LEGEND, style="dim", highlight=False)
    for sentence in lead(summary):
        console.print(Text(sentence, style="dim"))
    for sentence in protection(summary):
        console.print(Text(sentence))
    for sentence in remarks(summary):
        console.print(Text(f"≈ {sentence}", style="yellow"))
    for sentence in explanations.standing_alarms(summary):
        console.print(Text(f"! {sentence}", style="yellow"))
    style = STATUS_STYLE.get(summary.verdict, "bold red")
    console.print(Text.assemble((summary.verdict, style), f" in {summary.wall_s:.0f} s"))
    for reason in summary.reasons:
        console.print(Text(f"  {reason}"))
    if late := late_sentence(summary):
        console.print(Text(late))
    if not summary.tracking.is_complete:
        lacking = f"MLflow lacks a part of this run: {summary.tracking.unsent} holds it."
        console.print(Text(lacking, style="yellow"))


LEGEND = (
    "Baseline: the commonest answer for classification, the same map laid down at random for "
    "localisation. ▲ the whole interval lies above it, ▼ below it, ≈ cannot be told. "
    "Cases: pictures, for the map pairs of picture and finding. "
    "Patients: those with a positive picture."
)


def markdown(summary: Summary) -> str:
    """Return the report as Markdown."""
    parts = [
        f"# {summary.name}: {summary.verdict}",
        " ".join(f"**{sentence}**" for sentence in lead(summary)),
        f"{attendance(summary)} answered throughout, {trained_rounds(summary)} rounds, "
        f"{summary.wall_s:.0f} s, seed {summary.seed}. Started {summary.started_at}. "
        f"{late_sentence(summary)}".strip(),
        *[f"- {reason}" for reason in summary.reasons],
        "## Before and after",
        *_markdown_tables(summary),
        f"{standing_sentence(summary)} {MEASURED_ON}".strip(),
        "\n".join(f"- **{word}**: {meaning}." for word, meaning in DEFINITIONS.items()),
        *[f"- {sentence}" for sentence in remarks(summary)],
        *watched_blocks(summary),
        *closing_blocks(summary),
        "## Privacy",
        *_privacy_blocks(summary),
        "## Sites",
        *_site_lines(summary),
        "## Pictures",
        *[f"![{name}]({path})" for name, path in summary.files.items() if path.endswith(".png")],
    ]
    return "\n\n".join(parts) + "\n"


def _table(summary: Summary, task: str) -> Table:
    # No padding, no edge: it fits a terminal of 80 columns.
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    for column, width in COLUMNS.items():
        justify: JustifyMethod = "left" if column == "Measure" else "right"
        table.add_column(column, justify=justify, no_wrap=True, min_width=width)
    for row in task_rows(summary, task):
        table.add_row(*_cells(row), style=STYLE[row.standing])
    return table


def _over(summary: Summary, task: str) -> str:
    classes = averaged_classes(summary, task)
    return f" · {classes}" if classes else ""


def _markdown_tables(summary: Summary) -> list[str]:
    blocks = []
    for task, about in summary.tasks.items():
        lines = ["| " + " | ".join(COLUMNS) + " |", "|---" + "|---:" * (len(COLUMNS) - 1) + "|"]
        lines += ["| " + " | ".join(_cells(row)) + " |" for row in task_rows(summary, task)]
        blocks += [f"**{about.title}**{_over(summary, task)}", "\n".join(lines)]
    return blocks


def _cells(row: Row) -> tuple[str, ...]:
    """Return a row's cells in the order of COLUMNS."""
    before, after = row.before, row.after
    return (
        row.measure,
        number(row.baseline),
        number(None if before is None else before.value),
        number(None if after is None else after.value),
        f"{interval(after)} {MARKS[row.standing]}",
        count(None if after is None else after.support),
        count(None if after is None else after.positive_patients),
    )


def _site_lines(summary: Summary) -> list[str]:
    return [markdown_table(site_columns(summary), [row.cells for row in site_rows(summary)])]


def _privacy_blocks(summary: Summary) -> list[str]:
    """Return what protects patients and what does not; of a run with noise, ε by round."""
    blocks = ["\n".join(f"- {sentence}" for sentence in protection(summary))]
    if rows := epsilon_rows(summary):
        blocks.append(markdown_table(epsilon_columns(summary), rows))
    return blocks
