"""Every class of a task on its own: how right, and where it looks, after training.

Light: works on a summary alone.
"""

from html import escape

from server.record.summary import EstimateEntry, Estimates, Summary, TaskEntry
from server.report.comparison import count, interval, number

ANSWERS = {"auroc": "AUROC", "sensitivity": "Sensitivity", "specificity": "Specificity"}
LOOKS = {"pointing_hit": "Map peak in lesion", "energy_in_roi": "Map energy in lesion"}


def class_table(summary: Summary, task: str) -> str:
    """Return a task's classes as a closed HTML <details>; "" if it was never evaluated."""
    evaluated = summary.evaluated(task)
    if not evaluated:
        return ""
    entry = evaluated[-1][1]
    looked = entry.localisation.per_class
    # A graded task is asked one question per grade, and has one map for all of them.
    names = dict.fromkeys([*entry.classification.per_class, *looked, *entry.context_share])
    heads = ["Class", *ANSWERS.values(), "Pictures (positive)", *LOOKS.values(), "Cases", "Context"]
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    body = "".join(_row(name, entry) for name in names)
    title = escape(summary.tasks[task].title)
    return (
        f"<details><summary>{title}: class by class</summary>"
        f'<div class="wide"><table><tr>{head}</tr>{body}</table></div></details>'
    )


def concept_table(summary: Summary, task: str) -> str:
    """Return a task's signs as a closed HTML <details>; "" if none was ever evaluated."""
    evaluated = summary.evaluated(task)
    if not evaluated or not evaluated[-1][1].concepts:
        return ""
    heads = ["Sign", "AUROC", "Pictures (positive)", *LOOKS.values(), "Energy by chance", "Cases"]
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    body = "".join(_sign(name, found) for name, found in evaluated[-1][1].concepts.items())
    title = escape(summary.tasks[task].title)
    return (
        f"<details><summary>{title}: signs beside the diagnosis</summary>"
        f'<div class="wide"><table><tr>{head}</tr>{body}</table></div></details>'
    )


def _sign(name: str, found: Estimates) -> str:
    energy = found.get("energy_in_roi")
    cells = [
        escape(_in_words(name)),
        _cell(found.get("auroc")),
        _support(found),
        *[_cell(found.get(metric)) for metric in LOOKS],
        "–" if energy is None or energy.chance is None else number(energy.chance),
        "–" if energy is None else count(energy.support),
    ]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _row(name: str, entry: TaskEntry) -> str:
    answers = entry.classification.per_class.get(name, {})
    looks = entry.localisation.per_class.get(name, {})
    share = entry.context_share.get(name)
    cells = [
        escape(_in_words(name)),
        *[_cell(answers.get(metric)) for metric in ANSWERS],
        _support(answers),
        *[_cell(looks.get(metric)) for metric in LOOKS],
        count(max((e.support for e in looks.values()), default=0)) if looks else "–",
        "–" if share is None else f"{share:.0%}",
    ]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _in_words(name: str) -> str:
    if name == "severity":
        return "all grades, one map"
    return name.replace("_", " ").replace(">=", " ≥ ")


def _cell(entry: EstimateEntry | None) -> str:
    if entry is None or entry.value is None:
        return "–"
    bounds = "" if entry.low is None else f"<br><span class=faint>{interval(entry)}</span>"
    return f'<span title="{escape(entry.note)}">{number(entry.value)}</span>{bounds}'


def _support(estimates: Estimates) -> str:
    first = next(iter(estimates.values()), None)
    return "–" if first is None else f"{first.support} ({count(first.positives)})"
