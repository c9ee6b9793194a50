"""Tables of names that stand for code, imported on first use so that a listing costs nothing."""

import importlib
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Generic, TypeVar, cast

from common.errors import ConfigError

T = TypeVar("T")


class Registry(Generic[T]):
    """Name → ``module:attribute``. Adding an entry is one file and one line in its table."""

    def __init__(self, kind: str, table: Mapping[str, str]) -> None:
        """Name the kind for error messages ("strategy", "explanation method")."""
        self.kind = kind
        self._table = dict(table)

    def __iter__(self) -> Iterator[str]:
        """Yield the registered names in table order."""
        return iter(self._table)

    def __contains__(self, name: object) -> bool:
        """Say whether the name is registered, without importing it."""
        return name in self._table

    def get(self, name: str) -> T:
        """Return the named object. Raises ConfigError naming the nearest known name."""
        if name not in self._table:
            raise ConfigError(unknown_name(self.kind, name, self._table))
        module, attribute = self._table[name].split(":")
        return cast(T, getattr(importlib.import_module(module), attribute))


def unknown_name(kind: str, name: str, known: Mapping[str, object]) -> str:
    """Return the sentence that says a name is unknown, which is nearest, and which exist."""
    near = get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"unknown {kind} {name!r}.{hint} Known: {', '.join(known) or 'none'}."
