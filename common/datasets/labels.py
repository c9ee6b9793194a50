"""Label tables: which words of a source mean which label of a task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from common.concepts import CONCEPTS, Concept, concepts_of, shows
from common.datasets.record import EVERY_POSITIVE_LABEL, NO_LABEL_ASKED
from common.errors import ConfigError
from common.files.yaml_file import read_yaml
from common.registry import unknown_name
from common.tasks import TASKS, Task

# Why a row's words give no target. The phrases are counted on the data card, so they name nothing.
NO_LABEL = "no label"
UNKNOWN_LABEL = "unknown label"
SET_ASIDE = "label set aside"
CONTRADICTORY_LABELS = "contradictory labels"

_MASK_VALUES = frozenset(map(str, range(1, 256)))


@dataclass(frozen=True)
class LeftOut:
    """Why a row has no target; ``detail`` is for the person at the site."""

    reason: str
    detail: str


class LabelTable(BaseModel):
    """One file of ``configs/labels``: what no section names is left out, never guessed."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    task: str
    words: Mapping[str, str]  # the source's word → label of the task
    unmentioned: Literal["negative", "unknown"] | None = None  # multi-label only, and needed there
    all_negative: list[str] = []  # multi-label only: words that deny every finding
    ignored: list[str] = []  # known words that say nothing about this task
    set_aside: list[str] = []  # a picture with one of these words is left out
    # Multi-label only: the labels that a lesion region without a name outlines; None: every label.
    masks_outline: list[str] | None = None
    concepts: Mapping[str, list[str]] = {}  # the source's word → concepts that it asserts, or none
    # Concepts that a picture with a word of `concepts` has not where none of its words asserts it.
    concepts_complete: list[str] = []
    # Value of a class mask's pixels, "1" to "255" → the region that they are: a region's name of
    # common.concepts, or a word of `words`. A class mask outlines every place of its regions.
    class_mask: Mapping[str, str] = {}

    def targets(self, words: Sequence[str], task: Task) -> tuple[float, ...] | LeftOut:
        """Return the target vector of a picture with these words, or why it has none.

        A multi-label task restricted to some labels asks only about those: words for other findings
        are passed over, and ``all_negative`` words still deny the ones asked for. A vector of
        nothing but unknowns is "no label".
        """
        words = [word for word in words if word]
        asserted = {self.words[word] for word in words if word in self.words}
        denies = any(word in self.all_negative for word in words)
        problem = self._problem(words, asserted, denies=denies, task=task)
        if problem is not None:
            return problem
        if task.kind != "multi-label":
            return (float(task.labels.index(asserted.pop())),)
        rest = 0.0 if denies or self.unmentioned == "negative" else nan
        target = tuple(1.0 if label in asserted else rest for label in task.labels)
        if all(isnan(value) for value in target):
            return LeftOut(NO_LABEL, f"{_quoted(words)} is not about the run's labels")
        return target

    def signs(self, words: Sequence[str]) -> tuple[tuple[str, bool], ...]:
        """Return the concepts that a picture's words assert (True) or deny (False).

        Words of ``all_negative`` deny every concept that the table can assert.
        """
        told = [self.concepts[word] for word in words if word in self.concepts]
        asserted = {concept for concepts in told for concept in concepts}
        denied = set(self.concepts_complete) if told else set()
        if any(word in self.all_negative for word in words):
            denied |= {concept for concepts in self.concepts.values() for concept in concepts}
        known = {concept: False for concept in denied} | dict.fromkeys(asserted, True)
        return tuple(sorted(known.items()))

    def logit_of(self, word: str, task: Task) -> int | LeftOut | None:
        """Return the logit that a region called ``word`` explains.

        None where the table knows the word but the run does not ask about it. Tasks with one logit
        have one answer whatever the lesion is called.
        """
        if task.num_logits == 1 and task.kind != "multi-label":
            return 0
        if not self.knows(word):
            return LeftOut(UNKNOWN_LABEL, f"region {word!r} is in no section of the label table")
        label = self.words.get(word)
        return task.labels.index(label) if label in task.labels else None

    def logits_of_mask(self, target: Sequence[float], task: Task) -> tuple[int, ...]:
        """Return what a lesion region without a name explains in a picture with this target.

        One region is due per value: a logit, or EVERY_POSITIVE_LABEL. There is none where the
        region outlines only findings that the run does not ask about or the picture does not show.
        """
        if task.kind != "multi-label":
            return (0,)
        if self.masks_outline is None:
            return (EVERY_POSITIVE_LABEL,)
        return tuple(
            logit
            for logit, (label, value) in enumerate(zip(task.labels, target, strict=True))
            if value == 1.0 and label in self.masks_outline
        )

    def logits_of_class(self, region: str, target: Sequence[float], task: Task) -> tuple[int, ...]:
        """Return what a region of a class mask explains in a picture with this target.

        One region is due per value, as in :meth:`logits_of_mask`. A region that is called like a
        finding explains that one; where the run does not ask about it, or nothing of
        ``masks_outline`` is there, the region still shows its sign: NO_LABEL_ASKED.
        """
        if task.kind == "multi-label" and region in self.words:
            label = self.words[region]
            return (task.labels.index(label) if label in task.labels else NO_LABEL_ASKED,)
        return self.logits_of_mask(target, task) or (NO_LABEL_ASKED,)

    def signs_of_class_mask(self, task: Task) -> frozenset[str]:
        """Return the concepts of a task that a class mask outlines wherever they are.

        Not those that only a region of a finding shows which the run does not ask about.
        """
        return frozenset(
            concept.name
            for concept in concepts_of(task.name, task.concepts)
            if (regions := self._regions_that_show(concept))
            and all(r in concept.regions or self.words.get(r) in task.labels for r in regions)
        )

    def _regions_that_show(self, concept: Concept) -> list[str]:
        return [
            region
            for region in self.class_mask.values()
            if shows(concept, region=region, finding=self.words.get(region))
        ]

    def _problem(
        self, words: Sequence[str], asserted: set[str], *, denies: bool, task: Task
    ) -> LeftOut | None:
        for word in words:
            if not self.knows(word):
                return LeftOut(UNKNOWN_LABEL, f"{word!r} is in no section of the label table")
            if word in self.set_aside:
                return LeftOut(SET_ASIDE, f"the label table sets {word!r} aside")
        if (denies and asserted) or (task.kind != "multi-label" and len(asserted) > 1):
            return LeftOut(CONTRADICTORY_LABELS, f"{_quoted(words)} on one picture")
        if not denies and not asserted:
            return LeftOut(NO_LABEL, f"{_quoted(words)} gives no label")
        return None

    def knows(self, word: str) -> bool:
        """Say whether a section says what the word means for the task's labels."""
        return any(
            word in section
            for section in (self.words, self.all_negative, self.ignored, self.set_aside)
        )


def load_label_table(path: Path, *, task: Task) -> LabelTable:
    """Read a label table for a task.

    Raises ConfigError naming file, key and remedy for a missing or malformed file, a table of
    another task, a label the task does not have, or a word in two sections.
    """
    loaded = read_yaml(path, remedy="`mapping` is relative to the folder of default.yaml.")
    try:
        table = LabelTable.model_validate(loaded)
    except ValidationError as error:
        raise ConfigError(f"{path}: {_readable(error)}") from error
    _check(path, table, task)
    return table


def _check(path: Path, table: LabelTable, task: Task) -> None:
    if table.task != task.name:
        raise ConfigError(f"{path}: a label table of task {table.task!r}, not of {task.name!r}.")
    every_label = dict.fromkeys(TASKS[task.name].labels)  # the run may ask about fewer
    for word, label in table.words.items():
        if label not in every_label:
            raise ConfigError(f"{path}: words.{word}: {unknown_name('label', label, every_label)}")
    for label in table.masks_outline or ():
        if label not in every_label:
            raise ConfigError(f"{path}: masks_outline: {unknown_name('label', label, every_label)}")
    signs = dict.fromkeys(TASKS[task.name].concepts)
    for word, concepts in table.concepts.items():
        if not table.knows(word):
            raise ConfigError(
                f"{path}: concepts.{word}: in no other section; add it to words or ignored."
            )
        _check_concepts(f"{path}: concepts.{word}", concepts, signs)
    _check_concepts(f"{path}: concepts_complete", table.concepts_complete, signs)
    _check_class_mask(f"{path}: class_mask", table, task)
    if task.kind == "multi-label" and table.unmentioned is None:
        raise ConfigError(f"{path}: `unmentioned` must say negative or unknown for {task.name}.")
    several = (table.unmentioned, table.all_negative, table.masks_outline)
    if task.kind != "multi-label" and any(several):
        raise ConfigError(
            f"{path}: `unmentioned`, `all_negative` and `masks_outline` are for tasks of several "
            f"findings; {task.name} has one label per picture."
        )
    sections = [*table.words, *table.all_negative, *table.ignored, *table.set_aside]
    repeated = sorted({word for word in sections if sections.count(word) > 1})
    if repeated:
        raise ConfigError(f"{path}: {repeated[0]!r} stands there twice; keep one.")


def _check_concepts(place: str, concepts: Sequence[str], known: Mapping[str, None]) -> None:
    for concept in concepts:
        if concept not in known:
            raise ConfigError(f"{place}: {unknown_name('concept', concept, dict(known))}")


def _check_class_mask(place: str, table: LabelTable, task: Task) -> None:
    regions = {r: None for concept in CONCEPTS.get(task.name, ()) for r in concept.regions}
    for value, region in table.class_mask.items():
        if value not in _MASK_VALUES:
            raise ConfigError(
                f'{place}: a pixel\'s value must be text from "1" to "255", got {value!r}; 0 is '
                "what no region covers."
            )
        if region not in regions and region not in table.words:
            known = regions | dict.fromkeys(table.words)
            raise ConfigError(f"{place}.{value}: {unknown_name('region', region, known)}")


def _quoted(words: Sequence[str]) -> str:
    return " and ".join(map(repr, words)) or "an empty cell"


def _readable(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return unknown_name("key", key, LabelTable.model_fields)
    hint = " (quote words that look like numbers or yes/no)" if "string" in first["type"] else ""
    return f"{key}: {first['msg']}, got {first['input']!r}{hint}"
