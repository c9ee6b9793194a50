"""SHA-256 digests of models, of their architecture and of messages: what signatures name."""

import hashlib
from dataclasses import fields

import numpy as np
from pydantic import JsonValue

from common.signing import canonical
from common.wire import Answer, Arrays, Request


def arrays_digest(arrays: Arrays) -> str:
    """Return a digest of named arrays: names, shapes and contents, whatever their order."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        content = hashlib.sha256(array.data).hexdigest()
        digest.update(f"{name} {array.dtype.str} {arrays[name].shape} {content}\n".encode())
    return digest.hexdigest()


def architecture_digest(arrays: Arrays) -> str:
    """Return a digest of the names and shapes alone: equal for every round of a run."""
    lines = [f"{name} {arrays[name].dtype.str} {arrays[name].shape}\n" for name in sorted(arrays)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def message_digest(message: Request | Answer) -> str:
    """Return a digest of a message's kind and of all it holds."""
    content: dict[str, JsonValue] = {
        field.name: arrays_digest(value) if field.name == "arrays" else _plain(value)
        for field in fields(message)
        for value in (getattr(message, field.name),)
    }
    return text_digest(canonical({"kind": type(message).__name__, "content": content}))


def text_digest(text: str) -> str:
    """Return the SHA-256 of a text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: object) -> JsonValue:
    # Floats are written by their shortest exact form, which both ends agree on.
    if isinstance(value, str | bool | int | float):
        return value
    return {name: float(number) for name, number in dict(value).items()}  # type: ignore[call-overload]
