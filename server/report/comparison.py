"""Before and after training, beside what needs no model: the rows of a run's closing table.

Light: works on a summary alone.
"""

import re
from dataclasses import dataclass

from common.errors import DataError
from server.exchange.participation import Outcome
from server.record.protection import pictures_text, site_epsilon
from server.record.summary import (
    EstimateEntry,
    RoundEntry,
    SiteRoundEntry,
    Standing,
    Summary,
    TaskEntry,
    headline,
)

MAJORITY = "the commonest answer"
CHANCE = "chance"

# How the notes of averages begin; see common.metrics.classification.
AVERAGED = re.compile(r"average of (?P<some>\d+) of (?P<all>\d+) classes: (?P<names>[^;]*)")

# metric → (its name in words, what it is compared with)
CLASSIFICATION_ROWS = {
    "auroc": ("AUROC", CHANCE),
    "accuracy": ("Accuracy", MAJORITY),
    "balanced_accuracy": ("Balanced accuracy", MAJORITY),
}
LOCALISATION_ROWS = {
    "pointing_hit": ("Map peak in lesion", CHANCE),
    "energy_in_roi": ("Map energy in lesion", CHANCE),
    "iou_matched_area": ("Map–lesion overlap, IoU", CHANCE),
}


@dataclass(frozen=True)
class Row:
    """One measure of one task before and after training."""

    measure: str
    compared_with: str  # MAJORITY or CHANCE
    before: EstimateEntry | None
    after: EstimateEntry | None
    standing: Standing  # of ``after`` against what it is compared with

    @property
    def baseline(self) -> float | None:
        """What needs no model: the commonest answer, or the same map put down anywhere."""
        return None if self.after is None else self.after.chance


def between(summary: Summary, first: int, last: int) -> Summary:
    """Return the summary with the rounds from ``first`` to ``last`` alone, to compare those two.

    Raises DataError when one of them was not evaluated.
    """
    evaluated = [r.round for r in summary.rounds if r.central]
    for wanted in (first, last):
        if wanted not in evaluated:
            known = ", ".join(map(str, evaluated)) or "none"
            raise DataError(f"round {wanted} was not evaluated centrally; evaluated: {known}.")
    if first >= last:
        raise DataError(f"round {first} does not come before round {last}. Name the earlier first.")
    kept = tuple(r for r in summary.rounds if first <= r.round <= last)
    return summary.model_copy(update={"rounds": kept})


def when(server_round: int) -> str:
    """Return a round in words; round 0 is the model before any training."""
    return "before training" if server_round == 0 else f"round {server_round}"


def standings(summary: Summary) -> dict[Standing, int]:
    """Return how many measures, of all tasks, lie clearly above their baseline, below it, neither.

    Those without a value count as unclear.
    """
    found: dict[Standing, int] = {"better": 0, "worse": 0, "unclear": 0}
    for task in summary.tasks:
        for row in task_rows(summary, task):
            found[row.standing] += 1
    return found


def standing_sentence(summary: Summary) -> str:
    """Say how many measures beat their baseline, "" if none was measured."""
    found = standings(summary)
    total = sum(found.values())
    if not total:
        return ""
    return (
        f"Of {total} measures {found['better']} are better than their baseline, "
        f"{found['worse']} worse, {found['unclear']} cannot be told."
    )


def late_sentence(summary: Summary) -> str:
    """Say how many answers came twice or too late, "" if none did."""
    if not summary.late_replies:
        return ""
    came = "1 answer" if summary.late_replies == 1 else f"{summary.late_replies} answers"
    return f"{came} came twice or too late and changed nothing."


def asked_to_train(entry: RoundEntry) -> tuple[SiteRoundEntry, ...]:
    """Return a round's sites without those that only measured its model."""
    return tuple(site for site in entry.sites if site.outcome is not Outcome.MEASURED)


def attendance(summary: Summary) -> str:
    """Say how many sites answered whenever they were asked, as ``5 of 6 sites``."""
    asked = [
        [s.outcome for r in summary.rounds for s in asked_to_train(r) if s.site == site.name]
        for site in summary.sites
    ]
    steady = sum(bool(o) and all(each is Outcome.ANSWERED for each in o) for o in asked)
    return f"{steady} of {len(summary.sites)} sites"


def trained_rounds(summary: Summary) -> int:
    """Return the rounds after round 0, which is the model before training."""
    return sum(r.round > 0 for r in summary.rounds)


def task_rows(summary: Summary, task: str) -> tuple[Row, ...]:
    """Return one task's rows; none if it was never evaluated."""
    evaluated = summary.evaluated(task)
    if not evaluated:
        return ()
    # The last of the rounds and not the best: the best was chosen by these very numbers.
    first, last = evaluated[0][1], evaluated[-1][1]
    kind = summary.tasks[task].kind
    made = [
        _row(metric, _of_grade(measure, kind), against, first=first, last=last)
        for metric, (measure, against) in CLASSIFICATION_ROWS.items()
    ]
    made += [
        _localisation_row(metric, measure, first=first, last=last)
        for metric, (measure, _) in LOCALISATION_ROWS.items()
    ]
    return tuple(made)


def remarks(summary: Summary) -> tuple[str, ...]:
    """Return sentences on the measures that do not clearly beat what needs no model, by task."""
    said: list[str] = []
    for task, about in summary.tasks.items():
        without_interval: dict[str, list[str]] = {}
        for row in task_rows(summary, task):
            after = row.after
            if row.standing == "better":
                continue
            if after is None or after.value is None or after.low is None or after.high is None:
                without_interval.setdefault(_reason(after), []).append(_inline(row.measure))
            else:
                said.append(f"{about.title}: {_beside_baseline(row, after)}")
        said += [
            f"{about.title}: too little data to judge {', '.join(names)} ({reason})."
            for reason, names in without_interval.items()
        ]
    return tuple(said)


def _beside_baseline(row: Row, after: EstimateEntry) -> str:
    value = f"{_inline(row.measure)} {number(after.value)}"
    baseline = f"{number(after.chance)} by {row.compared_with}"
    if row.standing == "worse":
        return f"{value} is worse than {baseline} (interval {interval(after)})."
    return (
        f"{value} cannot be told from {baseline}: the interval {interval(after)} includes the "
        f"baseline; too little data, or nothing learned ({_rests_on(after)})."
    )


def averaged_classes(summary: Summary, task: str) -> str:
    """Say which classes the averages shown for a task are over, "" if over all."""
    evaluated = summary.evaluated(task)
    shown = headline(evaluated[-1][1].classification, "auroc") if evaluated else None
    known = AVERAGED.search("" if shown is None else shown.note)
    if known is None or known["some"] == known["all"]:
        return ""
    return (
        f"{known['some']} of {known['all']} classes have patients enough: {known['names'].strip()}"
    )


def _inline(measure: str) -> str:
    return measure if measure.isupper() else measure[:1].lower() + measure[1:]


def _reason(entry: EstimateEntry | None) -> str:
    """Return the part of an estimate's note that says why it has no value or interval."""
    if entry is None:
        return "not measured"
    why = [
        part for part in entry.note.split("; ") if part.startswith(("no interval", "not defined"))
    ]
    return why[0] if why else entry.note or "no interval"


def _rests_on(entry: EstimateEntry) -> str:
    text = f"{entry.support} pictures"
    if entry.positive_patients is not None:
        text += f", {entry.positive_patients} positive patients"
    return text


def number(value: float | None) -> str:
    """Return a share with three digits, a dash where it is not defined."""
    return "–" if value is None else f"{value:.3f}"


def interval(entry: EstimateEntry | None) -> str:
    """Return the bounds of a 95 % interval, a dash where there is none."""
    if entry is None or entry.low is None or entry.high is None:
        return "–"
    return f"{entry.low:.3f}–{entry.high:.3f}"


SITE_COLUMNS = ("Site", "Task", "Training pictures", "Rounds answered")
EPSILON_COLUMN = "ε reported, all runs (this run)"


@dataclass(frozen=True)
class SiteRow:
    """What one site brought to the run."""

    site: str
    task: str
    pictures: str  # for training
    rounds: str  # answered, of those asked for
    epsilon: str | None  # spent on its data; None: the run has no noise

    @property
    def cells(self) -> tuple[str, ...]:
        """The row under :func:`site_columns`."""
        known = (self.site, self.task, self.pictures, self.rounds)
        return known if self.epsilon is None else (*known, self.epsilon)


def site_columns(summary: Summary) -> tuple[str, ...]:
    """Return the heads of the table of sites."""
    return SITE_COLUMNS if summary.privacy is None else (*SITE_COLUMNS, EPSILON_COLUMN)


def site_rows(summary: Summary) -> tuple[SiteRow, ...]:
    """Return the rows of the table of sites."""
    made = []
    for site in summary.sites:
        asked = [s for r in summary.rounds for s in asked_to_train(r) if s.site == site.name]
        answered = sum(s.outcome is Outcome.ANSWERED for s in asked)
        row = SiteRow(
            site=site.name,
            task=site.task,
            pictures=pictures_text(summary, site.name, site.num_examples),
            rounds=f"{answered} of {len(asked)}",
            epsilon=None if summary.privacy is None else site_epsilon(summary, site.name),
        )
        made.append(row)
    return tuple(made)


def count(value: int | None) -> str:
    """Return a count, a dash where there is none."""
    return "–" if value is None else str(value)


def _row(metric: str, measure: str, against: str, *, first: TaskEntry, last: TaskEntry) -> Row:
    after = headline(last.classification, metric)
    return Row(
        measure=measure,
        compared_with=against,
        before=headline(first.classification, metric),
        after=after,
        standing="unclear" if after is None else after.standing,
    )


def _of_grade(measure: str, kind: str) -> str:
    """Name the accuracy of a graded task, which is that of the grade and not of its questions."""
    return "Accuracy of the grade" if (measure, kind) == ("Accuracy", "ordinal") else measure


def _localisation_row(metric: str, measure: str, *, first: TaskEntry, last: TaskEntry) -> Row:
    # Chance differs from mask to mask, so the difference is taken picture by picture.
    above = last.localisation.average.get(f"{metric}_above_chance")
    standing: Standing = "unclear"
    if above is not None and above.low is not None and above.high is not None:
        standing = "better" if above.low > 0 else "worse" if above.high < 0 else "unclear"
    return Row(
        measure=measure,
        compared_with=CHANCE,
        before=first.localisation.average.get(metric),
        after=last.localisation.average.get(metric),
        standing=standing,
    )
