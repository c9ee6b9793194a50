"""SHA-256 digests of models, of their architecture and of messages: what signatures name."""

import hashlib
from dataclasses import fields

import numpy as np
from pydantic import JsonValue

from common.messages.kinds import Answer, Arrays, MaskedSums, Request
from common.messages.signing import canonical

ARRAY_FIELDS = ("arrays", "masked")  # of messages


def arrays_digest(arrays: Arrays | MaskedSums) -> str:
    """Return a digest of named arrays: names, shapes and contents, whatever their order."""
    entries: list[JsonValue] = []
    for name in sorted(arrays):
        content = hashlib.sha256(np.ascontiguousarray(arrays[name]).data).hexdigest()
        entries.append([*_outline(name, arrays), content])
    return text_digest(canonical(entries))


def architecture_digest(arrays: Arrays) -> str:
    """Return a digest of the names and shapes alone: equal for every round of a run."""
    return text_digest(canonical([_outline(name, arrays) for name in sorted(arrays)]))


def message_digest(message: Request | Answer) -> str:
    """Return a digest of a message's kind and of all it holds."""
    content: dict[str, JsonValue] = {
        field.name: arrays_digest(value) if field.name in ARRAY_FIELDS else _plain(value)
        for field in fields(message)
        for value in (getattr(message, field.name),)
    }
    return text_digest(canonical({"kind": type(message).__name__, "content": content}))


def text_digest(text: str) -> str:
    """Return the SHA-256 of a text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def _outline(name: str, arrays: Arrays | MaskedSums) -> list[JsonValue]:
    # As JSON, so that no name can pass for another array's line.
    return [name, arrays[name].dtype.str, list(arrays[name].shape)]


def _plain(value: object) -> JsonValue:
    # Floats are written by their shortest exact form, which both ends agree on.
    if isinstance(value, str | bool | int | float):
        return value
    return {name: float(number) for name, number in dict(value).items()}  # type: ignore[call-overload]
