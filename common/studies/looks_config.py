"""The settings of the study of where a model looks; every key must be given."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from common.errors import ConfigError
from common.files.yaml_file import read_yaml

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]


class Section(BaseModel):
    """A part of the settings: frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PhantomConfig(Section):
    """The pictures."""

    side_px: Annotated[int, Field(ge=64, multiple_of=64)]
    lesion_radius_px: tuple[Positive, Positive]
    lesion_amplitude: Positive  # in deviations of the picture, roughly
    texture_amplitude: Positive  # 1: texture varies by about half a deviation
    train_count: Count
    test_count: Count
    train_marker_agreement: Share  # P(marker = label)
    test_marker_agreement: Share
    roi_share: Share  # of training positives that come with a mask


class TrainingConfig(Section):
    """The optimiser: AdamW, one cycle, clipped gradients, last state kept."""

    steps: Count
    batch_size: Count
    learning_rate: Positive
    weight_decay: Annotated[float, Field(ge=0)]
    clip_norm: Positive
    warmup_share: Share  # of the steps in which the learning rate rises


class SaliencyConfig(Section):
    """Settings of the loss that all variants share."""

    overlap_weight: Annotated[float, Field(ge=0)]
    entropy_weight: Annotated[float, Field(ge=0)]
    coverage_threshold: Annotated[float, Field(gt=0, le=1)]


class VariantConfig(Section):
    """What is trained: changes to the scenario's model and the weights of the loss."""

    model: dict[str, JsonValue]  # merged into the model's settings, key by key
    lambda_att: Annotated[float, Field(ge=0)]
    lambda_sal: Annotated[float, Field(ge=0)]


class ScenarioConfig(Section):
    """One set of pictures, one model, the variants trained on it."""

    title: str
    phantom: PhantomConfig
    training: TrainingConfig
    model: str  # a file with a `model:` mapping, relative to the repository
    changes: dict[str, JsonValue]  # merged into that mapping
    variants: dict[str, VariantConfig]
    seeds: tuple[int, ...]
    judged_by: Literal["shortcut", "few_rois", "no_shortcut", "none"]


class ShortcutBars(Section):
    """What must hold where a marker betrays the label; means over seeds."""

    plain_conflict_auc_at_most: Share
    auc_at_least: Share
    conflict_auc_at_least: Share
    conflict_auc_any_seed_at_least: Share
    reliance_at_most: Share
    reliance_any_seed_at_most: Share
    occlusion_energy_at_least: Share
    pointing_hit_at_least: Share
    deletion_auc_at_most: Share
    control_reliance_above_full_by_at_least: Share


class FewRoisBars(Section):
    """What must hold with few masks."""

    auc_at_least: Share
    conflict_auc_at_least: Share


class NoShortcutBars(Section):
    """What must hold without a marker that betrays the label."""

    auc_below_plain_at_most: Share


class LooksConfig(Section):
    """The study: its default and its slow scenarios, and the bars they are judged by."""

    loss: SaliencyConfig
    default: dict[str, ScenarioConfig]
    slow: dict[str, ScenarioConfig]
    shortcut: ShortcutBars
    few_rois: FewRoisBars
    no_shortcut: NoShortcutBars


def load_looks_config(path: Path) -> LooksConfig:
    """Read the study's YAML. Raises ConfigError naming file and keys."""
    values = read_yaml(path, remedy="Give the study's YAML file.")
    if "looks" not in values:
        raise ConfigError(f"{path}: must hold a `looks:` mapping.")
    try:
        return LooksConfig.model_validate(values["looks"])
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise ConfigError(f"{path}: {'; '.join(lines)}. Correct these keys.") from error
