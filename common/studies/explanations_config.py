"""The settings of the study that compares explanation methods; every key must be given."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, ValidationError, model_validator

from common.config.run import FileSource, Section
from common.errors import ConfigError
from common.files.yaml_file import read_yaml

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(gt=0)]


class SetConfig(Section):
    """Pictures with lesion regions, and the small network that is trained on a part of them."""

    title: str
    caution: str  # what a reader of the figures should know; "" for nothing
    task: str
    recipe: str  # a run's YAML: size, preparation, augmentation, model, loss and optimiser
    overrides: tuple[str, ...]  # key.path=value on the recipe
    pool: str | None  # of the recipe, or
    sources: tuple[FileSource, ...] | None  # the set's own
    measured: tuple[str, ...]  # logits whose maps are held against their regions
    bar_margin: Share  # above chance, for the localisation bar
    test_share: Annotated[float, Field(gt=0, lt=1)]  # of patients; the rest trains
    steps: Count

    @model_validator(mode="after")
    def _has_one_origin(self) -> Self:
        if (self.pool is None) == (self.sources is None):
            raise ValueError("give either pool or sources, and set the other to null")
        return self


class ExplanationsConfig(Section):
    """The study: what is measured, on how much, and on which sets."""

    seeds: Annotated[tuple[int, ...], Field(min_length=1)]
    pictures: Count
    few_pictures: Count
    replicates: Annotated[int, Field(ge=0)]
    min_patients: Count
    random_networks: Annotated[int, Field(ge=0)]
    sanity_threshold: Annotated[float, Field(ge=-1, le=1)]
    bar_metric: str
    corrections: dict[str, tuple[str, ...]]
    sets: dict[str, SetConfig]


def load_explanations_config(path: Path) -> ExplanationsConfig:
    """Read the study's YAML. Raises ConfigError naming file and keys."""
    values = read_yaml(path, remedy="Give the study's YAML file.")
    if "explanations" not in values:
        raise ConfigError(f"{path}: must hold an `explanations:` mapping.")
    try:
        return ExplanationsConfig.model_validate(values["explanations"])
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise ConfigError(f"{path}: {'; '.join(lines)}. Correct these keys.") from error
