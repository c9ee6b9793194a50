"""The hospital's own configuration, ``site.yaml``. No value here comes over the network."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from common.config.run import (
    Count,
    DuplicateConfig,
    FileSource,
    PreprocessConfig,
    Section,
    SplitConfig,
)
from common.errors import ConfigError
from common.files.yaml_file import read_yaml


class PreparationSettings(Section):
    """How this site's pictures become its shard; the federation agrees on most of it."""

    image_size_px: Annotated[int, Field(ge=32, le=2048)]
    seed: Annotated[int, Field(ge=0, lt=2**31)]  # of the split by patient
    split: SplitConfig
    preprocess: PreprocessConfig
    duplicates: DuplicateConfig


class MachineSettings(Section):
    """What of this machine training may use."""

    device: Literal["auto", "cpu", "cuda"]
    processes: Count  # one per GPU; more than one trains data-parallel
    num_threads: Count  # CPU threads per process


class LimitSettings(Section):
    """What one request may take; beyond it the door closes."""

    request_mb: Count  # size of a request or an answer
    request_s: Annotated[float, Field(gt=0)]  # time to train
    min_free_disk_mb: Annotated[int, Field(ge=0)]  # below this the site says it is unavailable


SiteName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]


class SiteSettings(Section):
    """A site as its hospital describes it."""

    name: SiteName
    federation: str
    task: str
    labels: tuple[str, ...] | None  # None: all of the task's labels
    data: Path | None  # folder that the source's relative paths start from
    source: FileSource  # common/config/run.py; phantom for trials
    preparation: PreparationSettings
    machine: MachineSettings
    limits: LimitSettings


_REMEDY = "Make a site with `fovea-site init`."


def read_site_name(path: Path) -> str:
    """Read the name alone, which stands in ``site.yaml`` before a person has filled in the rest.

    Raises ConfigError where there is no name, or none that a site may have.
    """
    name = read_yaml(path, remedy=_REMEDY).get("name")
    try:
        return TypeAdapter(SiteName).validate_python(name)
    except ValidationError as error:
        raise ConfigError(
            f"{path}: name: expected small letters, digits and hyphens, at most 63, got {name!r}. "
            "Write there what the coordinator calls this site."
        ) from error


def read_site(path: Path) -> SiteSettings:
    """Read ``site.yaml``. Raises ConfigError naming the key that is wrong."""
    try:
        return SiteSettings.model_validate(read_yaml(path, remedy=_REMEDY))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ConfigError(f"{path}: {key}: {first['msg']}.") from error
