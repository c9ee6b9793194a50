"""The settings of the attack study; every key must be given."""

from pathlib import Path
from typing import Annotated, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from common.config.model import ModelConfig
from common.config.privacy import PrivacyConfig
from common.config.reading import load_config
from common.config.run import RunConfig
from common.errors import ConfigError
from common.files.yaml_file import read_yaml

Share = Annotated[float, Field(ge=0, le=1)]
Chance = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]


class Section(BaseModel):
    """A part of the settings: frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class NoiseConfig(Section):
    """DP-SGD as the protected cases use it, and as the ledger would count it."""

    noise_multiplier: Positive  # in clip norms
    clip_norm: Positive  # L2
    sample_rate: Annotated[float, Field(gt=0, le=1)]
    steps: Count
    delta: Chance

    def privacy(self, *, expected_units: int) -> PrivacyConfig:
        """Return the section of a run that trains like this, one picture per patient."""
        return PrivacyConfig(
            enabled=True,
            unit="patient",
            noise_multiplier=self.noise_multiplier,
            clip_norm=self.clip_norm,
            sample_rate=self.sample_rate,
            steps_per_round=self.steps,
            expected_units=expected_units,
            max_pictures_per_patient=1,
            delta=self.delta,
            per_sample_gradients="auto",
        )


class InversionConfig(Section):
    """Pictures from updates."""

    model: str  # a file with a `model:` mapping
    victims: Count
    sites: Annotated[int, Field(ge=3)]
    batch: Count
    restarts: Count
    factor_rounds: Count
    token_iterations: Count
    picture_iterations: Count
    picture_step: Positive  # grey values, 0 to 1
    variation: Positive
    variation_end: Chance
    decoys: Count
    ssim_at_least: Share


class MembershipConfig(Section):
    """Who was in the training part."""

    model: str
    networks: Annotated[int, Field(ge=3)]
    patients: Annotated[int, Field(ge=4)]
    plain_steps: Count
    plain_batch: Count
    learning_rate: Positive
    replicates: Count
    false_positive_rate: Chance
    plain_auc_at_least: Share
    private_auc_at_most: Share


class CanaryConfig(Section):
    """The lower bound on epsilon."""

    count: Count
    guesses: Count
    significance: Chance
    broken_by: Annotated[float, Field(gt=1)]

    @model_validator(mode="after")
    def _guesses_are_of_canaries(self) -> Self:
        if 2 * self.guesses > self.count:
            raise ValueError(
                f"guesses: {self.guesses} in and {self.guesses} out are more than the {self.count} "
                "canaries; lower it or raise count"
            )
        return self


class AuditConfig(Section):
    """The study."""

    run: str
    task: str
    seed: Annotated[int, Field(ge=0)]
    processes: Count
    side_px: Annotated[int, Field(ge=64, multiple_of=16)]
    noise: NoiseConfig
    inversion: InversionConfig
    membership: MembershipConfig
    canaries: CanaryConfig


def load_audit_config(path: Path, *, quick: bool = False) -> AuditConfig:
    """Read the study's YAML, with its ``quick`` changes if asked. Raises ConfigError."""
    values = read_yaml(path, remedy="Give the study's YAML file.").get("audit")
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must hold an `audit:` mapping.")
    changes = values.pop("quick", {})
    if not isinstance(changes, dict):
        raise ConfigError(f"{path}: audit.quick must be a mapping of changes.")
    try:
        return AuditConfig.model_validate(_merged(values, changes) if quick else values)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise ConfigError(f"{path}: audit: {'; '.join(lines)}. Correct these keys.") from error


def run_of(config: AuditConfig, *, model: str) -> RunConfig:
    """Return the attacked run with another model, the study's picture size and its secure sum.

    All sites hold the study's task: the sum is then over like with like. Raises ConfigError.
    """
    run = load_config(Path(config.run), ()).run
    if config.task not in run.tasks:
        raise ConfigError(f"audit.task: {config.run} has no task {config.task!r}; name one it has.")
    values = yaml.safe_load(Path(model).read_text(encoding="utf-8"))["model"]
    try:
        # Its locality is checked at its own picture size, which is not attacked.
        network = ModelConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{model}: {error}. Give a file of configs/models/.") from error
    site = next(site for site in run.sites if site.task == config.task)
    names = [f"site-{number}" for number in range(1, config.inversion.sites + 1)]
    return run.model_copy(
        update={
            "name": "audit-privacy",
            "seed": config.seed,
            "model": network,
            "data": run.data.model_copy(update={"image_size_px": config.side_px}),
            "tasks": {config.task: run.tasks[config.task]},
            "sites": tuple(site.model_copy(update={"name": name}) for name in names),
            "reference": {config.task: run.reference[config.task]},
            "secure_aggregation": run.secure_aggregation.model_copy(update={"enabled": True}),
            "federation": run.federation.model_copy(update={"site_floor": {}}),
        }
    )


def _merged(base: dict[str, JsonValue], changes: dict[str, JsonValue]) -> dict[str, JsonValue]:
    merged = dict(base)
    for key, value in changes.items():
        below = merged.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            merged[key] = _merged(below, value)
        else:
            merged[key] = value
    return merged
