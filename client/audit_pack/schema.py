"""What a site's audit pack says of a model, ``pack.json``: every number that its index shows.

Light: a pack can be read without torch. It stays at the site; no message to the coordinator has a
field for any of it.
"""

from typing import Annotated, Literal

from pydantic import Field

from common.explanation.schema import Count, Lineage, Part, Share
from common.explanation.written import written
from common.metrics.estimate import Estimate

PACK_FILE = "pack.json"
FORMAT: Literal[1] = 1


class Measured(Part):
    """A number with its 95 % interval; ``None`` where it is not defined, the note says why."""

    value: float | None
    low: float | None
    high: float | None
    support: Count  # pictures, or pictures and findings, with a known answer
    chance: float | None  # what chance gives, where that means something
    note: str


class AnswerCoverage(Part):
    """How often the prediction set of pictures with one answer holds that answer."""

    answer: str  # ``Mass: present``, a grade or a class
    coverage: Measured  # share in [0, 1]


class ClassFigures(Part):
    """How well one question is answered, over the pictures whose answer is known."""

    name: str  # of task.class_names, or of a concept
    positives: Count
    positive_patients: Count
    auroc: Measured


class Localised(Part):
    """Whether the model's own map finds an expert's region; chance stands beside each number."""

    name: str  # of a logit or a concept; of several also "all", for all cases alike
    pointing_hit: Measured
    energy_in_roi: Measured
    iou_matched_area: Measured


class Disagreement(Part):
    """One question about one picture where model and label differ."""

    picture: str  # neutral name
    question: str
    label: str  # the site's own answer
    said: str  # the model's
    label_probability: Share  # that the model gives to the label's answer


class PackPicture(Part):
    """One explained picture."""

    name: str
    chosen_as: Literal["disagreement", "drawn"]
    page: str  # file beside pack.json, "" where there is none
    labels: dict[str, str]  # question → the site's own answer, "unknown" where it has none
    answer: str  # the model's, in a few words; "" where there is no page
    is_novel: bool | None  # None: not known of this model
    is_sure: bool | None  # None: the task has no prediction sets
    failure: str  # why there is no page, "" where there is one


class Pack(Part):
    """A model on one part of a site's own pictures."""

    format: Literal[1]
    made_at: str  # ISO 8601, UTC
    site: str
    task: str
    title: str
    labels: tuple[str, ...]
    part: str
    pictures: Count  # measured: all of the part
    patients: Count
    size_px: Annotated[int, Field(ge=1)]
    model: Lineage
    notes: tuple[str, ...]  # what a reader should know before the numbers
    is_calibrated: bool
    coverage_wanted: Share | None
    coverage: Measured | None  # over all answers; None: the task has no prediction sets
    coverage_of: tuple[AnswerCoverage, ...]
    why_no_coverage: str
    novel: Measured | None  # share of pictures unlike the calibration set's
    novel_expected: Share | None  # of pictures like the calibration set's
    why_no_novelty: str
    average_auroc: Measured
    classes: tuple[ClassFigures, ...]
    localisation: tuple[Localised, ...]  # nothing without regions
    concepts: tuple[ClassFigures, ...]  # nothing without concept labels
    concept_localisation: tuple[Localised, ...]
    disagreements: tuple[Disagreement, ...]  # all of the part, the surest of the model first
    shown: tuple[PackPicture, ...]


def measured(estimate: Estimate) -> Measured:
    """Return an estimate as it is written, with six significant digits."""

    def figure(value: float | None) -> float | None:
        return None if value is None else written(value)

    return Measured(
        value=figure(estimate.value),
        low=figure(estimate.low),
        high=figure(estimate.high),
        support=estimate.support,
        chance=figure(estimate.chance),
        note=estimate.note,
    )
