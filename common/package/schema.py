"""What a model needs to be used outside its run: model.json beside model.safetensors.

Light: a package can be read and checked without torch.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from common.config.model import ModelConfig
from common.config.run import PreprocessConfig, Section

FORMAT: Literal[1] = 1
MODEL_FILE = "model.json"
WEIGHTS_FILE = "model.safetensors"
NOVELTY_FILE = "novelty.safetensors"
# What MLflow asks for beside them (server/run/mlflow_flavour.py); a package is whole without.
FLAVOUR_FILES = (
    "MLmodel",
    "conda.yaml",
    "input_example.json",
    "python_env.yaml",
    "requirements.txt",
    "serving_input_example.json",
)
PACKAGE_FOLDER = "package"  # in a run's folder of models

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


class Conformal(Section):
    """Thresholds of split conformal prediction; Vovk et al. 2005, Angelopoulos and Bates 2021.

    Keys are those of common/package/answers.py: ``Mass: present`` and ``Mass: absent`` for a
    finding, the label itself for a grade or class.
    """

    coverage: Share  # wanted
    # An answer is in the set when its nonconformity, one minus its uncalibrated probability, is at
    # most its threshold. Uncalibrated: the temperature was fitted on the same pictures.
    thresholds: dict[str, Share]
    pictures: dict[str, Count]  # per key of thresholds, how many calibration pictures it rests on
    # Whether each answer is covered by itself, or grades only on average (one threshold for all).
    is_per_answer: bool
    left_out: dict[str, str]  # finding without a set → why
    measured_coverage: dict[str, Share]  # on the gate part, which chose nothing, per key
    measured_pictures: dict[str, Count]  # per key of measured_coverage


class Calibration(Section):
    """How logits become probabilities that mean what they say."""

    # Per class name, in logits: what the loss's weight of positive answers moves a logit by, its
    # logarithm; 0 where there is none (common/package/shift.py).
    shift: dict[str, Annotated[float, Field(allow_inf_nan=False)]]
    # probability = sigmoid((logit - threshold - shift) / temperature)
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    pictures: Count
    patients: Count
    # Expected calibration error on the gate part, of sigmoid(logit - threshold) and of the
    # probability; None: it has no known answer.
    error_before: Share | None
    error_after: Share | None
    gate_pictures: Count
    note: str  # what a reader should know of shift and temperature, "" when nothing
    conformal: Conformal | None
    why_not_conformal: str  # "" where there is one


class TaskPackage(Section):
    """One task of a model."""

    labels: tuple[str, ...]
    concepts: tuple[str, ...]  # of the concept head, in its order
    size_px: Annotated[int, Field(ge=1)]
    preprocess: PreprocessConfig
    calibration: Calibration | None
    why_not_calibrated: str  # "" where it is
    novelty_limit: (
        Annotated[float, Field(allow_inf_nan=False)] | None
    )  # of the distance; None: unknown
    why_no_novelty: str  # "" where there is a limit
    # Share of ordinary pictures that the limit calls novel: expected, 1 / 100 or what the pictures
    # allow, and measured on the gate part.
    novelty_share_expected: Share | None
    novelty_share_measured: Share | None
    # Spearman's correlation of concept and logit on the calibration part: concept → logit name;
    # without those that chance could have brought about.
    concept_association: dict[str, dict[str, float]]
    sites: Count  # that trained the task's head
    training_pictures: Count | None
    reference: str
    # Estimates on the selection part that a reader should know: metric → value
    measured: dict[str, float]


class ModelPackage(Section):
    """A model with all it needs to explain itself."""

    format: Literal[1]
    run: str
    round: Count
    seed: Count
    config_digest: str
    weights_sha256: str  # of the bytes of model.safetensors
    novelty_sha256: str  # of the bytes of novelty.safetensors
    # Of the whole package (common/package/digest.py); "" of one that was never written. A file
    # without it is refused.
    digest: str = ""
    made_at: str
    versions: dict[str, str]
    model: ModelConfig
    tasks: dict[str, TaskPackage]
    # Task of the run that this model cannot answer → why, in a sentence. Nothing of its head,
    # calibration, prediction sets or signs is in the package.
    left_out: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _answers_or_leaves_out(self) -> Self:
        if not self.tasks or set(self.tasks) & set(self.left_out):
            raise ValueError("a package answers at least one task, and leaves out others alone")
        return self
