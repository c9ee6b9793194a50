"""index.html of a run: tables and pictures that open from the folder, without any server."""

import json
from html import escape
from pathlib import Path

from server.exchange.participation import Status
from server.measuring.overlay_files import (
    average_file,
    before_after_file,
    extremes_file,
    round_files,
    sites_file,
    strip_file,
)
from server.record.protection import epsilon_columns, epsilon_rows, protection
from server.record.summary import EstimateEntry, Summary
from server.report.class_table import class_table, concept_table
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
)
from server.report.definitions import DEFINITIONS, MARKS, MEASURED_ON, lead
from server.report.explanation_page import closing_sections, watched_section
from server.report.tables import html_table

PAGE_FILE = "index.html"

# A whole run is no praise of its model: the badge of one that ended well keeps quiet.
BADGE = {
    Status.COMPLETE: "run complete",
    Status.PARTIAL: "run partial",
    Status.FAILED: "run failed",
}

# Pictures of a task beside its rounds, behind a click.
MORE = {
    "on average, class by class": average_file,
    "best and worst cases": extremes_file,
    "one case over the rounds": strip_file,
    "one case as the sites' own models see it": sites_file,
}

STYLE = """
:root { color-scheme: light; --ink: #1a1e24; --faint: #626a74; --line: #e4e7eb; }
body { margin: 0 auto; padding: 2.5rem 1.5rem 5rem; max-width: 72rem; color: var(--ink);
       font: 16px/1.5 system-ui, sans-serif; }
h1 { margin: 0; font-size: 1.9rem; } h2 { margin: 3rem 0 .75rem; font-size: 1.3rem; }
p.lead, .faint { color: var(--faint); } p.lead { margin-top: .25rem; }
.verdict { padding: .15rem .7rem; border-radius: 1rem; font-size: 1rem; font-weight: 500;
           color: #fff; white-space: nowrap; }
.COMPLETE { background: #626a74; }
.PARTIAL { background: #9a6700; } .FAILED { background: #b42318; }
table { border-collapse: collapse; width: 100%; font-size: .93rem; }
th { text-align: left; font-weight: 600; color: var(--faint); }
th, td { padding: .35rem .8rem .35rem 0; border-bottom: 1px solid var(--line); }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
td.after { font-weight: 700; }
.bar { position: relative; width: 11rem; height: .9rem; margin-top: .3rem;
       background: #f2f4f6; border-radius: 2px; }
.bar i { position: absolute; top: 0; bottom: 0; background: #0072b2; opacity: .3; }
.bar b { position: absolute; top: 0; bottom: 0; width: 3px; margin-left: -1px;
         background: #0072b2; }
.bar u { position: absolute; top: -3px; bottom: -3px; width: 0; border-left: 2px dashed #626a74; }
img { max-width: 100%; height: auto; } figure { margin: 1rem 0; }
p.warn { border-left: 4px solid #9a6700; padding: .3rem 0 .3rem .9rem; margin: 1rem 0; }
p.warn span { display: block; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.2rem; margin: 1rem 0;
     font-size: .93rem; } dt { font-weight: 600; } dd { margin: 0; color: var(--faint); }
details { margin: .6rem 0; } summary { cursor: pointer; } .wide { overflow-x: auto; }
td { vertical-align: top; } .better { color: #1a7f4b; } .worse { color: #b42318; }
@media (max-width: 40rem) { dl { grid-template-columns: 1fr; } body { padding: 1rem; } }
@media print { .wide { overflow: visible; } tr, figure { break-inside: avoid; }
               h2 { break-after: avoid; } body { padding: 0; max-width: none; } }
input[type=range] { width: min(28rem, 70%); vertical-align: middle; }
"""

# Steps through a task's pictures by round; the page reads well without it too.
SCRIPT = """
for (const slider of document.querySelectorAll("input[data-pictures]")) {
  const pictures = JSON.parse(slider.dataset.pictures);
  const figure = slider.closest("figure");
  slider.addEventListener("input", () => {
    const [round, path] = pictures[slider.value];
    figure.querySelector("img").src = path;
    figure.querySelector("output").textContent = "round " + round;
  });
}
"""


def write_page(summary: Summary, out: Path, *, curves: str) -> Path:
    """Write index.html beside the pictures it shows."""
    body = "\n".join(
        [
            _heading(summary),
            "<h2>Before and after training</h2>",
            f'<p class="faint">{escape(MEASURED_ON)}</p>',
            _table(summary),
            _definitions(),
            _remarks(summary),
            *[class_table(summary, task) for task in summary.tasks],
            *[concept_table(summary, task) for task in summary.tasks],
            *[_task_pictures(summary, task, out) for task in summary.tasks],
            watched_section(summary),
            closing_sections(summary),
            "<h2>Round by round</h2>",
            f'<figure><img src="{escape(curves)}" alt="AUROC, energy in lesion and loss"></figure>',
            "<h2>Privacy</h2>",
            _privacy(summary),
            "<h2>Sites</h2>",
            _sites(summary),
            _colophon(summary),
        ]
    )
    path = out / PAGE_FILE
    path.write_text(
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(summary.name)}</title><style>{STYLE}</style></head>\n"
        f"<body>{body}<script>{SCRIPT}</script></body></html>\n",
        encoding="utf-8",
    )
    return path


def _heading(summary: Summary) -> str:
    warnings = "".join(f"<span>{escape(sentence)}</span>" for sentence in lead(summary))
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in summary.reasons)
    return (
        f"<h1>{escape(summary.name)} "
        f'<span class="verdict {summary.verdict}">{BADGE[summary.verdict]}: '
        f"{attendance(summary)}</span></h1>"
        f'<p class="lead">{len(summary.tasks)} tasks, {trained_rounds(summary)} rounds '
        f"in {summary.wall_s:.0f} s. {escape(standing_sentence(summary))} "
        f"{escape(late_sentence(summary))}</p>"
        f'<p class="warn">{warnings}</p>' + (f"<ul>{reasons}</ul>" if reasons else "")
    )


def _table(summary: Summary) -> str:
    head = (
        "<tr><th>Measure</th><th class=number>Baseline</th><th class=number>Before</th>"
        "<th class=number>After</th><th>95 % interval, baseline dashed</th><th></th>"
        "<th class=number>Cases</th><th class=number>Positive patients</th></tr>"
    )
    body = ""
    for task, about in summary.tasks.items():
        classes = escape(averaged_classes(summary, task))
        body += f"<tr><td colspan=8><strong>{escape(about.title)}</strong> "
        body += f"<span class=faint>{classes}</span></td></tr>"
        body += "".join(_table_row(row) for row in task_rows(summary, task))
    return f'<div class="wide"><table>{head}{body}</table></div>'


def _table_row(row: Row) -> str:
    before = None if row.before is None else row.before.value
    after = None if row.after is None else row.after.value
    return (
        f"<tr><td>{escape(row.measure)}</td><td class=number>{number(row.baseline)}</td>"
        f"<td class=number>{number(before)}</td><td class='number after'>{number(after)}</td>"
        f"<td>{_bar(row.after)}</td><td>{interval(row.after)} "
        f"<span class={row.standing}>{MARKS[row.standing]}</span></td>"
        f"<td class=number>{count(None if row.after is None else row.after.support)}</td>"
        f"<td class=number>{count(None if row.after is None else row.after.positive_patients)}</td>"
        "</tr>"
    )


def _bar(entry: EstimateEntry | None) -> str:
    """Draw value, interval and baseline on a scale from 0 to 1."""
    if entry is None or entry.value is None:
        return ""
    marks = f'<b style="left:{_percent(entry.value)}"></b>'
    if entry.low is not None and entry.high is not None:
        width = _percent(entry.high - entry.low)
        marks = f'<i style="left:{_percent(entry.low)};width:{width}"></i>' + marks
    if entry.chance is not None:
        marks += f'<u style="left:{_percent(entry.chance)}"></u>'
    return f'<div class="bar">{marks}</div>'


def _definitions() -> str:
    items = "".join(
        f"<dt>{escape(word)}</dt><dd>{escape(meaning)}</dd>"
        for word, meaning in DEFINITIONS.items()
    )
    return f"<dl>{items}</dl>"


def _remarks(summary: Summary) -> str:
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in remarks(summary))
    return f"<p>What does not clearly beat its baseline:</p><ul>{items}</ul>" if items else ""


def _folded(path: Path, out: Path, what: str) -> str:
    """Return a picture behind a click, "" where it was not drawn."""
    if not path.exists():
        return ""
    place = escape(path.relative_to(out).as_posix())
    return (
        f"<details><summary>{what}</summary>"
        f'<figure><img src="{place}" alt="{what}" loading="lazy"></figure></details>'
    )


def _task_pictures(summary: Summary, task: str, out: Path) -> str:
    files = round_files(out, task)
    if not files:
        return ""
    title = escape(summary.tasks[task].title)
    parts = [f"<h2>Where it looks: {title}</h2>"]
    strip = before_after_file(out, task)
    if strip.exists():
        path = escape(strip.relative_to(out).as_posix())
        parts.append(f'<figure><img src="{path}" alt="{title}, before and after"></figure>')
    parts += [_folded(file(out, task), out, f"{title}: {what}") for what, file in MORE.items()]
    pictures = [[number, file.relative_to(out).as_posix()] for number, file in files.items()]
    if len(pictures) > 1:
        last, newest = pictures[-1]
        parts.append(
            f"<details><summary>Step through the rounds</summary><figure>"
            f'<input type="range" min="0" max="{len(pictures) - 1}" value="{len(pictures) - 1}" '
            f'aria-label="round" data-pictures="{escape(json.dumps(pictures))}"> '
            f"<output>round {last}</output><br>"
            f'<img src="{escape(str(newest))}" alt="{title}, round by round"></figure></details>'
        )
    return "".join(parts)


def _privacy(summary: Summary) -> str:
    """Say what protects patients and what does not; of a run with noise, ε by round."""
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in protection(summary))
    rows = epsilon_rows(summary)
    table = html_table(epsilon_columns(summary), rows) if rows else ""
    return f"<ul>{items}</ul>{table}"


def _sites(summary: Summary) -> str:
    return html_table(site_columns(summary), [row.cells for row in site_rows(summary)])


def _colophon(summary: Summary) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in summary.versions.items())
    return (
        f'<p class="faint">Started {escape(summary.started_at)}, seed {summary.seed}, '
        f"configuration {escape(summary.config_digest[:12])}. {escape(versions)}. "
        f"MLflow run {escape(summary.tracking.run_id)} at {escape(summary.tracking.uri)}.</p>"
    )


def _percent(share: float) -> str:
    return f"{100 * min(max(share, 0.0), 1.0):.1f}%"
