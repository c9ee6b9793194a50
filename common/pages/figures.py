"""Every number of a page: where it comes from in the explanation's JSON, and how it is written.

A source is a JSON pointer (RFC 6901), ``/findings/0/probability``, or a derivation of what
pointers name, ``mean(/roi/coverage)``. Pure; a reader can do all of it again from the file.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence

from pydantic import JsonValue

from common.errors import DataError
from common.explanation.confidence_words import likelihood_words, percent_words
from common.explanation.derived import area, spoken_name
from common.explanation.figures import figure
from common.explanation.pointer import resolve

_DERIVATION = re.compile(r"(\w+)\(([^()]*)\)")


def largest(values: Sequence[float]) -> float:
    """Return the largest positive value, 0 where none is positive."""
    return max(0.0, *values)


def largest_against(values: Sequence[float]) -> float:
    """Return the size of the most negative value, 0 where none is negative."""
    return max(0.0, *(-value for value in values))


def total_for(values: Sequence[float]) -> float:
    """Return the sum of the positive values."""
    return math.fsum(value for value in values if value > 0)


def total_against(values: Sequence[float]) -> float:
    """Return the size of the sum of the negative values."""
    return math.fsum(-value for value in values if value < 0)


def mean(values: Sequence[float]) -> float:
    """Return the mean: for a region's coverage the share of the picture that it covers.

    Of several random orders it is the area under their mean curve, up to rounding.
    """
    return math.fsum(values) / len(values)


def least(values: Sequence[float]) -> float:
    """Return the smallest value."""
    return min(values)


def most(values: Sequence[float]) -> float:
    """Return the largest value."""
    return max(values)


DERIVATIONS: Mapping[str, Callable[..., float]] = {
    "count": len,
    "largest": largest,
    "largest_against": largest_against,
    "total_for": total_for,
    "total_against": total_against,
    "area": area,
    "mean": mean,
    "least": least,
    "most": most,
}


def read(document: JsonValue, source: str) -> JsonValue:
    """Return what a source names in a document.

    Raises DataError where the document has nothing there, or the derivation is unknown.
    """
    derivation = _DERIVATION.fullmatch(source)
    if derivation is None:
        return resolve(document, source)
    name, pointers = derivation.groups()
    if name not in DERIVATIONS:
        raise DataError(f"{source}: no derivation {name!r}; known are {', '.join(DERIVATIONS)}.")
    return DERIVATIONS[name](*(resolve(document, pointer) for pointer in pointers.split(",")))


def share(value: float) -> str:
    """Write a share as a whole percentage, and only none and all as 0 and 100 %."""
    if value in (0, 1):
        return f"{100 * value:.0f} %"
    return percent_words(value)


def decimals(value: float) -> str:
    """Write a number with two decimals; one that would vanish so, with its first digit."""
    if 0 < abs(value) < 0.005:
        return f"{value:.1g}".replace("-", "−")
    return figure(value)


def seconds(value: float) -> str:
    """Write a time as people say it."""
    return f"{1000 * value:.0f} ms" if value < 1 else f"{value:.1f} s"


def whole(value: float) -> str:
    """Write a count."""
    return f"{value:.0f}"


def as_written(value: float) -> str:
    """Write a number with all its digits."""
    return repr(value).replace("-", "−")


FORMS: Mapping[str, Callable[[float], str]] = {
    "probability": percent_words,
    "likelihood": likelihood_words,
    "share": share,
    "decimals": decimals,
    "seconds": seconds,
    "whole": whole,
    "as written": as_written,
}


def plain(text: str) -> str:
    """Write a text as it stands."""
    return text


def sentence(text: str) -> str:
    """Write a sentence so that no line ends between a figure and its percent sign."""
    return text.replace(" %", "\N{NO-BREAK SPACE}%")


def capital(text: str) -> str:
    """Write a text with a capital at its start."""
    return text[:1].upper() + text[1:]


def finding_title(name: str) -> str:
    """Write a finding's name for people: ``Pleural_Thickening``, ``grade>=2``."""
    return capital(spoken_name(name))


def short_digest(digest: str) -> str:
    """Write the beginning of a digest, enough to tell two apart by eye."""
    return digest[:12]


def moment(text: str) -> str:
    """Write a moment (ISO 8601, UTC) by date and minute."""
    return f"{text[:10]} {text[11:16]} UTC"


WORDINGS: Mapping[str, Callable[[str], str]] = {
    "plain": plain,
    "sentence": sentence,
    "capital": capital,
    "finding": finding_title,
    "digest": short_digest,
    "moment": moment,
}
