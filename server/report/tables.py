"""Tables of text cells as HTML and as Markdown; a row with fewer cells ends in one that spans.

Light.
"""

from collections.abc import Sequence
from html import escape


def html_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of escaped text that scrolls sideways where it is too wide."""
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join(f"<tr>{_cells(cells, len(columns))}</tr>" for cells in rows)
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; a bar within a cell is escaped, which would end the cell."""
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for cells in rows:
        whole = [*cells, *[""] * (len(columns) - len(cells))]
        lines.append("| " + " | ".join(_plain(cell) for cell in whole) + " |")
    return "\n".join(lines)


def _cells(cells: Sequence[str], width: int) -> str:
    *some, last = cells
    spans = width - len(some)
    wide = f" colspan={spans}" if spans > 1 else ""
    before = "".join(f"<td>{escape(cell)}</td>" for cell in some)
    return f"{before}<td{wide}>{escape(last)}</td>"


def _plain(cell: str) -> str:
    return " ".join(cell.split()).replace("|", "\\|")
