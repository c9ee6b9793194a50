"""The three tasks: what each predicts, on which pictures, and which regions count as lesions."""

from dataclasses import dataclass, replace
from typing import Literal

from common.concepts import CONCEPTS
from common.errors import ConfigError
from common.registry import unknown_name

TargetKind = Literal["multi-label", "ordinal", "binary"]

NIH_FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Effusion",
    "Emphysema",
    "Fibrosis",
    "Hernia",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pleural_Thickening",
    "Pneumonia",
    "Pneumothorax",
)


@dataclass(frozen=True)
class Task:
    """What one head predicts.

    A picture's target is a float vector of ``num_logits`` values, NaN where unknown:
    one 0/1 per finding (multi-label), the grade 0..len(labels)-1 (ordinal), 0/1 (binary).
    """

    name: str
    title: str
    kind: TargetKind
    labels: tuple[str, ...]  # findings, grades in order, or (negative, positive)
    horizontal_flip: bool  # does the anatomy allow it
    vertical_flip: bool
    channels: int  # stored channels: 1 grey, 3 colour; the network always sees 3
    lesion_roi_kinds: tuple[str, ...]  # ROI kinds that localisation may be scored on
    anatomy_roi_kinds: tuple[str, ...]  # never scored as lesions
    concepts: tuple[str, ...] = ()  # signs with a head of their own, of common.concepts

    @property
    def num_logits(self) -> int:
        """Logits of the head, which is also the length of a target vector."""
        return len(self.labels) if self.kind == "multi-label" else 1

    @property
    def logit_names(self) -> tuple[str, ...]:
        """One name per logit: a finding, ``severity``, or the positive class."""
        if self.kind == "multi-label":
            return self.labels
        return ("severity",) if self.kind == "ordinal" else (self.labels[1],)

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per binary question that metrics are reported for.

        Findings (multi-label), ``grade>=k`` for k = 1.. (ordinal), the positive class (binary).
        """
        if self.kind == "ordinal":
            return tuple(f"grade>={grade}" for grade in range(1, len(self.labels)))
        return self.logit_names


def _names(task: str) -> tuple[str, ...]:
    return tuple(concept.name for concept in CONCEPTS[task])


TASKS: dict[str, Task] = {
    "chestx": Task(
        name="chestx",
        title="Chest X-ray findings",
        kind="multi-label",
        labels=NIH_FINDINGS,
        # The heart is on one side: a mirrored chest is another diagnosis.
        horizontal_flip=False,
        vertical_flip=False,
        channels=1,
        lesion_roi_kinds=("lesion_mask", "lesion_box"),
        anatomy_roi_kinds=("organ_mask_lung", "region_mask_normal"),
        concepts=_names("chestx"),
    ),
    "retina": Task(
        name="retina",
        title="Diabetic retinopathy grade",
        kind="ordinal",
        labels=("0 none", "1 mild", "2 moderate", "3 severe", "4 proliferative"),
        horizontal_flip=True,  # left and right eyes are mirror images
        vertical_flip=False,
        channels=3,
        lesion_roi_kinds=("lesion_mask", "lesion_box"),
        anatomy_roi_kinds=("optic_disc",),
        concepts=_names("retina"),
    ),
    "pathoscan": Task(
        name="pathoscan",
        title="Histopathology malignancy",
        kind="binary",
        labels=("benign", "malignant"),
        horizontal_flip=True,
        vertical_flip=True,
        channels=3,
        lesion_roi_kinds=("lesion_mask", "lesion_box"),
        anatomy_roi_kinds=("region_mask_normal",),
        concepts=_names("pathoscan"),
    ),
}


def task_named(name: str, labels: tuple[str, ...] | None = None) -> Task:
    """Return a task, for multi-label tasks restricted to ``labels`` in the given order.

    Raises ConfigError for an unknown task or label, or for labels on a task that fixes its own.
    """
    if name not in TASKS:
        raise ConfigError(unknown_name("task", name, TASKS))
    task = TASKS[name]
    if labels is None:
        return task
    if task.kind != "multi-label":
        raise ConfigError(f"task {name} has fixed labels {task.labels}; remove `labels`.")
    if not labels or len(set(labels)) != len(labels):
        raise ConfigError(f"labels of task {name} must be distinct and not empty, got {labels}.")
    known = dict.fromkeys(task.labels)
    for label in labels:
        if label not in known:
            raise ConfigError(unknown_name(f"label of task {name}", label, known))
    return replace(task, labels=labels)
