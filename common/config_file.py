"""Reads a run's YAML: what it extends, what it changes, what the command line sets."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from common.config import RunConfig
from common.errors import ConfigError
from common.registry import unknown_name
from common.yaml_file import YamlValue, parse_yaml, read_yaml

REMOVABLE = ("tasks", "reference")  # their entries can be taken out with null
ROOT_FILE = "default.yaml"  # its folder is the root that label tables and examples are found in


@dataclass(frozen=True)
class LoadedConfig:
    """A run's configuration and the folder its label tables are named from."""

    run: RunConfig
    root: Path
    path: Path


def load_config(path: Path, overrides: Sequence[str] = ()) -> LoadedConfig:
    """Read a run's YAML with all it extends, then apply ``key.path=value`` overrides in order.

    Raises ConfigError naming the file, the key, the nearest known key and what was expected.
    """
    path = path.resolve()
    merged, root = _read_with_parents(path, seen=())
    merged = _without_removed(_unshared(merged))
    for override in overrides:
        _apply_override(merged, override)
    try:
        run = RunConfig.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(_readable(error, path, merged)) from error
    return LoadedConfig(run=run, root=root or path.parent, path=path)


def canonical_json(config: RunConfig) -> str:
    """Return the configuration as JSON with sorted keys and no spaces: what a digest is made of."""
    return json.dumps(config.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))


def config_digest(config: RunConfig) -> str:
    """Return the SHA-256 of the canonical JSON, in hexadecimal."""
    return hashlib.sha256(canonical_json(config).encode()).hexdigest()


def _read_with_parents(
    path: Path, *, seen: tuple[Path, ...]
) -> tuple[dict[str, YamlValue], Path | None]:
    """Return a file merged over what it extends, and the folder of ROOT_FILE if it is read."""
    if path in seen:
        chain = " → ".join(p.name for p in (*seen, path))
        raise ConfigError(f"{path}: extends itself ({chain}). Remove one of these `extends`.")
    own = read_yaml(path)
    parents = own.pop("extends", [])
    if isinstance(parents, str):
        parents = [parents]
    if not isinstance(parents, list) or not all(isinstance(name, str) for name in parents):
        raise ConfigError(f"{path}: `extends` must be a file name or a list of file names.")
    merged: dict[str, YamlValue] = {}
    root = path.parent if path.name == ROOT_FILE else None
    for name in parents:
        parent = (path.parent / str(name)).resolve()
        inherited, its_root = _read_with_parents(parent, seen=(*seen, path))
        merged, root = _merge(merged, inherited), root or its_root
    return _merge(merged, own), root


def _without_removed(merged: dict[str, YamlValue]) -> dict[str, YamlValue]:
    """Leave out tasks that a file sets to null: what it extends has them, this run has not."""
    for section in REMOVABLE:
        entries = merged.get(section)
        if isinstance(entries, dict):
            merged[section] = {name: entry for name, entry in entries.items() if entry is not None}
    return merged


def _merge(base: Mapping[str, YamlValue], change: Mapping[str, YamlValue]) -> dict[str, YamlValue]:
    """Return base with change on top: mappings merge key by key, everything else is replaced."""
    merged = dict(base)
    for key, value in change.items():
        below = merged.get(key)
        # A section that names another kind is another thing: nothing of the old one is kept.
        replaces = isinstance(value, dict) and "kind" in value
        if isinstance(below, dict) and isinstance(value, dict) and not replaces:
            merged[key] = _merge(below, value)
        else:
            merged[key] = value
    return merged


def _unshared(value: dict[str, YamlValue]) -> dict[str, YamlValue]:
    """Return a copy in which YAML's aliases are values of their own.

    Otherwise an override of one site would change every site written with the same anchor.
    """

    def copy(part: YamlValue) -> YamlValue:
        if isinstance(part, dict):
            return {key: copy(below) for key, below in part.items()}
        return [copy(item) for item in part] if isinstance(part, list) else part

    return {key: copy(below) for key, below in value.items()}


def _apply_override(config: dict[str, YamlValue], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {override!r}: expected key.path=value, e.g. train.epochs=2.")
    try:
        value = parse_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {key}: {text!r} is not a YAML value. {error}") from error
    here: YamlValue = config
    *parents, last = key.split(".")
    for part in parents:
        here = _step(here, part, key)
    if isinstance(here, list):
        here[_list_index(here, last, key)] = value
    elif isinstance(here, dict):
        here[last] = value
    else:
        raise ConfigError(f"--set {key}: the part before {last!r} holds no keys.")


def _step(here: YamlValue, part: str, key: str) -> YamlValue:
    if isinstance(here, list):
        return here[_list_index(here, part, key)]
    if isinstance(here, dict):
        if part not in here:
            raise ConfigError(f"--set {key}: " + unknown_name("key", part, here))
        return here[part]
    raise ConfigError(f"--set {key}: {part!r} lies below a single value.")


def _list_index(items: list[YamlValue], part: str, key: str) -> int:
    if not part.isdigit() or int(part) >= len(items):
        raise ConfigError(
            f"--set {key}: expected a position from 0 to {len(items) - 1}, got {part!r}."
        )
    return int(part)


def _readable(error: ValidationError, path: Path, merged: Mapping[str, YamlValue]) -> str:
    details = error.errors()
    lines = [_sentence(detail, merged) for detail in details]
    if len(lines) == 1:
        return f"{path}: {lines[0]}"
    return f"{path}: {len(lines)} problems\n" + "\n".join(f"  - {line}" for line in lines)


def _sentence(detail: ErrorDetails, merged: Mapping[str, YamlValue]) -> str:
    location = [part for part in detail["loc"] if part not in _source_kinds(merged, detail)]
    key = ".".join(str(part) for part in location)
    if detail["type"] == "extra_forbidden":
        known = dict.fromkeys(_known_keys(detail["loc"][:-1]))
        return f"{key}: " + unknown_name("key", str(detail["loc"][-1]), known)
    if detail["type"] == "missing":
        return f"{key}: is missing. Add it, or extend {ROOT_FILE}, which holds every key."
    if detail["type"] == "value_error":
        message = detail["msg"].removeprefix("Value error, ")
        return f"{key}: {message}" if key else message
    return f"{key}: {detail['msg']}, got {detail['input']!r}."


def _source_kinds(merged: Mapping[str, YamlValue], detail: ErrorDetails) -> set[str | int]:
    """Return parts of a location that name a union's branch, not a key of the file."""
    here: YamlValue = dict(merged)
    branches: set[str | int] = set()
    for part in detail["loc"]:
        if isinstance(here, dict) and here.get("kind") == part:
            branches.add(part)
        elif isinstance(here, dict) and isinstance(part, str):
            here = here.get(part)
        elif isinstance(here, list | tuple) and isinstance(part, int) and part < len(here):
            here = here[part]
    return branches


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    """Return the keys that the schema has at a location, following unions by their kind."""
    models: list[type[BaseModel]] = [RunConfig]
    for part in location:
        following: list[type[BaseModel]] = []
        for model in models:
            if isinstance(part, str) and part in model.model_fields:
                following += models_in(model.model_fields[part].annotation)
        named = [m for m in models if part in _kinds_of(m)]
        models = following or named or models
    return [name for model in models for name in model.model_fields]


def models_in(annotation: object) -> list[type[BaseModel]]:
    """Return the sections that a field's type may hold, through unions and containers."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in models_in(part)]


def _kinds_of(model: type[BaseModel]) -> tuple[object, ...]:
    field = model.model_fields.get("kind")
    return get_args(field.annotation) if field is not None else ()
