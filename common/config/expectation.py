"""Says in plain words what a schema expects at a place of a file, a run's configuration first."""

from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Annotated, Literal, TypeGuard, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from common.config.run import RunConfig

Location = Sequence[int | str]  # as pydantic gives it, with the kinds of sources between the keys
PLAIN: dict[type, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    type(None): "null",
}


def expectation(location: Location, schema: type[BaseModel] = RunConfig) -> str:
    """Return what may stand at a location: "a whole number of at least 1 or null"."""
    phrases = [_phrase(kind, limits) for kind, limits in _kinds_at(location, schema)]
    return " or ".join(dict.fromkeys(phrases)) or "another value"


def known_keys(location: Location, schema: type[BaseModel] = RunConfig) -> list[str]:
    """Return the keys that the schema has at a location, following unions by their kind."""
    kinds = [kind for kind, _ in _kinds_at(location, schema)]
    return [name for kind in kinds if _is_section(kind) for name in kind.model_fields]


def has_key(location: Location, schema: type[BaseModel] = RunConfig) -> bool:
    """Say whether the schema has a place for something at a location."""
    return bool(_kinds_at(location, schema))


def _kinds_at(
    location: Location, schema: type[BaseModel]
) -> list[tuple[type, Mapping[str, float]]]:
    """Return the types that a location may hold, each with its limits."""
    here: list[object] = [schema]
    for part in location:
        flat: list[object] = [kind for one in here for kind, _ in _alternatives(one)]
        # A union's branch stands in the location by its kind; it is no key of the file.
        branch: list[object] = [kind for kind in flat if part in _source_kinds(kind)]
        here = branch or [below for kind in flat for below in _below(kind, part)]
    return [found for one in here for found in _alternatives(one)]


def _alternatives(annotation: object) -> list[tuple[type, Mapping[str, float]]]:
    """Return the members of a type without Annotated and unions, each with its limits."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        limits = _limits(arguments[1:])
        return [(kind, {**own, **limits}) for kind, own in _alternatives(arguments[0])]
    if origin in (Union, UnionType):
        return [found for argument in arguments for found in _alternatives(argument)]
    return [(annotation, {})] if annotation is not None else []  # type: ignore[list-item]


def _limits(metadata: Sequence[object]) -> dict[str, float]:
    found: dict[str, float] = {}
    for item in metadata:
        if isinstance(item, FieldInfo):
            found |= _limits(item.metadata)
        for name in ("ge", "gt", "le", "lt", "min_length"):
            value = getattr(item, name, None)
            if isinstance(value, int | float):
                found[name] = value
    return found


def _below(kind: object, part: int | str) -> list[object]:
    """Return what a type may hold at one key or position."""
    arguments = get_args(kind)
    if _is_section(kind):
        field = kind.model_fields.get(str(part))
        return [] if field is None else [Annotated[field.annotation, field]]
    if get_origin(kind) is tuple and isinstance(part, int):
        return [arguments[0 if arguments[-1] is Ellipsis else min(part, len(arguments) - 1)]]
    return [arguments[-1]] if len(arguments) == 2 else []


def _is_section(kind: object) -> TypeGuard[type[BaseModel]]:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _source_kinds(kind: object) -> tuple[object, ...]:
    field = kind.model_fields.get("kind") if _is_section(kind) else None
    return () if field is None else get_args(field.annotation)


def _phrase(kind: type, limits: Mapping[str, float]) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin is tuple:
        return "a list" + _length(arguments, limits)
    return PLAIN.get(kind, "a mapping of keys") + _range(limits)


def _length(entries: Sequence[object], limits: Mapping[str, float]) -> str:
    if entries[-1] is not Ellipsis:
        return f" of {len(entries)}"
    return f" of at least {limits['min_length']:.12g}" if "min_length" in limits else ""


def _range(limits: Mapping[str, float]) -> str:
    low = [f"of at least {limits['ge']:.12g}"] if "ge" in limits else []
    low += [f"above {limits['gt']:.12g}"] if "gt" in limits else []
    high = [f"at most {limits['le']:.12g}"] if "le" in limits else []
    high += [f"below {limits['lt']:.12g}"] if "lt" in limits else []
    if "ge" in limits and "le" in limits:
        return f" from {limits['ge']:.12g} to {limits['le']:.12g}"
    return " " + " and ".join(low + high) if low + high else ""
