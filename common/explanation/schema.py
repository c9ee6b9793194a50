"""One explanation as data: all that a page shows about one picture, and nothing it does not hold.

Light: an explanation can be read, checked and shown without torch. Everything here is written with
at most six significant digits, and what a page derives is derived from the written numbers, so
that a reader can do it again from the file.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

FORMAT: Literal[1] = 1

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]
Stance = Literal["supports", "against", "neither", "unknown"]
# What a sentence is about; a page groups by it and a reader may ask for one kind.
About = Literal[
    "finding", "confidence", "where", "concepts", "trust", "novelty", "limits", "next", "disclaimer"
]


class Part(BaseModel):
    """A part of an explanation: frozen, complete, and every number finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class GridMap(Part):
    """A map on a grid, row by row from the upper left; the picture's square is the grid's."""

    rows: Annotated[int, Field(ge=1)]
    columns: Annotated[int, Field(ge=1)]
    # "logits": signed summands of the logit. "shares": >= 0, sum 1, or all 0 where nothing speaks
    # for it.
    unit: Literal["logits", "shares"]
    values: tuple[float, ...]

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if len(self.values) != self.rows * self.columns:
            raise ValueError(
                f"a map of {self.rows} x {self.columns} needs {self.rows * self.columns} values, "
                f"got {len(self.values)}"
            )
        return self


class Region(Part):
    """An expert's region on a grid: the share of each cell that it covers, row by row."""

    rows: Annotated[int, Field(ge=1)]
    columns: Annotated[int, Field(ge=1)]
    coverage: tuple[Share, ...]


class Picture(Part):
    """Which picture; the name is the reader's own and stays where the page is."""

    name: str
    sha256: str  # of the file's bytes
    width_px: Annotated[int, Field(ge=1)]
    height_px: Annotated[int, Field(ge=1)]
    size_px: Annotated[int, Field(ge=1)]  # side of the square that the model saw
    skipped: tuple[str, ...]  # steps of preparation that could not be done


class Lineage(Part):
    """Where the model comes from."""

    run: str
    round: Count
    weights_sha256: str
    config_digest: str
    sites: Count  # that trained the task's head
    training_pictures: Count | None  # None: sums under masks do not tell
    reference: str  # one line on the set it was calibrated on
    versions: dict[str, str]
    # Of the whole model package, calibration included (common/package/digest.py): by it a reader
    # can tell whether the package was changed. "": the model was never packaged.
    package_digest: str = ""


class Where(Part):
    """Where in the anatomy the model's own map speaks for a finding."""

    words: str  # "right lower zone"
    regions: dict[str, Share]  # name → share of the positive evidence, descending
    # Share on either side of a landmark's rim, e.g. central and peripheral; empty without one.
    depth: dict[str, Share]
    frame: str  # what left, right and zones are measured against
    peak_row: Share  # of the picture, 0 top
    peak_column: Share  # of the picture, 0 left of the picture


class Faithfulness(Part):
    """What happens to the probability when a map's places are painted over or brought back.

    Petsiuk et al. 2018, arXiv:1806.07421. ``shares`` of the picture against the uncalibrated
    probability; the areas are trapezoids under these points.
    """

    shares: tuple[Share, ...]
    deletion: tuple[Share, ...]
    insertion: tuple[Share, ...]
    # Chance: the mean over random orders, and the area of each. Insertion follows the reverse of
    # deletion's order, so that its curve is the other's read backwards and the area is the same.
    random_deletion: tuple[Share, ...]
    random_insertion: tuple[Share, ...]
    random_areas: Annotated[tuple[Share, ...], Field(min_length=1)]
    # Random orders that the map beats by deletion and by insertion. A map of noise beats each of n
    # in at most one picture of n, where n is their number.
    beaten_orders: Count


class Stability(Part):
    """Structural similarity (SSIM) of the map before and after a change that means nothing."""

    noise: float
    brightness: float
    shift: float
    flip: float | None  # None: the task's anatomy does not allow it
    # The same between this map and the method's maps of other pictures: what a map reaches that
    # does not follow its picture, such as one of a few small spots. One value per other picture.
    other_pictures: tuple[float, ...]
    others: str  # which pictures those are, or why there are none, as a page words it


class Completeness(Part):
    """How far the parts of a map add up to what they are parts of; in logits, for this picture."""

    parts: float  # Σ over all pixels, signed
    constants: float  # what biases keep and no pixel shows; 0 for methods that give them nothing
    whole: float  # what parts and constants should add up to
    of: str  # what the whole is, as a page words it
    gap: Annotated[float, Field(ge=0)]  # |parts + constants - whole| / max(|whole|, 0.1)


class Method(Part):
    """One method's map of one finding, or why there is none."""

    name: str  # of common.explain.EXPLAINERS
    map: GridMap | None
    failure: str  # "" where there is a map
    seconds: Seconds
    energy_in_roi: Share | None  # None: no expert region
    agreement: float | None  # Spearman's rank correlation with the model's own map
    completeness: Completeness | None  # None: the method promises no sum
    faithfulness: Faithfulness | None  # None: not asked for, or see ``unmeasured``
    stability: Stability | None  # None: not asked for, or see ``unmeasured``
    unmeasured: str  # why something that was asked for could not be measured; "" where all was


class Concept(Part):
    """A sign that clinicians name, seen by its own head."""

    name: str
    probability: Share  # sigmoid(Σ of the map), not calibrated
    map: GridMap
    overlap: Share  # of its positive evidence with the finding's, 0 apart, 1 the same places
    association: float | None  # with the finding on the calibration part, -1..1; None: unknown
    stance: Stance


class Finding(Part):
    """One question that the model was asked, and everything behind its answer."""

    name: str  # of task.class_names; the answers of a grade share one logit
    logit: float  # Σ of the map + context
    threshold: float  # of the grade; 0 for findings and classes
    # What training's weight of positive answers moves the logit by (common/package/shift.py); 0
    # without one and where the task is not calibrated.
    shift: float
    # sigmoid((logit - threshold - shift) / temperature); without a temperature the uncalibrated
    probability: Share
    uncalibrated: Share  # sigmoid(logit - threshold)
    # The probability is at least one half: logit - threshold >= shift. The uncalibrated may lie on
    # the other side of one half where there is a shift.
    is_called: bool
    map_logits: float  # Σ of the map
    context_logits: float
    context_share: Share  # |context| / (|Σ map| + |context|)
    where: Where | None  # None: nothing in the picture speaks for it
    methods: tuple[Method, ...]  # the first is the model's own, "evidence"
    concepts: tuple[Concept, ...]
    region_drop: float | None  # logit lost when the map's strongest region is painted over
    elsewhere_drop: float | None  # and when an equal area elsewhere is


class PredictionSet(Part):
    """The answers that cannot be ruled out at the wanted coverage, by conformal prediction."""

    # Grades or classes; for findings, "NAME: present" and "NAME: absent" (see derived.py).
    members: tuple[str, ...]
    # What the set is about: findings with too few calibration pictures have none of their own.
    questions: tuple[str, ...]
    coverage: Share  # wanted
    calibration_pictures: Count  # that the rarest of its answers rests on, one per patient
    # One answer (to every question, for findings) is left, and it is the more probable one.
    is_sure: bool
    promise: str  # what is promised and what is not, in a sentence
    left_out: dict[str, str]  # finding without a set of its own → why


class CalibratedOn(Part):
    """What the calibrated probabilities rest on, and what a reader should know of them."""

    pictures: Count
    patients: Count
    # Expected calibration error of the probabilities on pictures that chose nothing, and their
    # number; None: not known.
    error: Share | None
    error_pictures: Count
    note: str  # "" when there is nothing to know


class Novelty(Part):
    """How unlike the calibration part's pictures this one is."""

    score: float
    # Above it a picture is novel: of ordinary ones one in a hundred, or one in n + 1 where the
    # calibration part has n < 99 patients.
    limit: float
    is_novel: bool


class Sentence(Part):
    """One sentence of the rationale and the values it rests on."""

    about: About
    text: str
    uses: tuple[str, ...]  # JSON pointers (RFC 6901) into this document


class Explanation(Part):
    """Everything about one picture and one task."""

    format: Literal[1]
    made_at: str  # ISO 8601, UTC
    picture: Picture
    model: Lineage
    task: str
    title: str
    kind: Literal["multi-label", "ordinal", "binary"]
    answer: str  # in a few words: what the model says, "not sure", or "unlike what it knows"
    # Probability of each answer where they exclude each other (grades, classes); sums to 1.
    # Findings can be present together: empty.
    answers: dict[str, Share]
    findings: tuple[Finding, ...]
    expanded: tuple[str, ...]  # the findings whose methods beyond "evidence" were asked for
    prediction_set: PredictionSet | None
    why_no_set: str  # "" where there is one
    novelty: Novelty | None
    is_calibrated: bool
    why_not_calibrated: str  # "" where it is
    calibrated_on: CalibratedOn | None  # None: not calibrated
    temperature: Annotated[float, Field(gt=0)] | None  # None: not calibrated
    roi: Region | None  # an expert's region, where one is known
    rationale: tuple[Sentence, ...]
