"""The typed schema of every run: frozen, whole, without defaults of its own.

``configs/default.yaml`` holds every value; common/config/reading.py reads and merges the files.
"""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from common.config.checks import check_ascending, check_labels, check_whole
from common.config.loss import LossConfig
from common.config.model import ModelConfig
from common.config.privacy import PrivacyConfig, SecureAggregationConfig
from common.explain import EXPLAINERS
from common.registry import unknown_name
from common.tasks import Task, task_named

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A part of the configuration: frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class TaskConfig(Section):
    """What the federation asks of one task."""

    labels: tuple[str, ...] | None  # None: all of the task's labels


class PreprocessConfig(Section):
    """What preparation does to every picture of a task, once."""

    contrast_percentiles: tuple[Fraction, Fraction] | None  # stretched to black and white
    clahe_clip_limit: Fraction  # 0: no CLAHE
    clahe_tiles: Count
    crop_dark_border: bool
    stain_normalisation: Literal["none", "macenko", "reinhard"]

    @model_validator(mode="after")
    def _black_below_white(self) -> Self:
        check_ascending("contrast_percentiles", self.contrast_percentiles, equal_allowed=False)
        return self


class AugmentConfig(Section):
    """What training does to pictures and ROIs together, at random, of one task."""

    rotation_deg: Annotated[float, Field(ge=0, le=180)]
    translate_fraction: Fraction
    scale: tuple[Positive, Positive]
    shear_deg: Annotated[float, Field(ge=0, le=45)]
    horizontal_flip: Fraction
    vertical_flip: Fraction
    elastic_alpha_px: Annotated[float, Field(ge=0)]
    elastic_sigma_px: Positive
    brightness: Fraction
    contrast: Fraction

    @model_validator(mode="after")
    def _smallest_before_largest(self) -> Self:
        check_ascending("scale", self.scale, equal_allowed=True)
        return self


class DuplicateConfig(Section):
    """When two pictures count as one, and what happens when their labels disagree."""

    near_distance_bits: Annotated[int, Field(ge=0, le=32)]  # of a 64-bit perceptual hash
    near_correlation: Fraction  # of the two thumbnails, required beside the hash
    conflicts: Literal["exclude", "keep"]


class PhantomSource(Section):
    """Generated pictures with exact lesion masks."""

    kind: Literal["phantom"]
    patients: Count
    pictures_per_patient: Count
    scanner_strength: Annotated[float, Field(ge=0, le=1)]
    lesion_contrast: Positive
    roi_fraction: Fraction  # share of patients whose lesion masks are given
    marker_agreement: Fraction | None  # corner marker shortcut; None: no marker
    prevalence: Mapping[str, Fraction] | None  # None: the generator's own


class NihSource(Section):
    """NIH ChestX-ray14 in its own layout."""

    kind: Literal["nih"]
    table: str
    images: str
    boxes: str | None


class IdridSource(Section):
    """IDRiD in its official folders."""

    kind: Literal["idrid"]
    root: str
    part: Literal["grading", "segmentation"]
    mapping: str


class EbhiSource(Section):
    """EBHI-Seg in its own folders."""

    kind: Literal["ebhi"]
    root: str
    mapping: str


class ManifestColumns(Section):
    """Which columns of a manifest hold what; None where the table has no such column."""

    image: str
    labels: str
    patient: str | None  # None: every picture is its own patient, said on the data card
    site: str | None
    roi_mask: str | None
    roi_boxes: str | None
    roi_kind: str | None
    official_split: str | None  # only counted on the data card; Fovea splits by itself
    roi_class_mask: str | None = None  # masks whose pixels hold numbers, see LabelTable.class_mask


class ManifestSource(Section):
    """Any table of pictures."""

    kind: Literal["manifest"]
    table: str
    images: str | None  # folder that picture names start from; None: the table's own
    columns: ManifestColumns
    where: Mapping[str, tuple[str, ...]]  # column → the values that belong to this source
    label_separator: str
    mapping: str  # table of label words, relative to the configuration folder


class PoolSource(Section):
    """A share of a pool that is divided by patient."""

    kind: Literal["pool"]
    pool: str
    share: Annotated[float, Field(gt=0, le=1)]


FileSource = Annotated[
    PhantomSource | NihSource | IdridSource | EbhiSource | ManifestSource,
    Field(discriminator="kind"),
]
AnySource = Annotated[
    PhantomSource | NihSource | IdridSource | EbhiSource | ManifestSource | PoolSource,
    Field(discriminator="kind"),
]


class PoolConfig(Section):
    """Cases of one task that several sites and the reference set share out by patient."""

    task: str
    sources: Annotated[tuple[FileSource, ...], Field(min_length=1)]


class SiteConfig(Section):
    """One hospital of a simulated federation."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    task: str
    source: AnySource


class ReferenceConfig(Section):
    """The coordinator's own pictures of one task."""

    source: AnySource


class SplitConfig(Section):
    """Shares of a site's patients."""

    train: Fraction
    val: Fraction
    test: Fraction

    @model_validator(mode="after")
    def _sums_to_one(self) -> Self:
        check_whole(self.model_dump())
        return self


class ReferenceSplitConfig(Section):
    """Shares of a reference set's patients; the three parts never mix."""

    selection: Fraction
    calibration: Fraction
    gate: Fraction

    @model_validator(mode="after")
    def _sums_to_one(self) -> Self:
        check_whole(self.model_dump())
        return self


class DataConfig(Section):
    """How pictures become shards."""

    image_size_px: Annotated[int, Field(ge=32, le=2048)]
    split: SplitConfig
    reference_split: ReferenceSplitConfig
    duplicates: DuplicateConfig
    preprocess: Mapping[str, PreprocessConfig]
    augment: Mapping[str, AugmentConfig]
    pools: Mapping[str, PoolConfig]


class TrainConfig(Section):
    """The local step of one round."""

    epochs: Count
    batch_size: Count
    optimiser: Literal["adam", "adamw"]
    learning_rate: Positive
    weight_decay: Annotated[float, Field(ge=0)]
    warmup_fraction: Fraction
    final_learning_rate_fraction: Fraction  # the cosine ends here
    clip_norm: Positive
    mixed_precision: Literal["auto", "off", "bf16"]
    proximal_mu: Annotated[float, Field(ge=0)]
    device: Literal["auto", "cpu", "cuda"]


class FederationConfig(Section):
    """How rounds go."""

    rounds: Count
    strategy: str
    aggregation: str
    update_precision: Literal["float32", "bfloat16", "int8"]  # of an update's numbers on the wire
    site_floor: Mapping[str, float]  # metric → the least that a site's own measurement should reach
    server_learning_rate: Positive
    server_momentum: Fraction
    local_layers: tuple[str, ...]  # name prefixes that never leave a site
    required_sites: tuple[str, ...]  # without an update of each, the verdict is not COMPLETE
    min_sites: Count  # fewer usable updates: the round changes nothing
    wait_for_sites_s: Positive
    round_timeout_s: Positive
    return_grace_s: Annotated[float, Field(ge=0)]  # for a node that left to come back in a round
    patience: Count  # evaluations without improvement before the server stops


class AlarmConfig(Section):
    """What of a round's maps is a reason to look closer; see explanation_alarms.py."""

    drift_floor: Annotated[float, Field(ge=-1, le=1)]  # of the rank correlation of two rounds' maps
    site_floor: Annotated[float, Field(ge=-1, le=1)]  # likewise, of a site's model and the global
    outside_share: Fraction  # of what speaks for a class, outside the anatomy
    border_share: Fraction  # likewise, at the picture's border
    border_width: Annotated[float, Field(gt=0, lt=0.5)]  # share of the side that is border
    marker_share: Fraction  # likewise, on burnt-in markers
    # Fall of the rank correlation of a class with a sign that it went with in the round before.
    sign_drop: Annotated[float, Field(gt=0, le=2)]


class EvaluationConfig(Section):
    """How models are measured."""

    batch_size: Count
    bootstrap_replicates: Annotated[int, Field(ge=100)]
    min_positive_patients: Count
    every_rounds: Count
    overlays_per_task: Annotated[int, Field(ge=0)]
    federated: bool
    coverage: Annotated[float, Field(gt=0, lt=1)]  # wanted of prediction sets
    explanation_pictures: Count  # per task, whose maps are watched from round to round
    explanation_sites: Annotated[int, Field(ge=0)]  # compared with the global model in one round
    explanation_share: Fraction  # of the evaluation's time, for the maps' numbers
    # Compared when the rounds are over, on pictures with an outlined lesion.
    methods: tuple[str, ...]
    method_pictures: Annotated[int, Field(ge=0)]  # per task; 0: no comparison
    method_seconds: Positive  # for all tasks and methods together
    alarms: AlarmConfig

    @model_validator(mode="after")
    def _methods_exist(self) -> Self:
        known = dict.fromkeys(EXPLAINERS)
        for method in self.methods:
            if method not in known:
                raise ValueError("methods: " + unknown_name(EXPLAINERS.kind, method, known))
        if len(set(self.methods)) < len(self.methods):
            raise ValueError("methods: a method is named twice; name each once")
        return self


class TrackingConfig(Section):
    """Where MLflow writes."""

    uri: str | None  # None: SQLite under the run's out folder
    experiment: str


class SimulationConfig(Section):
    """How many sites Flower's engine trains at once."""

    cpus_per_site: Positive
    gpus_per_site: Annotated[float, Field(ge=0)]


class RunConfig(Section):
    """Everything a run depends on."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    tasks: Mapping[str, TaskConfig]
    sites: Annotated[tuple[SiteConfig, ...], Field(min_length=1)]
    reference: Mapping[str, ReferenceConfig]
    data: DataConfig
    model: ModelConfig
    loss: LossConfig
    train: TrainConfig
    privacy: PrivacyConfig
    secure_aggregation: SecureAggregationConfig
    federation: FederationConfig
    evaluation: EvaluationConfig
    tracking: TrackingConfig
    simulation: SimulationConfig

    def task(self, name: str) -> Task:
        """Return a task as this run restricts it."""
        return task_named(name, self.tasks[name].labels)

    def task_table(self) -> dict[str, Task]:
        """Return the run's tasks by name, in configuration order."""
        return {name: self.task(name) for name in self.tasks}

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        check_labels(
            {name: task.labels for name, task in self.tasks.items()},
            context_labels=self.model.context_labels,
        )
        names = [site.name for site in self.sites]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"two sites are called {repeated[0]!r}; names must differ")
        for site in self.sites:
            if site.task not in self.tasks:
                raise ValueError(
                    f"site {site.name}: " + unknown_name("task", site.task, self.tasks)
                )
        for task in self.tasks:
            for section in ("preprocess", "augment"):
                if task not in getattr(self.data, section):
                    raise ValueError(f"data.{section} has no entry for task {task}")
            if task not in self.reference:
                raise ValueError(f"reference has no entry for task {task}")
        if self.model.image_size_px != self.data.image_size_px:
            raise ValueError(
                f"model.image_size_px ({self.model.image_size_px}) and data.image_size_px "
                f"({self.data.image_size_px}) must be the same: set both"
            )
        if self.federation.min_sites > len(names):
            raise ValueError(
                f"federation.min_sites is {self.federation.min_sites}, the run has "
                f"{len(names)} sites: lower it"
            )
        for required in self.federation.required_sites:
            if required not in names:
                raise ValueError(unknown_name("required site", required, dict.fromkeys(names)))
        return self
