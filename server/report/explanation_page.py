"""The part of index.html on explanations: alarms, signs that carry a class, methods, sites.

Light: works on a summary alone.
"""

from collections.abc import Iterable, Mapping
from html import escape

from server.record.summary import Summary
from server.report import explanation_summary as explanations
from server.report import method_table, sign_table, site_table
from server.report.definitions import METHOD_WORDS, SIGN_WORDS, SITE_WORDS
from server.report.tables import html_table


def watched_section(summary: Summary) -> str:
    """Return alarms first, the numbers of every class behind a click; "" if nobody watched."""
    if not explanations.is_watched(summary):
        return ""
    alarms = "".join(f"<span>{escape(s)}</span>" for s in explanations.standing_alarms(summary))
    said = f'<p class="warn">{alarms}</p>' if alarms else f"<p>{escape(explanations.NO_ALARM)}</p>"
    if former := explanations.former_alarms(summary):
        said += _faint(f"Earlier: {'; '.join(former)}.")
    tables = "".join(_looks(summary, task) for task in summary.tasks)
    return (
        f"<h2>Do its reasons hold?</h2>{said}{tables}{_faint(explanations.WHAT_IT_MEANS)}"
        f"{_faint(explanations.cost_sentence(summary))}{_sites(summary)}"
    )


def closing_sections(summary: Summary) -> str:
    """Return which signs carry a class and how methods compare; "" if neither was measured."""
    if summary.closing is None:
        return ""
    return _signs(summary) + _methods(summary)


def _looks(summary: Summary, task: str) -> str:
    rows = explanations.look_rows(summary, task)
    if not rows:
        return ""
    return _folded(
        f"{summary.tasks[task].title}: drift and shortcuts, class by class",
        _faint(explanations.watched_sentence(summary, task))
        + html_table(explanations.COLUMNS, rows),
    )


def _sites(summary: Summary) -> str:
    """Return sites by classes; "" where no site's model was seen."""
    parts = []
    for task, about in summary.tasks.items():
        if rows := site_table.site_rows(summary, task):
            parts.append(f"<p><strong>{escape(about.title)}</strong></p>")
            parts.append(_list(site_table.stand_apart(summary, task)))
            parts.append(html_table(site_table.site_columns(summary, task), rows))
    if not parts:
        return ""
    return f"<h2>Which sites look elsewhere?</h2>{_faint(SITE_WORDS)}{''.join(parts)}"


def _signs(summary: Summary) -> str:
    parts = []
    for task, about in summary.tasks.items():
        if sentence := sign_table.signs_sentence(summary, task):
            parts.append(f"<p><strong>{escape(about.title)}</strong> {escape(sentence)}</p>")
            parts.append(_list(sign_table.carried_sentences(summary, task)))
            if rows := sign_table.sign_rows(summary, task):
                table = html_table(sign_table.COLUMNS, rows)
                parts.append(_folded(f"{about.title}: every class and sign", table))
    heading = "<h2>Which signs carry its answers?</h2>"
    heading += "".join(_faint(said) for said in sign_table.left_out_sentences(summary))
    if not parts:
        return f"{heading}<p>{escape(sign_table.no_signs_sentence(summary))}</p>"
    return f"{heading}{''.join(parts)}{_words(SIGN_WORDS)}"


def _methods(summary: Summary) -> str:
    parts = []
    for task, about in summary.tasks.items():
        if rows := method_table.method_rows(summary, task):
            sentence = method_table.methods_sentence(summary, task)
            parts.append(f"<p><strong>{escape(about.title)}</strong> {escape(sentence)}</p>")
            parts.append(html_table(method_table.COLUMNS, rows))
            parts += [_faint(said) for said in method_table.refusals(summary, task)]
    heading = "<h2>Explanation methods side by side</h2>"
    if not parts:
        return f"{heading}<p>{escape(method_table.no_methods_sentence(summary))}</p>"
    return f"{heading}{''.join(parts)}{_faint(method_table.IN_BRACKETS)}{_words(METHOD_WORDS)}"


def _folded(title: str, content: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{content}</details>"


def _list(sentences: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(said)}</li>" for said in sentences)
    return f"<ul>{items}</ul>" if items else ""


def _faint(text: str) -> str:
    return f'<p class="faint">{escape(text)}</p>'


def _words(definitions: Mapping[str, str]) -> str:
    items = "".join(
        f"<dt>{escape(word)}</dt><dd>{escape(meaning)}</dd>"
        for word, meaning in definitions.items()
    )
    return f"<dl>{items}</dl>"
