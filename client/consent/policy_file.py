"""Reads ``policy.yaml``, the file in which a hospital writes what it allows."""

from pathlib import Path

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from client.consent.policy import Policy
from common.config.expectation import expectation, known_keys
from common.errors import ConfigError
from common.files.yaml_file import read_yaml
from common.registry import unknown_name

_REMEDY = "Copy configs/policies/strict.yaml there and adapt it."
_REMEDY_KEY = "Add it; configs/policies/strict.yaml has it with comments."


def read_policy(path: Path) -> Policy:
    """Read a policy. Raises ConfigError naming every key that is wrong and what it should be."""
    values = read_yaml(path, remedy=_REMEDY)
    try:
        return Policy.model_validate(values)
    except ValidationError as error:
        details = error.errors(include_url=False)
    places = [detail["loc"] for detail in details]
    # What is wrong inside a list also makes the list wrong: that is no second problem.
    problems = [
        _problem(detail)
        for place, detail in zip(places, details, strict=True)
        if not any(len(other) > len(place) and other[: len(place)] == place for other in places)
    ]
    if len(problems) == 1:
        raise ConfigError(f"{path}: {problems[0]}")
    lines = "\n".join(f"  - {problem}" for problem in problems)
    raise ConfigError(f"{path}: {len(problems)} problems\n{lines}")


def _problem(detail: ErrorDetails) -> str:
    key = ".".join(str(part) for part in detail["loc"])
    return f"{key}: {_sentence(detail)}"


def _sentence(detail: ErrorDetails) -> str:
    location, kind = detail["loc"], detail["type"]
    if kind == "extra_forbidden":
        known = dict.fromkeys(known_keys(location[:-1], Policy))
        return unknown_name("key", str(location[-1]), known)
    if kind == "missing":
        return f"is missing. {_REMEDY_KEY}"
    if kind == "value_error":
        return detail["msg"].removeprefix("Value error, ")
    return f"expected {_expected(location, kind)}, got {detail['input']!r}."


def _expected(location: tuple[int | str, ...], kind: str) -> str:
    if location[0] == "release" and kind == "literal_error":
        return "false, for no message of this version has a place for them"
    if location[0] == "hours" and location[-1] in ("start", "end"):
        return 'a time of day in quotes, e.g. "20:00"'
    if location == ("consent_expires",):
        return "a date, e.g. 2027-12-31, or null"
    return expectation(location, Policy)
