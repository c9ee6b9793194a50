"""JSON pointers (RFC 6901): how a sentence and a page name the value that they rest on."""

from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from common.errors import DataError


def pointer(*parts: str | int) -> str:
    """Return the pointer to a value, e.g. ``/findings/0/probability``."""
    path = "".join([f"/{part}" for part in parts])
    if "~" in path or path.count("/") != len(parts):
        steps = (str(part).replace("~", "~0").replace("/", "~1") for part in parts)
        return "".join(f"/{step}" for step in steps)
    return path


def resolve(document: JsonValue, path: str) -> JsonValue:
    """Return the value that a pointer names; "" is the whole document.

    Raises DataError for a pointer to nothing.
    """
    value: JsonValue = document
    if path and not path.startswith("/"):
        raise DataError(f"{path!r} is no JSON pointer: it must be empty or start with '/'.")
    for part in path.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(value, Mapping) and key in value:
            value = value[key]
        elif isinstance(value, Sequence) and not isinstance(value, str) and _is_index(key, value):
            value = value[int(key)]
        else:
            raise DataError(
                f"the document has nothing at {path!r} (no {key!r}); "
                "the sentence and the values were not written together."
            )
    return value


def _is_index(key: str, values: Sequence[JsonValue]) -> bool:
    # RFC 6901 section 4: no signs, no leading zeros.
    return key.isascii() and key.isdigit() and str(int(key)) == key and int(key) < len(values)
