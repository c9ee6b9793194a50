"""The index of a folder of explanations: a line per picture, and what went wrong."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import quote

from common.errors import DataError
from common.files.whole_file import write_whole
from common.pages.answer import SUPPORT, standing
from common.pages.page import whole_page


@dataclass(frozen=True)
class IndexEntry:
    """One picture of a folder."""

    page: str  # file name beside the index, "" where there is no page
    title: str  # the picture's name
    answer: str  # "" where there is no page
    is_novel: bool | None  # None: not known of this model
    is_sure: bool | None  # None: the task has no prediction sets
    failure: str  # why there is no page, "" where there is one


def write_index(entries: Sequence[IndexEntry], path: Path) -> None:
    """Write the index; its folder must be there. Novel pictures and open answers say so.

    Raises DataError for an entry that has neither a page nor a failure.
    """
    done = [one for one in entries if not one.failure]
    failed = [one for one in entries if one.failure]
    for one in done:
        if not one.page:
            raise DataError(f"{one.title}: has neither a page nor a failure. Give it one of them.")
    open_ones = sum(bool(one.is_novel) or one.is_sure is False for one in done)
    unmeasured = sum(not one.is_novel and one.is_sure is None for one in done)
    without = f" How sure it is was not measured of {unmeasured}." if unmeasured else ""
    rows = "".join(map(_row, done))
    table = (
        '<div class="wide"><table class="index"><thead><tr><th scope="col">Picture</th>'
        '<th scope="col">The model says</th><th scope="col">How far it holds</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
        if done
        else "<p>No picture could be explained.</p>"
    )
    broken = "".join(
        f"<li><b>{escape(one.title)}</b>: {escape(one.failure)}</li>" for one in failed
    )
    body = (
        "<main><header><h1>Explanations</h1>"
        f"<p>{_counted(len(done), 'picture')}, {open_ones} of them not sure or unlike what the "
        f"model knows.{without} {_counted(len(failed), 'file')} could not be explained.</p>"
        f'<p class="support">{SUPPORT}</p></header>{table}'
        + (f"<h2>Could not be explained</h2><ul>{broken}</ul>" if failed else "")
        + "</main>"
    )
    write_whole(path, whole_page(title="Explanations", body=body).encode())


def _row(entry: IndexEntry) -> str:
    return (
        f'<tr><th scope="row"><a href="{escape(quote(entry.page))}">{escape(entry.title)}</a></th>'
        f"<td>{escape(entry.answer[:1].upper() + entry.answer[1:])}</td>"
        f"<td>{standing(is_novel=entry.is_novel, is_sure=entry.is_sure)}</td></tr>"
    )


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
