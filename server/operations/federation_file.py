"""``federation.yaml``: the coordinator's description of its federation, and who may take part."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Self

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from common.config.expectation import expectation, known_keys
from common.config.reading import load_config
from common.config.run import (
    Count,
    DuplicateConfig,
    PreprocessConfig,
    Section,
    SplitConfig,
)
from common.errors import ConfigError
from common.files.yaml_file import YamlValue, read_yaml
from common.messages.certificates import is_address
from common.registry import unknown_name
from common.tasks import TASKS

REMEDY = "configs/federations/example.yaml holds every key."
LOOPBACK = ("localhost", "127.0.0.1")  # the reverse proxy and the rounds' own process connect here

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Port = Annotated[int, Field(ge=1, le=65535)]
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


class FederationSite(Section):
    """A hospital that may take part, and with what."""

    name: Name
    task: str

    @field_validator("task")
    @classmethod
    def _known(cls, task: str) -> str:
        if task not in TASKS:
            raise ValueError(unknown_name("task", task, TASKS))
        return task


class Preparation(Section):
    """How every site makes its shard, so that shards fit the federation's runs."""

    image_size_px: Annotated[int, Field(ge=32, le=2048)]
    seed: Annotated[int, Field(ge=0, lt=2**31)]  # of the split by patient
    split: SplitConfig
    duplicates: DuplicateConfig
    labels: Mapping[str, tuple[str, ...] | None]  # per task; None: all of the task's
    preprocess: Mapping[str, PreprocessConfig]  # per task


class Federation(Section):
    """A coordinator's federation."""

    name: Name
    endpoint: str  # host:port that sites connect to
    server_names: tuple[str, ...]  # further names and addresses of the server's certificate
    superlink_port: Port  # Flower's, on loopback
    sites: Annotated[tuple[FederationSite, ...], Field(min_length=1)]
    authority_days: Count
    certificate_days: Count
    run_days: Count  # how long a run's manifest is valid
    policy: Path  # the strict policy that kits start from
    preparation: Preparation

    @property
    def host(self) -> str:
        """The endpoint's host."""
        return self.endpoint.rpartition(":")[0]

    @property
    def certificate_names(self) -> tuple[str, ...]:
        """Every name and address that the server's certificate stands for."""
        return tuple(dict.fromkeys((self.host, *self.server_names, *LOOPBACK)))

    def site(self, name: str) -> FederationSite:
        """Return a site. Raises ConfigError naming the nearest known."""
        known = {site.name: site for site in self.sites}
        if name not in known:
            raise ConfigError(unknown_name("site", name, known) + " federation.yaml lists them.")
        return known[name]

    @field_validator("endpoint")
    @classmethod
    def _host_and_port(cls, endpoint: str) -> str:
        host, _, port = endpoint.rpartition(":")
        if not is_host(host) or not port.isdecimal() or not 1 <= int(port) <= 65535:
            raise ValueError(
                "expected host:port as sites reach it, e.g. fovea.example.org:443, "
                f"got {endpoint!r}"
            )
        return endpoint

    @field_validator("server_names")
    @classmethod
    def _hosts(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not is_host(name):
                raise ValueError(f"expected host names or IPv4 addresses, got {name!r}")
        return names

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        names = [site.name for site in self.sites]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"sites: two are called {repeated[0]!r}; names must differ")
        if self.certificate_days >= self.authority_days:
            raise ValueError(
                f"certificate_days: {self.certificate_days} must be less than authority_days "
                f"({self.authority_days}): a certificate cannot outlive its authority"
            )
        for site in self.sites:
            for part in ("labels", "preprocess"):
                if site.task not in getattr(self.preparation, part):
                    raise ValueError(
                        f"preparation.{part}: has no entry for task {site.task} of site {site.name}"
                    )
        return self


def read_federation(path: Path) -> Federation:
    """Read a federation, taking how to prepare from the run it names as ``recipe``.

    Raises ConfigError naming every key that is wrong, what was expected and the nearest known key.
    """
    content = read_yaml(path, remedy=f"{REMEDY} Copy it and fill it in.")
    folder = path.resolve().parent
    recipe = content.pop("recipe", None)
    if (recipe is None) == (content.get("preparation") is None):
        raise ConfigError(
            f"{path}: expected either recipe, the path of a run's YAML, or preparation, the values "
            f"themselves. {REMEDY}"
        )
    if recipe is not None:
        if not isinstance(recipe, str):
            raise ConfigError(f"{path}: recipe: expected the path of a run's YAML, got {recipe!r}.")
        content["preparation"] = _preparation_of(folder / recipe)
    if isinstance(content.get("policy"), str):
        content["policy"] = str((folder / str(content["policy"])).resolve())
    try:
        return Federation.model_validate(content)
    except ValidationError as error:
        raise ConfigError(_readable(path, error)) from error


def federation_text(federation: Federation) -> str:
    """Return a federation as YAML that depends on no other file but the policy it names."""
    values = federation.model_dump(mode="json")
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def is_host(host: str) -> bool:
    """Say whether sites can be told this host: a name without wildcards, or an IPv4 address."""
    if host.replace(".", "").isdecimal():
        return is_address(host)
    return len(host) <= 253 and all(map(_LABEL.fullmatch, host.split(".")))


def _preparation_of(recipe: Path) -> dict[str, YamlValue]:
    run = load_config(recipe).run
    preparation = Preparation(
        image_size_px=run.data.image_size_px,
        seed=run.seed,
        split=run.data.split,
        duplicates=run.data.duplicates,
        labels={name: task.labels for name, task in run.tasks.items()},
        preprocess={name: run.data.preprocess[name] for name in run.tasks},
    )
    values: dict[str, YamlValue] = preparation.model_dump(mode="json")
    return values


def _readable(path: Path, error: ValidationError) -> str:
    problems = [_problem(detail) for detail in error.errors(include_url=False)]
    if len(problems) == 1:
        return f"{path}: {problems[0]} {REMEDY}"
    lines = "\n".join(f"  - {problem}" for problem in problems)
    return f"{path}: {len(problems)} problems. {REMEDY}\n{lines}"


def _problem(detail: ErrorDetails) -> str:
    location = detail["loc"]
    key = ".".join(str(part) for part in location)
    before = f"{key}: " if key else ""
    if detail["type"] == "value_error":
        return before + detail["msg"].removeprefix("Value error, ").rstrip(".") + "."
    if detail["type"] == "extra_forbidden":
        known = dict.fromkeys(known_keys(location[:-1], Federation))
        return before + unknown_name("key", str(location[-1]), known)
    if detail["type"] == "missing":
        return f"{before}is missing. Add it."
    if detail["type"] == "string_pattern_mismatch":
        return f"{before}expected small letters, digits and hyphens, got {detail['input']!r}."
    return f"{before}expected {expectation(location, Federation)}, got {detail['input']!r}."
