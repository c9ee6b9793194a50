"""The global model on the coordinator's reference sets: accuracy, and where it looks.

Only part ``selection`` is looked at here. What chooses a model must not also judge it: the gate's
part stays locked, the calibration's part untouched.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from common.config.run import RunConfig
from common.datasets.shard import Shard
from common.errors import ConfigError
from common.learning.evaluate import TaskPredictions, TaskReport, evaluate, measure
from common.messages.kinds import Arrays
from common.model.arrays import write_arrays
from common.model.network import Network
from common.tasks import Task
from server.measuring.explanation_pictures import Seen, extreme_choices
from server.measuring.explanation_watch import ExplanationWatch, WatchReport
from server.measuring.overlay_cases import Choice, choose_cases, overlay_case, overlay_map
from server.measuring.overlays import OverlayCase, OverlayMap
from server.rounds.round_report import NOTHING_BESIDE, Beside

PART = "selection"


@dataclass(frozen=True, eq=False)
class CentralResult:
    """What one round's model is worth, per task, and what it sees in the fixed cases."""

    server_round: int
    reports: Mapping[str, TaskReport]
    overlays: Mapping[str, tuple[OverlayMap, ...]]  # in the order of the evaluator's cases
    wall_s: float  # of all of it, the explanations' numbers included
    explanation: WatchReport | None = None
    # Per task, where it looks best and where it looks worst; of a round that may be the last.
    extremes: Mapping[str, tuple[Sequence[Seen], Sequence[Seen]]] = field(default_factory=dict)

    @property
    def score(self) -> float | None:
        """Mean over the tasks of their score; None when a task's model has diverged."""
        scores = [report.score for report in self.reports.values()]
        known = [score for score in scores if score is not None]
        return sum(known) / len(known) if known and len(known) == len(scores) else None


class CentralEvaluation:
    """Measures models of one run; stays warm between rounds."""

    def __init__(self, config: RunConfig, network: Network, shards: Mapping[str, Shard]) -> None:
        """Choose the cases to show.

        Args:
            config: The run's.
            network: Of the run, on the device to be used; its weights are overwritten.
            shards: The reference set of every task of the run.

        Raises ConfigError when a task has no reference set.
        """
        missing = sorted(set(config.tasks) - set(shards))
        if missing:
            raise ConfigError(f"reference: no reference set for task {missing[0]}. Add one.")
        self._config = config
        self._network = network
        self._shards = {name: shards[name] for name in config.tasks}
        self._choices = {
            name: choose_cases(
                shard, PART, task=config.task(name), count=config.evaluation.overlays_per_task
            )
            for name, shard in self._shards.items()
        }
        self._watch = ExplanationWatch(config, self._shards, PART)

    def __call__(
        self, arrays: Arrays, server_round: int, beside: Beside = NOTHING_BESIDE
    ) -> CentralResult:
        """Measure a model given by all its arrays; round 0 is before training."""
        started = time.monotonic()
        write_arrays(self._network, arrays)
        reports: dict[str, TaskReport] = {}
        overlays: dict[str, tuple[OverlayMap, ...]] = {}
        answers: dict[str, TaskPredictions] = {}
        for name, shard in self._shards.items():
            task, choices = self._config.task(name), self._choices[name]
            predicted = evaluate(
                self._network,
                shard,
                PART,
                task=task,
                loss=self._config.loss,
                batch_size=self._config.evaluation.batch_size,
                keep_maps={choice.index for choice in choices}
                | self._watch.wanted(name, whole=beside.may_be_last),
            )
            answers[name] = predicted
            reports[name] = measure(
                predicted, config=self._config.evaluation, seed=self._config.seed
            )
            overlays[name] = tuple(
                overlay_map(predicted, overlay_case(shard, choice, task=task), choice, task=task)
                for choice in choices
            )
        # Last: the sites' models take the place of this one in the network.
        explanation = self._watch.look(answers, server_round, network=self._network, beside=beside)
        return CentralResult(
            server_round=server_round,
            reports=reports,
            overlays=overlays,
            wall_s=time.monotonic() - started,
            explanation=explanation,
            extremes={name: self._extremes(found) for name, found in answers.items()}
            if beside.may_be_last
            else {},
        )

    def cases(self) -> dict[str, tuple[OverlayCase, ...]]:
        """Return the fixed cases of each task, read anew from the shards."""
        return {
            name: tuple(self._case(name, choice) for choice in choices)
            for name, choices in self._choices.items()
        }

    def _extremes(self, found: TaskPredictions) -> tuple[Sequence[Seen], Sequence[Seen]]:
        """Return the cases in which a model looks best and worst, with what it sees there."""
        task, shard = found.task, self._shards[found.task.name]
        best, worst = extreme_choices(found, shard)

        def seen(choices: Sequence[Choice]) -> tuple[Seen, ...]:
            cases = [overlay_case(shard, choice, task=task) for choice in choices]
            return tuple(
                (case, overlay_map(found, case, choice, task=task))
                for case, choice in zip(cases, choices, strict=True)
            )

        return seen(best), seen(worst)

    def _case(self, name: str, choice: Choice) -> OverlayCase:
        task: Task = self._config.task(name)
        return overlay_case(self._shards[name], choice, task=task)
