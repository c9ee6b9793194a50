"""What a page may say of an explanation: numbers and words that name their place in its JSON."""

import re
from html import escape

from pydantic import JsonValue

from common.errors import DataError
from common.explanation.pointer import pointer
from common.pages.figures import FORMS, WORDINGS, read


class Sheet:
    """Writes values of one document as HTML; a value cannot be written without its source."""

    def __init__(self, document: JsonValue) -> None:
        """Take the explanation as the JSON that lies beside the page."""
        self.document = document
        self.anchors: dict[str, str] = {}  # source → id of the first element that shows it

    def number(self, source: str, form: str) -> str:
        """Return ``<data>`` with the value of a source, written in a form of ``FORMS``.

        Raises DataError where the source is no number.
        """
        value = read(self.document, source)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise DataError(f"{source}: a page shows a number here, the explanation has {value!r}.")
        return (
            f'<data{self._anchor(source)} value="{value!r}" data-from="{escape(source)}" '
            f'data-as="{form}">{escape(FORMS[form](value))}</data>'
        )

    def words(self, source: str, wording: str = "plain") -> str:
        """Return ``<span>`` with the text of a source, worded as in ``WORDINGS``.

        Raises DataError where the source is no text.
        """
        text = self.text(source)
        return (
            f'<span{self._anchor(source)} data-from="{escape(source)}" data-as="{wording}">'
            f"{escape(WORDINGS[wording](text))}</span>"
        )

    def text(self, source: str) -> str:
        """Return a source's text as it is. Raises DataError where it is none."""
        text = read(self.document, source)
        if not isinstance(text, str):
            raise DataError(f"{source}: a page shows a text here, the explanation has {text!r}.")
        return text

    def option(
        self, value: str, source: str, wording: str = "plain", *, is_selected: bool = False
    ) -> str:
        """Return an ``<option>`` with the text of a source. Raises DataError where it is none."""
        return (
            f'<option value="{escape(value)}" data-from="{escape(source)}" data-as="{wording}"'
            f"{' selected' if is_selected else ''}>{escape(WORDINGS[wording](self.text(source)))}"
            "</option>"
        )

    def value(self, source: str) -> JsonValue:
        """Return what a source names, as it is."""
        return read(self.document, source)

    @staticmethod
    def below(at: str, key: str) -> str:
        """Return the pointer to a key below a pointer."""
        return at + pointer(key)

    @staticmethod
    def key(at: str, key: str) -> str:
        """Return ``<span>`` with a key of the object at a pointer: a region's name, a library's."""
        return f'<span data-key-of="{escape(at)}">{escape(key)}</span>'

    def _anchor(self, source: str) -> str:
        if source in self.anchors:
            return ""
        name = "at" + re.sub(r"[^A-Za-z0-9]+", "-", source)
        if name in self.anchors.values():
            return ""  # two sources that differ in signs alone: the first keeps the name
        self.anchors[source] = name
        return f' id="{name}"'
