"""A configuration as flat parameters, the form in which MLflow lists and compares runs."""

import json
from collections.abc import Mapping

from pydantic import JsonValue

from server.journal.metric_names import valid_name

PARAM_CHARACTERS = 6000  # MLflow's limit


def flattened(values: Mapping[str, JsonValue], prefix: str = "") -> dict[str, str]:
    """Return nested settings as parameters: ``train.learning_rate`` → ``0.0001``.

    Items of a list that have a name are called by it: ``sites.north.task``.
    """
    flat: dict[str, str] = {}
    for key, given in values.items():
        name = f"{prefix}{key}"
        value = _by_name(given) if isinstance(given, list) else given
        if isinstance(value, dict) and value:
            flat |= flattened(value, f"{name}.")
        else:
            flat[valid_name(name)] = _text(value)
    return flat


def _by_name(items: list[JsonValue]) -> JsonValue:
    """Return a list of sections as a mapping by name or position, other lists as they are."""
    sections = [item for item in items if isinstance(item, dict)]
    if not sections or len(sections) != len(items):
        return items
    return {str(section.get("name", i)): section for i, section in enumerate(sections)}


def _text(value: JsonValue) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    if len(text) <= PARAM_CHARACTERS:
        return text
    ending = "… (whole in config.yaml)"
    return text[: PARAM_CHARACTERS - len(ending)] + ending
