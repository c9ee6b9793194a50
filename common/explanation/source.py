"""What a sentence may say: it is given values by name only, and the names are kept with it."""

from typing import Self

from common.errors import DataError
from common.explanation.pointer import pointer
from common.explanation.schema import About, Explanation, Part, Sentence

_NOTHING = object()


class Source:
    """One sentence in the making: every value read through it is among what the sentence uses."""

    def __init__(self, explanation: Explanation) -> None:
        """Start a sentence about an explanation."""
        self._explanation = explanation
        self._uses: dict[tuple[str | int, ...], None] = {}  # in the order of reading

    def number(self, *parts: str | int) -> float:
        """Return a number, e.g. ``number("findings", 0, "probability")``."""
        value = self._value(parts)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise DataError(f"{pointer(*parts)} is no number but {type(value).__name__}.")
        return float(value)

    def text(self, *parts: str | int) -> str:
        """Return a text."""
        value = self._value(parts)
        if not isinstance(value, str):
            raise DataError(f"{pointer(*parts)} is no text but {type(value).__name__}.")
        return value

    def numbers(self, *parts: str | int) -> tuple[float, ...]:
        """Return a list of numbers; a sentence may state any of them, and how many there are."""
        value = self._value(parts)
        if not isinstance(value, tuple) or not all(isinstance(one, int | float) for one in value):
            raise DataError(f"{pointer(*parts)} is no list of numbers.")
        return tuple(map(float, value))

    def fact(self, *parts: str | int) -> bool:
        """Return whether something is so."""
        value = self._value(parts)
        if not isinstance(value, bool):
            raise DataError(f"{pointer(*parts)} is not true or false but {type(value).__name__}.")
        return value

    def is_there(self, *parts: str | int) -> bool:
        """Return whether a part is known; what is not known is among what the sentence uses."""
        is_known = self._value(parts) is not None
        if is_known:
            del self._uses[parts]  # the values read from it are named instead
        return is_known

    def rests_on(self, *parts: str | int) -> Self:
        """Name a value that the sentence was chosen by without stating it."""
        self._value(parts)
        return self

    def says(self, about: About, text: str) -> Sentence:
        """Return the sentence."""
        return Sentence(about=about, text=text, uses=tuple(pointer(*parts) for parts in self._uses))

    def _value(self, parts: tuple[str | int, ...]) -> object:
        value: object = self._explanation
        for part in parts:
            if isinstance(value, Part):
                value = vars(value).get(str(part), _NOTHING)  # its fields, and nothing else
            elif isinstance(value, dict):
                value = value.get(part, _NOTHING)
            elif isinstance(value, tuple) and isinstance(part, int) and 0 <= part < len(value):
                value = value[part]
            else:
                value = _NOTHING
            if value is _NOTHING:
                raise DataError(f"an explanation has nothing at {pointer(*parts)}.")
        self._uses[parts] = None
        return value
