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

from common.config.expectation import expectation, known_keys
from common.config.run import RunConfig
from common.errors import ConfigError
from common.files.yaml_file import YamlValue, parse_yaml, read_yaml
from common.registry import unknown_name

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
        raise ConfigError(_readable(error, path, merged, overrides)) from error
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


def _readable(
    error: ValidationError,
    path: Path,
    merged: Mapping[str, YamlValue],
    overrides: Sequence[str],
) -> str:
    """Return every problem, blaming the file or the override that it comes from."""
    options = [override.partition("=")[0] for override in overrides]
    problems = [_problem(detail, merged) for detail in error.errors()]
    blamed = [_option_at(key, options) for key, _ in problems]
    lines = [
        (f"--set {option}: " if option else "")
        + (f"{key}: " if key and key != option else "")
        + sentence
        for (key, sentence), option in zip(problems, blamed, strict=True)
    ]
    where = "" if all(blamed) else f"{path}: "
    if len(lines) == 1:
        return where + lines[0]
    return f"{where}{len(lines)} problems\n" + "\n".join(f"  - {line}" for line in lines)


def _option_at(key: str, options: Sequence[str]) -> str | None:
    """Return the last override that set this key, something below it, or what it lies in."""
    touching = [
        option
        for option in options
        if key and (f"{key}.".startswith(f"{option}.") or f"{option}.".startswith(f"{key}."))
    ]
    return touching[-1] if touching else None


def _problem(detail: ErrorDetails, merged: Mapping[str, YamlValue]) -> tuple[str, str]:
    """Return the key that is wrong, "" for the whole file, and what is wrong with it."""
    location = [part for part in detail["loc"] if part not in _source_kinds(merged, detail)]
    key = ".".join(str(part) for part in location)
    if detail["type"] == "value_error":
        message = detail["msg"].removeprefix("Value error, ")
        named, colon, rest = message.partition(": ")
        # What concerns several sections is found at the top; its message begins with the key.
        is_key = bool(colon) and not key and set(named).isdisjoint(" '")
        return (named, rest) if is_key else (key, message)
    if detail["type"] == "missing" and isinstance(detail["loc"][-1], int):
        key = key.rpartition(".")[0]  # the list that is too short, not the entry it lacks
    return key, _sentence(detail)


def _sentence(detail: ErrorDetails) -> str:
    """Return what is wrong with a value, without its key."""
    location = detail["loc"]
    if detail["type"] == "extra_forbidden":
        return unknown_name("key", str(location[-1]), dict.fromkeys(known_keys(location[:-1])))
    if detail["type"] == "missing":
        fewer = f"expected {expectation(location[:-1])}, got fewer."
        add = f"is missing. Add it, or extend {ROOT_FILE}, which holds every key."
        return fewer if isinstance(location[-1], int) else add
    if detail["type"] == "union_tag_invalid":
        return f"expected kind {detail['ctx']['expected_tags']}, got {detail['ctx']['tag']!r}."
    if detail["type"] == "union_tag_not_found":
        return "expected a mapping that says its kind, e.g. kind: phantom."
    if detail["type"] == "string_pattern_mismatch":
        return f"expected small letters, digits and hyphens, got {detail['input']!r}."
    return f"expected {expectation(location)}, got {_shown(detail['input'])}."


def _shown(value: object) -> str:
    """Return a value as YAML writes it where Python writes something else."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(list(value) if isinstance(value, tuple) else value)


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


def models_in(annotation: object) -> list[type[BaseModel]]:
    """Return the sections that a field's type may hold, through unions and containers."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in models_in(part)]
