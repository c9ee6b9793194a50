"""Explanation methods side by side, in words, in rows, and as a table file.

Light: works on a summary alone.
"""

import csv
import io

from common.pages.method_words import METHODS
from server.record.class_words import in_words
from server.record.summary import EstimateEntry, MethodEntry, MethodsEntry, Summary
from server.report.comparison import interval, number, when

TABLE_FILE = "method_comparison.csv"
COLUMNS = (
    "Method",
    "Energy in lesion ↑",
    "Peak in lesion ↑",
    "Deletion ↓",
    "Insertion ↑",
    "Like the model's own map",
    "Seconds a picture",
)
MEASURES = ("energy_in_roi", "pointing_hit", "deletion", "insertion", "agreement_spearman")
NOT_COMPARED = (
    "Methods: not compared (evaluation.method_pictures is 0, evaluation.methods is empty, or no "
    "reference picture has an outlined lesion)."
)
NOT_TRAINED = "Methods: not compared, no head was trained here."
IN_BRACKETS = "In brackets what chance gives."


def no_methods_sentence(summary: Summary) -> str:
    """Say why no task has methods side by side, "" where one has."""
    if summary.closing is None or summary.closing.methods:
        return ""
    is_untrained = set(summary.tasks) == set(summary.closing.left_out)
    return NOT_TRAINED if is_untrained else NOT_COMPARED


def methods_sentence(summary: Summary, task: str) -> str:
    """Say what was compared on what, and what was cut; "" if nothing was compared."""
    found = _found(summary, task)
    if summary.closing is None or found is None:
        return ""
    cases = ", ".join(f"{count} {in_words(name)}" for name, count in found.cases.items())
    noun = "picture" if found.pictures == 1 else "pictures"
    parts = [
        f"Model of {when(summary.closing.round)}, {found.pictures} reference {noun} with an "
        f"outlined lesion{f' ({cases})' if cases else ''}."
    ]
    if cut := found.of_pictures - found.pictures:
        parts.append(
            f"{cut} more {'was' if cut == 1 else 'were'} chosen and not reached: "
            "evaluation.method_seconds were over."
        )
    if found.pictures and not _has_interval(found):
        parts.append("Too few patients for intervals: an impression of this model, no ranking.")
    return " ".join(parts)


def method_rows(summary: Summary, task: str) -> list[tuple[str, ...]]:
    """Return the rows below COLUMNS; one that failed ends with why."""
    found = _found(summary, task)
    return [] if found is None else [_row(row) for row in found.rows]


def refusals(summary: Summary, task: str) -> tuple[str, ...]:
    """Say which methods would not explain some of the pictures."""
    found = _found(summary, task)
    if found is None:
        return ()
    return tuple(
        f"{_title(row.method)}: {row.refused} pictures not explained and left out: "
        f"{row.why_refused}"
        for row in found.rows
        if row.refused and not row.failure
    )


def methods_csv(summary: Summary) -> str | None:
    """Return all tasks' methods as one table with value, interval and chance; None: there is none.

    One line per task and method; what is not defined is empty.
    """
    if summary.closing is None or not summary.closing.methods:
        return None
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    parts = [f"{name}{end}" for name in MEASURES for end in ("", "_low", "_high", "_chance")]
    writer.writerow(["task", "method", "pictures", "failure", "seconds", *parts])
    for task, found in summary.closing.methods.items():
        for row in found.rows:
            numbers = [number for name in MEASURES for number in _numbers(row.estimates.get(name))]
            pictures = 0 if row.failure else found.pictures - row.refused
            writer.writerow([task, row.method, pictures, row.failure, row.seconds, *numbers])
    return text.getvalue()


def _numbers(entry: EstimateEntry | None) -> tuple[float | None, ...]:
    if entry is None:
        return (None,) * 4
    return (entry.value, entry.low, entry.high, entry.chance)


def _found(summary: Summary, task: str) -> MethodsEntry | None:
    return None if summary.closing is None else summary.closing.methods.get(task)


def _has_interval(found: MethodsEntry) -> bool:
    return any(entry.low is not None for row in found.rows for entry in row.estimates.values())


def _row(row: MethodEntry) -> tuple[str, ...]:
    if row.failure:
        return (_title(row.method), f"no figures: {row.failure}")
    seconds = "–" if row.seconds is None else f"{row.seconds:.2f}"
    cells = [_cell(row.estimates.get(name)) for name in MEASURES]
    return (_title(row.method), *cells, seconds)


def _cell(entry: EstimateEntry | None) -> str:
    if entry is None or entry.value is None:
        return "–"
    bounds = "" if entry.low is None else f" {interval(entry)}"
    # Two unlike maps agree by 0: a chance that needs no saying.
    chance = f" ({number(entry.chance)})" if entry.chance else ""
    return f"{number(entry.value)}{bounds}{chance}"


def _title(method: str) -> str:
    return METHODS[method][0] if method in METHODS else method
