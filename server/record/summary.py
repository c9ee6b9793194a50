"""What a run leaves as summary.json: its verdict, its sites, and every central number per round.

Light: a summary can be read, checked and shown without torch or MLflow.
"""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from common.config.privacy import Unit
from common.errors import DataError
from common.metrics.estimate import Estimate
from server.exchange.participation import Outcome, Status

SCHEMA_VERSION: Literal[3] = 3
FILE_NAME = "summary.json"

NotNegative = Annotated[int, Field(ge=0)]
Epsilon = Annotated[float, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]
Standing = Literal["better", "worse", "unclear"]


class Entry(BaseModel):
    """A part of the summary: frozen, complete, and every number finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)


class EstimateEntry(Entry):
    """One number with its 95 % interval, support and chance; null where not defined."""

    value: float | None
    low: float | None
    high: float | None
    support: NotNegative
    positives: NotNegative | None
    positive_patients: NotNegative | None
    chance: float | None
    note: str

    @property
    def standing(self) -> Standing:
        """Say whether the whole interval lies above or below what chance gives."""
        if self.chance is None or self.low is None or self.high is None:
            return "unclear"
        if self.low > self.chance:
            return "better"
        return "worse" if self.high < self.chance else "unclear"


Estimates = dict[str, EstimateEntry]  # by metric


class ClassificationEntry(Entry):
    """How right one model is on one set; see common.metrics.classification."""

    average: Estimates
    supported_average: Estimates  # over the classes with patients enough for an interval
    grades: Estimates  # of ordinal tasks
    per_class: dict[str, Estimates]
    baseline: dict[str, float]  # always answering with the majority


class LocalisationEntry(Entry):
    """Where one model looks on one set, lesion regions only; see common.metrics.localisation."""

    average: Estimates  # over all cases alike
    class_average: Estimates  # over classes alike
    per_class: dict[str, Estimates]
    maps_without_positive_evidence: NotNegative  # counted as misses
    cases_without_roi: NotNegative  # not counted


class TaskEntry(Entry):
    """Everything measured of one task with one model."""

    pictures: NotNegative
    patients: NotNegative
    score: float | None  # what early stopping compares; higher is better
    score_is: str  # in words
    loss: dict[str, float | None]
    # Per logit, mean of |context| / (|Σ map| + |context|), 0..1: how much of the prediction no
    # place in the map accounts for; null for a logit without a context part.
    context_share: dict[str, float | None]
    classification: ClassificationEntry
    localisation: LocalisationEntry
    # Per sign with a head of its own: AUROC, and where its map lies against its own region. Empty:
    # the model has none, or the summary was written before there were any.
    concepts: dict[str, Estimates] = {}


class SiteEntry(Entry):
    """One hospital of the run."""

    name: str
    task: str
    num_examples: NotNegative | None  # training pictures; null if the site never answered


class SiteRoundEntry(Entry):
    """What one site did in one round."""

    site: str
    outcome: Outcome
    reason: str  # empty when it answered
    num_examples: NotNegative | None  # null where it is in the sum only
    seconds: Seconds | None
    epsilon: Epsilon | None  # by its own ledger: all runs on its data; null: no noise, or not told
    epsilon_run: Epsilon | None  # of it, this run alone
    metrics: dict[str, float | None]  # loss parts and what else the contract lets a site report
    evaluation: dict[str, float | None]  # of this round's model at the site; empty: none


class GroupEntry(Entry):
    """What the sites of one group say together in one round; nothing in it is one site's."""

    sites: NotNegative  # in the sum; 0 where it was not opened
    of: NotNegative  # sites of the run that make up the group
    reason: str  # why it was not opened; empty when it was
    num_examples: NotNegative | None  # training pictures of all of them; null: not told
    clipped: NotNegative | None  # sites whose update was scaled down; null: not told
    # Means of loss parts in this round, over at least `min_group` sites.
    metrics: dict[str, float | None]


class SumsEntry(Entry):
    """What a round under secure sums tells of its sites."""

    groups: dict[str, GroupEntry]  # `trunk` of all sites, a task of those with its head
    reason: str  # why the round changed nothing; empty when it did
    evaluation: dict[str, dict[str, float | None]]  # group → likewise, of this round's model


class FloorEntry(Entry):
    """How many sites find a round's model good enough, by `site_floor`."""

    above: NotNegative  # sites that reach the floor in every metric that has one
    sites: NotNegative  # that measured all of these


class SiteLooksEntry(Entry):
    """How far the model that one site trained looks where the round's global model looks."""

    pictures: NotNegative  # compared on
    per_class: dict[str, Estimates]  # logit → spearman (-1..1), top_iou (0..1)


class TaskLooksEntry(Entry):
    """What the maps of one task say in one round."""

    pictures: NotNegative  # looked at for the shares
    of_pictures: NotNegative  # in the part
    drift_pictures: NotNegative  # the fixed sample, the same every round
    since: NotNegative | None  # the round that drift is counted from; null: there is none
    drift: dict[str, Estimates]  # logit → spearman, top_iou of its maps in both rounds
    # Logit → place → share of what speaks for it that lies there; see explanation_places.
    shares: dict[str, Estimates]
    sites: dict[str, SiteLooksEntry]  # those compared in this round
    # Logit → sign → rank correlation of the two over the fixed sample. Empty: signs have no heads,
    # or the summary was written before they were watched.
    signs: dict[str, Estimates] = {}


class AlarmEntry(Entry):
    """One class of one task whose maps went beyond a threshold."""

    kind: str  # drift, site, sign, or the place of a share
    task: str
    class_name: str
    site: str | None  # whose model looks elsewhere
    value: float
    bound: float  # end of the 95 % interval that lies beyond the threshold
    threshold: float
    support: NotNegative  # pictures
    sentence: str  # all of it in words


class ExplanationEntry(Entry):
    """What the maps of a round say, on a fixed sample, and what it took to find out."""

    tasks: dict[str, TaskLooksEntry]
    alarms: tuple[AlarmEntry, ...]
    sites_note: str  # which sites were compared, or why none was
    seconds: Seconds  # of the central evaluation, for these numbers
    share: float | None  # of the time of the rest of it; null: that took no time to speak of
    remark: str  # that it took more than `explanation_share`; empty when it did not


class RoundEntry(Entry):
    """One round; round 0 is the model before any training."""

    round: NotNegative
    wall_s: Seconds
    central_s: Seconds | None  # of it, measuring on the reference sets; None: not measured
    sent_bytes: NotNegative  # to all sites together, without any framing
    received_bytes: NotNegative  # from them
    score: float | None  # mean of the tasks' scores
    central: dict[str, TaskEntry]  # empty when this round was not evaluated
    sites: tuple[SiteRoundEntry, ...]
    epsilon: Epsilon | None  # the largest that any site has reported until now, over all its runs
    epsilon_run: Epsilon | None  # likewise, of this run alone
    floor: FloorEntry | None  # null: there is no floor, or no site could tell
    summed: SumsEntry | None  # null: the server sees each site's update
    # Null: not evaluated, or the summary was written before maps were watched.
    explanation: ExplanationEntry | None = None


class PrivacyAbout(Entry):
    """How the sites' updates are noised: DP-SGD, see configs/default.yaml."""

    unit: Unit  # whose presence stays in doubt
    noise_multiplier: float  # σ, in clip norms
    clip_norm: float
    sample_rate: float
    steps_per_round: NotNegative
    delta: float
    not_covered: tuple[str, ...]  # what leaves a site and no epsilon bounds, in words


class SecureAbout(Entry):
    """How the sites' updates are summed under masks."""

    min_group: NotNegative  # sites in a sum, at least
    local_heads: tuple[str, ...]  # tasks whose heads stay at their sites


class TaskAbout(Entry):
    """What a task is, for whoever reads the summary alone."""

    title: str
    kind: str
    labels: tuple[str, ...]
    classes: tuple[str, ...]
    generated: bool  # some of its pictures are phantoms: they say nothing about patients


class SignsEntry(Entry):
    """Which signs carry the classes of one task; see server/measuring/explanation_signs.py."""

    pictures: NotNegative  # looked at
    patients: NotNegative
    # Logit → sign → over the pictures that show the class evidence_on_sign (0..1), the same
    # _above_chance (-1..1), sign_called (share that has it); over all association (-1..1).
    per_class: dict[str, dict[str, Estimates]]
    untaught: tuple[str, ...]  # signs that no site has taught: left out


class MethodEntry(Entry):
    """One explanation method on one task, or why it has no figures."""

    method: str
    failure: str  # empty where there are figures
    refused: NotNegative  # pictures that it would not explain, left out of its means
    why_refused: str  # of the first of them
    seconds: Seconds | None  # a picture, one at a time, median
    estimates: Estimates  # see server/measuring/explanation_methods.py


class MethodsEntry(Entry):
    """Explanation methods side by side on one task."""

    pictures: NotNegative  # that every method was asked about
    of_pictures: NotNegative  # chosen; fewer were measured where the time was up
    cases: dict[str, NotNegative]  # of the measured ones, by logit
    rows: tuple[MethodEntry, ...]


class ClosingEntry(Entry):
    """What was measured once of the model that the run hands on, when the rounds were over."""

    round: NotNegative  # whose model it is
    signs: dict[str, SignsEntry]  # by task; none where its signs have no heads
    methods: dict[str, MethodsEntry]  # by task; none where it is off or nothing is outlined
    left_out: dict[str, str]  # task that the model does not answer → why
    signs_seconds: Seconds
    methods_seconds: Seconds


class PackageEntry(Entry):
    """The model as it can be used away from the run; see common/package/schema.py."""

    digest: str  # of the whole package: who opens it can tell by it whether it was changed
    tasks: tuple[str, ...]  # that it answers
    left_out: dict[str, str]  # task of the run that it does not answer → why


class TrackingEntry(Entry):
    """Where MLflow has this run."""

    uri: str  # without credentials
    experiment: str
    run_id: str
    is_complete: bool  # false: what MLflow did not take lies in `unsent`
    unsent: str | None


class Summary(Entry):
    """A run from its first to its last round."""

    schema_version: Literal[3]
    name: str
    run: str  # name and a random part, the same in messages; the name alone if it broke off
    verdict: Status
    reasons: tuple[str, ...]  # also of optional sites, so a COMPLETE run may have some
    # Answers that came twice or too late, and were left unused; null if the run broke off.
    late_replies: NotNegative | None
    started_at: str  # ISO 8601, UTC
    wall_s: Seconds
    seed: int
    config_digest: str
    versions: dict[str, str]
    tasks: dict[str, TaskAbout]
    privacy: PrivacyAbout | None  # null: no differential privacy, updates carry no noise
    secure: SecureAbout | None  # null: who runs the server sees each site's update
    site_floor: dict[str, float]  # metric → the least a site should find; empty: no floor
    sites: tuple[SiteEntry, ...]
    best_round: NotNegative | None
    rounds: tuple[RoundEntry, ...]
    tracking: TrackingEntry
    files: dict[str, str]  # what it is → path relative to this file
    # Null: no model was packaged, or the summary was written before packages had a digest.
    package: PackageEntry | None = None
    # Null: there is no model, the run was stopped, or the summary was written before this was done.
    closing: ClosingEntry | None = None

    def evaluated(self, task: str) -> tuple[tuple[int, TaskEntry], ...]:
        """Return the rounds in which a task was evaluated centrally, in order."""
        return tuple((r.round, r.central[task]) for r in self.rounds if task in r.central)


def estimate_entry(estimate: Estimate) -> EstimateEntry:
    """Turn a measured estimate into its entry."""
    return EstimateEntry(
        value=estimate.value,
        low=estimate.low,
        high=estimate.high,
        support=estimate.support,
        positives=estimate.positives,
        positive_patients=estimate.positive_patients,
        chance=estimate.chance,
        note=estimate.note,
    )


def estimate_entries(estimates: Mapping[str, Estimate]) -> Estimates:
    """Turn estimates by metric into entries."""
    return {metric: estimate_entry(estimate) for metric, estimate in estimates.items()}


def headline(entry: ClassificationEntry, metric: str) -> EstimateEntry | None:
    """Return the average to show for a metric: one with an interval where there is any.

    The average over all classes comes first, then the average over the classes with patients
    enough, whose note names them. ``accuracy`` of a graded task is that of the grade itself.
    """
    if metric == "accuracy" and "grade_accuracy" in entry.grades:
        return entry.grades["grade_accuracy"]
    over_all = entry.average.get(metric)
    if over_all is None or over_all.low is not None:
        return over_all
    supported = entry.supported_average.get(metric)
    return supported if supported is not None and supported.low is not None else over_all


def write_summary(summary: Summary, folder: Path) -> Path:
    """Write summary.json so that a reader finds the old file or the whole new one."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE_NAME
    text = json.dumps(summary.model_dump(mode="json"), indent=1, allow_nan=False) + "\n"
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{FILE_NAME}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def read_summary(path: Path) -> Summary:
    """Read a summary.json. Raises DataError when it is missing or not of this schema."""
    try:
        return Summary.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}). Give the summary.json of a run."
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise DataError(
            f"{path}: {place}: {first['msg']}. It is not a summary of schema version "
            f"{SCHEMA_VERSION}; read it with the Fovea version that wrote it."
        ) from error


def json_schema() -> dict[str, JsonValue]:
    """Return the published JSON schema of summary.json."""
    return Summary.model_json_schema()
