"""Consistency of a federation's explanations: do its maps hold still, agree, and stay on the body?

Every measured round, on a fixed sample of reference pictures: drift since the last measured round,
what speaks for a class where no disease can be, whether a class still goes with its signs, and how
far the sites' own models look where the global one looks. The global model's maps and answers come
from the evaluation's own forward pass; only a site's model needs another one, so the sites take
turns. In a round that may be the last the whole part is looked at, and every site.

What is measured never depends on a clock: the time it took is told, and when it was too much.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from common.config.run import RunConfig
from common.datasets.shard import Shard
from common.learning.evaluate import TaskPredictions
from common.machine.seed import derive_seed
from common.messages.kinds import Arrays
from common.metrics.drift import map_similarity
from common.metrics.estimate import Estimate
from common.metrics.shortcut import evidence_share
from common.model.arrays import write_arrays
from common.model.network import Network
from server.exchange.requests import is_measured
from server.measuring.explanation_alarms import (
    Alarm,
    drift_alarms,
    shortcut_alarms,
    sign_alarms,
    site_alarms,
)
from server.measuring.explanation_averages import AverageLook, averages_of
from server.measuring.explanation_places import Places, places_of
from server.measuring.explanation_sample import Maps, choose_sample, look_at
from server.measuring.explanation_sign_watch import (
    Answers,
    BySign,
    answers_in,
    answers_to,
    changes,
    goes_with,
)
from server.measuring.explanation_sites import (
    SiteExample,
    SiteLooks,
    SitesCompared,
    compare_sites,
    sites_note,
    stays,
)
from server.rounds.round_report import NOTHING_BESIDE, Beside

# Of the allowed share of the evaluation's pictures: the rest is for the numbers made from maps.
FORWARD_SHARE = 0.5

Estimates = Mapping[str, Estimate]


@dataclass(frozen=True, eq=False)
class TaskLooks:
    """What the maps of one task say in one round."""

    pictures: int  # looked at for the shares
    of_pictures: int  # in the part
    drift_pictures: int  # the fixed sample
    since: int | None  # the round that drift is counted from; None: there is none
    drift: Mapping[str, Estimates]  # class → spearman, top_iou; empty without ``since``
    shares: Mapping[str, Estimates]  # class → place → share of positive evidence
    # Class → sign → rank correlation over the fixed sample; {} where signs have no heads.
    signs: BySign
    sites: Mapping[str, SiteLooks]
    example: SiteExample | None  # of a round that may be the last, if sites were compared
    averages: tuple[AverageLook, ...]  # classes with a positive picture


@dataclass(frozen=True, eq=False)
class _Former:
    """What a measured round leaves for the next one to be compared with, of one task's sample."""

    server_round: int
    maps: Maps
    answers: Answers
    signs: BySign


@dataclass(frozen=True, eq=False)
class WatchReport:
    """What a round's maps say, and what it cost to find out."""

    tasks: Mapping[str, TaskLooks]
    alarms: tuple[Alarm, ...]
    sites_note: str  # why sites are missing, or which took their turn
    seconds: float = field(compare=False)


class ExplanationWatch:
    """Watches the maps of one run; remembers those of the last measured round."""

    def __init__(self, config: RunConfig, shards: Mapping[str, Shard], part: str) -> None:
        """Choose the sample of each task, from seed and shard alone."""
        self._config = config
        self._part = part
        self._shards = shards
        rules = config.evaluation
        self._samples = {
            name: choose_sample(
                shard,
                part,
                task=config.task(name),
                count=rules.explanation_pictures,
                seed=config.seed,
            )
            for name, shard in shards.items()
        }
        evaluated = sum(len(shard.indices(part)) for shard in shards.values())
        compared = max(1, min(rules.explanation_sites, len(config.sites)))
        allowed = rules.explanation_share * FORWARD_SHARE * evaluated / compared
        self._site_pictures = max(1, int(allowed))
        self._places: dict[str, Places] = {}  # of the samples
        self._before: dict[str, _Former] = {}

    def wanted(self, task: str, *, whole: bool) -> set[int]:
        """Return the pictures whose maps must be kept: the sample, or the ``whole`` part."""
        shard, sample = self._shards[task], self._samples[task]
        return set((shard.indices(self._part) if whole else sample).tolist())

    def look(
        self,
        predicted: Mapping[str, TaskPredictions],
        server_round: int,
        *,
        network: Network,
        beside: Beside = NOTHING_BESIDE,
    ) -> WatchReport:
        """Measure one round's maps.

        Args:
            predicted: Of every task, with the maps of :meth:`wanted` for ``beside.may_be_last``.
            server_round: Whose model it is.
            network: For the sites' models; its weights are overwritten when there are any.
            beside: The sites' changes.
        """
        started = time.monotonic()
        sampled = {name: _stacked(found, self._samples[name]) for name, found in predicted.items()}
        if server_round and beside.start and not self._before:
            self._recall(server_round - 1, network, beside.start)
        compared = compare_sites(
            self._config,
            network,
            self._shards,
            self._samples,
            sampled,
            beside=beside,
            pictures=self._site_pictures,
            similarity=self._similarity,
        )
        tasks: dict[str, TaskLooks] = {}
        alarms: list[Alarm] = []
        for name, found in predicted.items():
            answers = answers_to(found, self._samples[name])
            looks = self._task(
                name, found, sampled[name], answers=answers, compared=compared, beside=beside
            )
            tasks[name] = looks
            alarms += self._alarms(name, looks, answers, server_round)
            self._before[name] = _Former(server_round, sampled[name], answers, looks.signs)
        return WatchReport(
            tasks=tasks,
            alarms=tuple(alarms),
            sites_note=sites_note(self._config, compared.looks, beside, server_round),
            seconds=time.monotonic() - started,
        )

    def _recall(self, server_round: int, network: Network, model: Arrays) -> None:
        """Look again at the model of the round before: an earlier process had seen its maps."""
        config = self._config
        if not is_measured(config, server_round):
            return  # drift is counted between measured rounds, and that one's model is gone
        write_arrays(network, model)
        for name, shard in self._shards.items():
            looked = look_at(
                network,
                shard,
                self._samples[name],
                task=config.task(name),
                batch_size=config.evaluation.batch_size,
            )
            answers = answers_in(looked)
            signs = self._goes_with(name, answers)
            self._before[name] = _Former(server_round, looked.maps, answers, signs)

    def _task(
        self,
        name: str,
        found: TaskPredictions,
        sampled: Maps,
        *,
        answers: Answers,
        compared: SitesCompared,
        beside: Beside,
    ) -> TaskLooks:
        shard, sample = self._shards[name], self._samples[name]
        looked, maps = (
            (found.indices, _stacked(found, found.indices))
            if beside.may_be_last
            else (sample, sampled)
        )
        before = self._before.get(name)
        return TaskLooks(
            pictures=len(looked),
            of_pictures=len(found.indices),
            drift_pictures=len(sample),
            since=None if before is None else before.server_round,
            drift={} if before is None else self._similarity(name, before.maps, sampled, sample),
            shares=self._shares(name, looked, maps, whole=beside.may_be_last),
            signs=self._goes_with(name, answers),
            sites=compared.looks.get(name, {}),
            example=compared.examples.get(name),
            averages=tuple(averages_of(shard, looked, maps, found.task.logit_names)),
        )

    def _similarity(
        self, name: str, first: Maps, second: Maps, rows: NDArray[np.int64]
    ) -> dict[str, dict[str, Estimate]]:
        rules, patients = self._config.evaluation, self._shards[name].patients[rows]
        return {
            label: map_similarity(
                first[:, logit],
                second[:, logit],
                patients,
                replicates=rules.bootstrap_replicates,
                min_patients=rules.min_positive_patients,
                rng=self._draws(name),
            )
            for logit, label in enumerate(self._config.task(name).logit_names)
        }

    def _shares(
        self, name: str, rows: NDArray[np.int64], maps: Maps, *, whole: bool
    ) -> dict[str, dict[str, Estimate]]:
        rules, shard = self._config.evaluation, self._shards[name]
        height, width = maps.shape[-2:]
        places = None if whole else self._places.get(name)
        if places is None:
            border = rules.alarms.border_width
            places = places_of(shard, rows, (height, width), border_width=border)
            if not whole:
                self._places[name] = places
        return {
            label: {
                place: evidence_share(
                    maps[:, logit],
                    share,
                    shard.patients[rows],
                    replicates=rules.bootstrap_replicates,
                    min_patients=rules.min_positive_patients,
                    rng=self._draws(name),
                )
                for place, share in places.of_class(label).items()
            }
            for logit, label in enumerate(self._config.task(name).logit_names)
        }

    def _goes_with(self, name: str, answers: Answers) -> BySign:
        return goes_with(
            answers,
            self._shards[name].patients[self._samples[name]],
            task=self._config.task(name),
            rules=self._config.evaluation,
            rng=self._draws(name),
        )

    def _alarms(
        self, name: str, looks: TaskLooks, answers: Answers, server_round: int
    ) -> Iterator[Alarm]:
        title, thresholds = self._config.task(name).title, self._config.evaluation.alarms
        before = self._before.get(name)
        if server_round == 0 or stays(name, self._config):
            return  # nothing has been learned in this head, neither right nor wrong
        if before is not None:
            since = before.server_round
            yield from drift_alarms(name, title, looks.drift, since=since, thresholds=thresholds)
            if since:
                yield from self._sign_alarms(name, before, answers)
        yield from shortcut_alarms(name, title, looks.shares, thresholds=thresholds)
        for site, compared in looks.sites.items():
            yield from site_alarms(name, title, site, compared.similarity, thresholds=thresholds)

    def _sign_alarms(self, name: str, before: _Former, answers: Answers) -> Iterator[Alarm]:
        task = self._config.task(name)
        changed = changes(
            before.answers,
            answers,
            self._shards[name].patients[self._samples[name]],
            task=task,
            rules=self._config.evaluation,
            rng=self._draws(name),
        )
        yield from sign_alarms(
            name,
            task.title,
            before.signs,
            changed,
            since=before.server_round,
            thresholds=self._config.evaluation.alarms,
        )

    def _draws(self, name: str) -> np.random.Generator:
        """Return the same draws for every round, so that rounds differ by their maps alone."""
        seed = derive_seed(self._config.seed, "bootstrap", "explanation", name, self._part)
        return np.random.default_rng(seed)


def _stacked(found: TaskPredictions, rows: NDArray[np.int64]) -> Maps:
    return np.stack([found.kept_maps[int(index)] for index in rows])
