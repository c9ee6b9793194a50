"""The part of report.md on explanations: alarms, signs that carry a class, methods, sites.

Light: works on a summary alone.
"""

from collections.abc import Mapping

from server.record.summary import Summary
from server.report import explanation_summary as explanations
from server.report import method_table, sign_table, site_table
from server.report.definitions import METHOD_WORDS, SIGN_WORDS, SITE_WORDS
from server.report.tables import markdown_table


def watched_blocks(summary: Summary) -> list[str]:
    """Return the alarms and what the maps of the last round say; [] if nobody watched them."""
    if not explanations.is_watched(summary):
        return []
    alarms = explanations.standing_alarms(summary)
    blocks = ["## Explanations", "\n".join(f"- **{s}**" for s in alarms) or explanations.NO_ALARM]
    if former := explanations.former_alarms(summary):
        blocks.append(f"Earlier: {'; '.join(former)}.")
    for task, about in summary.tasks.items():
        if rows := explanations.look_rows(summary, task):
            sentence = explanations.watched_sentence(summary, task)
            blocks += [f"**{about.title}** {sentence}", markdown_table(explanations.COLUMNS, rows)]
    blocks += [explanations.WHAT_IT_MEANS, explanations.cost_sentence(summary)]
    return [*blocks, *_site_blocks(summary)]


def closing_blocks(summary: Summary) -> list[str]:
    """Return which signs carry a class and how methods compare; [] if neither was measured."""
    return [] if summary.closing is None else [*_sign_blocks(summary), *_method_blocks(summary)]


def _site_blocks(summary: Summary) -> list[str]:
    blocks = []
    for task, about in summary.tasks.items():
        if rows := site_table.site_rows(summary, task):
            blocks.append(f"**{about.title}**")
            if apart := site_table.stand_apart(summary, task):
                blocks.append("\n".join(f"- {said}" for said in apart))
            blocks.append(markdown_table(site_table.site_columns(summary, task), rows))
    return ["## Which sites look elsewhere", SITE_WORDS, *blocks] if blocks else []


def _sign_blocks(summary: Summary) -> list[str]:
    blocks = []
    for task, about in summary.tasks.items():
        if sentence := sign_table.signs_sentence(summary, task):
            blocks.append(f"**{about.title}** {sentence}")
            if carried := sign_table.carried_sentences(summary, task):
                blocks.append("\n".join(f"- {said}" for said in carried))
            if rows := sign_table.sign_rows(summary, task):
                blocks.append(markdown_table(sign_table.COLUMNS, rows))
    heading = ["## Signs that carry a class", *sign_table.left_out_sentences(summary)]
    if not blocks:
        return [*heading, sign_table.no_signs_sentence(summary)]
    return [*heading, *blocks, _words(SIGN_WORDS)]


def _method_blocks(summary: Summary) -> list[str]:
    blocks = []
    for task, about in summary.tasks.items():
        if rows := method_table.method_rows(summary, task):
            sentence = method_table.methods_sentence(summary, task)
            blocks.append(f"**{about.title}** {sentence}")
            blocks.append(markdown_table(method_table.COLUMNS, rows))
            blocks += [f"- {said}" for said in method_table.refusals(summary, task)]
    heading = "## Explanation methods side by side"
    if not blocks:
        return [heading, method_table.no_methods_sentence(summary)]
    return [heading, *blocks, method_table.IN_BRACKETS, _words(METHOD_WORDS)]


def _words(definitions: Mapping[str, str]) -> str:
    return "\n".join(f"- **{word}**: {meaning}." for word, meaning in definitions.items())
