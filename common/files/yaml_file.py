"""Reads YAML in which nothing is lost without a word: no key twice, every key text."""

from pathlib import Path
from typing import cast

import yaml

from common.errors import ConfigError

YamlValue = str | int | float | bool | None | list["YamlValue"] | dict[str, "YamlValue"]


def read_yaml(path: Path, *, remedy: str = "Give the path of a YAML file.") -> dict[str, YamlValue]:
    """Return the mapping of keys that a YAML file holds.

    Args:
        path: The file, UTF-8.
        remedy: What the reader can do where the file is not there.

    Raises:
        ConfigError: The file cannot be read, is no YAML, holds something other than a mapping, or
            somewhere in it a key stands twice or is not text.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}). {remedy}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text. Save it as UTF-8 YAML.") from error
    try:
        loaded = parse_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is not valid YAML. {error}") from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path}: must hold a mapping of keys, got {type(loaded).__name__}.")
    return loaded


def parse_yaml(text: str) -> YamlValue:
    """Return the value that a YAML text stands for. Raises yaml.YAMLError."""
    return cast(YamlValue, yaml.load(text, Loader=_StrictLoader))  # noqa: S506 - a SafeLoader


MERGE = "tag:yaml.org,2002:merge"


class _StrictLoader(yaml.SafeLoader):
    """YAML in which a key that stands twice is an error, not a setting lost without a word."""


def _strict_mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[str, YamlValue]:
    seen: set[str] = set()
    for key_node, _ in node.value:
        if key_node.tag == MERGE:
            continue  # `<<: *anchor` is not a key: what it brings may be overridden
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise yaml.constructor.ConstructorError(
                None, None, f"key {key!r} must be text; put it in quotes", key_node.start_mark
            )
        if key in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"key {key!r} stands here twice", key_node.start_mark
            )
        seen.add(key)
    return cast(dict[str, YamlValue], loader.construct_mapping(node, deep=True))


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _strict_mapping)
