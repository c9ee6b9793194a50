"""Explanation methods side by side on the model that a run hands on: where, how faithful, how fast.

Once, when the rounds are over, on a few fixed pictures with an outlined lesion. All methods are
asked about one picture before the next is taken, the tasks in turn: when the time is up every row
rests on the same pictures. Study ``configs/studies/explanations.yaml`` measures more, on more.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from common.config.run import EvaluationConfig, RunConfig
from common.datasets.shard import Shard
from common.errors import ExplanationError
from common.explaining.breakdown import breakdown
from common.machine.seed import derive_seed
from common.metrics.estimate import Estimate, finite_or_none
from common.metrics.localisation import (
    ABOVE_CHANCE,
    LocalisedCase,
    localisation_metrics,
)
from common.metrics.mean_estimate import mean_estimate
from common.model.network import Network
from common.tasks import Task
from server.measuring.explanation_asked import OWN, AskedPicture, Measured
from server.measuring.explanation_cases import OutlinedCase, outlined_cases

TIME_WAS_UP = "not asked: evaluation.method_seconds were over before its first picture"
Clock = Callable[[], float]  # seconds


@dataclass(frozen=True)
class MethodRow:
    """One method on one task, or why there are no figures."""

    method: str
    failure: str  # "" where there are figures
    refused: int  # pictures that it would not explain, left out of its means
    why_refused: str  # of the first of them
    seconds: float | None  # one picture at a time, median
    # pointing_hit, energy_in_roi (each also _above_chance), deletion, insertion (chance: random
    # orders), deletion_below_chance, insertion_above_chance, agreement_spearman, agreement_top_iou
    estimates: Mapping[str, Estimate]


@dataclass(frozen=True)
class MethodsReport:
    """The methods on one task."""

    pictures: int  # that every method was asked about
    of_pictures: int  # chosen, before the time was up
    cases: Mapping[str, int]  # of the measured ones, by class
    rows: tuple[MethodRow, ...]  # in the order of the configuration


@dataclass(eq=False)
class _Subject:
    """One task while it is measured: what is done, and who has failed."""

    task: Task
    shard: Shard
    cases: Sequence[OutlinedCase]
    by_chance: list[float] = field(default_factory=list)  # area in random order, per picture
    done: list[dict[str, Measured | str]] = field(default_factory=list)  # picture → method
    failed: dict[str, str] = field(default_factory=dict)  # method → why

    def is_whole(self, picture: int, methods: Sequence[str]) -> bool:
        return all(method in self.done[picture] or method in self.failed for method in methods)


def compare_methods(
    network: Network,
    shards: Mapping[str, Shard],
    part: str,
    *,
    config: RunConfig,
    clock: Clock = time.monotonic,
) -> dict[str, MethodsReport]:
    """Measure ``evaluation.methods`` on ``evaluation.method_pictures`` pictures of each task.

    Whatever a method raises is its row; an ExplanationError costs it the picture alone.

    Args:
        network: On the device to be used; left in the mode it came in.
        shards: Reference set of each task to compare on.
        part: Of the shards.
        config: The run's.
        clock: Tells when ``evaluation.method_seconds`` are over.

    Returns a report for each task that has an outlined picture; {} where the comparison is off.
    """
    rules = config.evaluation
    subjects = _subjects(shards, part, config)
    if not subjects or not rules.methods:
        return {}
    was_training = network.training
    network.eval()
    try:
        _measure(network, subjects, rules, seed=config.seed, clock=clock)
    finally:
        network.train(was_training)
    return {s.task.name: _report(s, rules, seed=config.seed) for s in subjects}


def _subjects(shards: Mapping[str, Shard], part: str, config: RunConfig) -> list[_Subject]:
    count = config.evaluation.method_pictures
    chosen = [
        _Subject(
            config.task(name),
            shard,
            outlined_cases(shard, part, task=config.task(name), count=count, seed=config.seed),
        )
        for name, shard in shards.items()
    ]
    return [subject for subject in chosen if subject.cases]


def _measure(
    network: Network,
    subjects: Sequence[_Subject],
    rules: EvaluationConfig,
    *,
    seed: int,
    clock: Clock,
) -> None:
    """Fill the subjects, picture by picture, until all is done or the time is up."""
    until = clock() + rules.method_seconds
    for number in range(max(len(subject.cases) for subject in subjects)):
        for subject in subjects:
            if number >= len(subject.cases):
                continue
            if clock() >= until:
                return
            _picture(
                network,
                subject,
                number,
                rules.methods,
                seed=seed,
                is_over=lambda: clock() >= until,
            )


def _picture(
    network: Network,
    subject: _Subject,
    number: int,
    methods: Sequence[str],
    *,
    seed: int,
    is_over: Callable[[], bool],
) -> None:
    """Ask every method about one picture."""
    asked = AskedPicture(
        network, subject.shard, subject.cases[number], task=subject.task, seed=seed
    )
    subject.by_chance.append(asked.area_by_chance())
    found: dict[str, Measured | str] = {}
    subject.done.append(found)
    for method in methods:
        if method in subject.failed:
            continue
        if is_over():
            return
        try:
            found[method] = asked.measure(method)
        except ExplanationError as error:
            found[method] = str(error)
        except Exception as error:  # whatever a method raises belongs in its row
            subject.failed[method] = f"it broke down ({breakdown(error)})"


def _report(subject: _Subject, rules: EvaluationConfig, *, seed: int) -> MethodsReport:
    whole = [n for n in range(len(subject.done)) if subject.is_whole(n, rules.methods)]
    # Cut in its very first picture: what is known of that one is still told.
    used = whole or ([0] if subject.done else [])
    counts: dict[str, int] = {}
    for number in used:
        name = subject.task.logit_names[subject.cases[number].logit]
        counts[name] = counts.get(name, 0) + 1
    return MethodsReport(
        pictures=len(used),
        of_pictures=len(subject.cases),
        cases=counts,
        rows=tuple(_row(subject, method, used, rules, seed=seed) for method in rules.methods),
    )


def _row(
    subject: _Subject, method: str, used: Sequence[int], rules: EvaluationConfig, *, seed: int
) -> MethodRow:
    answers = {n: subject.done[n][method] for n in used if method in subject.done[n]}
    measured = {n: one for n, one in answers.items() if isinstance(one, Measured)}
    refusals = [one for one in answers.values() if isinstance(one, str)]
    failure = subject.failed.get(method, "")
    if not failure and not measured:
        failure = refusals[0] if refusals else TIME_WAS_UP
    return MethodRow(
        method=method,
        failure=failure,
        refused=len(refusals),
        why_refused=refusals[0] if refusals else "",
        seconds=None
        if failure
        else finite_or_none(float(np.median([one.seconds for one in measured.values()]))),
        estimates={} if failure else _estimates(subject, measured, method, rules, seed=seed),
    )


def _estimates(
    subject: _Subject,
    measured: Mapping[int, Measured],
    method: str,
    rules: EvaluationConfig,
    *,
    seed: int,
) -> dict[str, Estimate]:
    cases = [subject.cases[number] for number in measured]
    ones = list(measured.values())
    patients = np.array([case.patient for case in cases], dtype=np.int64)

    def draws() -> np.random.Generator:
        return np.random.default_rng(derive_seed(seed, "bootstrap", "methods", subject.task.name))

    def mean(values: Sequence[float], chance: float | None) -> Estimate:
        return mean_estimate(
            np.array(values, dtype=np.float64),
            patients,
            replicates=rules.bootstrap_replicates,
            min_patients=rules.min_positive_patients,
            rng=draws(),
            chance=chance,
        )

    names = subject.task.logit_names
    looked = localisation_metrics(
        [
            LocalisedCase(names[case.logit], case.patient, one.localisation)
            for case, one in zip(cases, ones, strict=True)
        ],
        replicates=rules.bootstrap_replicates,
        min_patients=rules.min_positive_patients,
        rng=draws(),
    ).average
    random = [subject.by_chance[number] for number in measured]
    by_chance = finite_or_none(float(np.mean(random)))
    found = {name: looked[name] for name in _LOOKS}
    found["deletion"] = mean([one.deletion for one in ones], by_chance)
    found["insertion"] = mean([one.insertion for one in ones], by_chance)
    pairs = list(zip(random, ones, strict=True))
    found["deletion_below_chance"] = mean([area - one.deletion for area, one in pairs], 0.0)
    found["insertion_above_chance"] = mean([one.insertion - area for area, one in pairs], 0.0)
    if method != OWN:
        found["agreement_spearman"] = mean([one.spearman for one in ones], 0.0)
        found["agreement_top_iou"] = mean([one.top_iou for one in ones], None)
    return found


_LOOKS = (
    "pointing_hit",
    f"pointing_hit{ABOVE_CHANCE}",
    "energy_in_roi",
    f"energy_in_roi{ABOVE_CHANCE}",
)
