"""Consistency of a federation's explanations: do its maps hold still, agree, and stay on the body?

Every measured round, on a fixed sample of reference pictures: drift since the last measured round,
what speaks for a class where no disease can be, and how far the sites' own models look where the
global one looks. The global model's maps come from the evaluation's own forward pass; only a
site's model needs another one, so the sites take turns. In a round that may be the last the whole
part is looked at, and every site.

What is measured never depends on a clock: the time it took is told, and when it was too much.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from common.config import RunConfig
from common.datasets.shard import Shard
from common.evaluate import TaskPredictions
from common.layers import is_local
from common.metrics.drift import map_similarity
from common.metrics.estimate import Estimate
from common.metrics.shortcut import evidence_share
from common.model.arrays import write_arrays
from common.model.network import Network
from common.seed import derive_seed
from common.wire import Arrays
from server.exchange.requests import is_measured
from server.measuring.explanation_alarms import Alarm, drift_alarms, shortcut_alarms, site_alarms
from server.measuring.explanation_places import Places, places_of
from server.measuring.explanation_sample import Maps, choose_sample, maps_of
from server.rounds.round_report import NOTHING_BESIDE, Beside

# Of the allowed share of the evaluation's pictures: the rest is for the numbers made from maps.
FORWARD_SHARE = 0.5
BLENDED = 32  # pictures, at most, whose mean lies below an average map
IN_THE_SUM_ONLY = "in the sum only: updates are summed under masks, no site's model is seen"
NOBODY = "no site's model was there to compare"

Estimates = Mapping[str, Estimate]


@dataclass(frozen=True, eq=False)
class SiteLooks:
    """How far a site's locally trained model looks where the round's global model looks."""

    pictures: int
    similarity: Mapping[str, Estimates]  # class → spearman, top_iou


@dataclass(frozen=True, eq=False)
class AverageLook:
    """Where a model looks on average in the pictures that show a class."""

    class_name: str
    pictures: int
    evidence: NDArray[np.float32]  # (h, w) >= 0, mean of what each place adds to the logit
    image: NDArray[np.uint8]  # (S, S, C), mean of some of these pictures


@dataclass(frozen=True, eq=False)
class TaskLooks:
    """What the maps of one task say in one round."""

    pictures: int  # looked at for the shares
    of_pictures: int  # in the part
    drift_pictures: int  # the fixed sample
    since: int | None  # the round that drift is counted from; None: there is none
    drift: Mapping[str, Estimates]  # class → spearman, top_iou; empty without ``since``
    shares: Mapping[str, Estimates]  # class → place → share of positive evidence
    sites: Mapping[str, SiteLooks]
    averages: tuple[AverageLook, ...]  # classes with a positive picture


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
        self._before: dict[str, tuple[int, Maps]] = {}

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
        sites = self._sites(sampled, network, beside)
        tasks: dict[str, TaskLooks] = {}
        alarms: list[Alarm] = []
        for name, found in predicted.items():
            tasks[name] = self._task(name, found, sampled[name], sites.get(name, {}), beside)
            alarms += self._alarms(name, tasks[name], server_round)
            self._before[name] = (server_round, sampled[name])
        return WatchReport(
            tasks=tasks,
            alarms=tuple(alarms),
            sites_note=self._sites_note(sites, beside, server_round),
            seconds=time.monotonic() - started,
        )

    def _recall(self, server_round: int, network: Network, model: Arrays) -> None:
        """Look again at the model of the round before: an earlier process had seen its maps."""
        config = self._config
        if not is_measured(config, server_round):
            return  # drift is counted between measured rounds, and that one's model is gone
        write_arrays(network, model)
        for name, shard in self._shards.items():
            maps = maps_of(
                network,
                shard,
                self._samples[name],
                task=config.task(name),
                batch_size=config.evaluation.batch_size,
            )
            self._before[name] = (server_round, maps)

    def _task(
        self,
        name: str,
        found: TaskPredictions,
        sampled: Maps,
        sites: Mapping[str, SiteLooks],
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
            since=None if before is None else before[0],
            drift={} if before is None else self._similarity(name, before[1], sampled, sample),
            shares=self._shares(name, looked, maps, whole=beside.may_be_last),
            sites=sites,
            averages=tuple(_averages(shard, looked, maps, found.task.logit_names)),
        )

    def _sites(
        self, sampled: Mapping[str, Maps], network: Network, beside: Beside
    ) -> dict[str, dict[str, SiteLooks]]:
        """Compare each site's model with the global one, by task and site."""
        config, looks = self._config, dict[str, dict[str, SiteLooks]]()
        for site in config.sites:
            change, name = beside.changes.get(site.name), site.task
            if change is None or _stays(name, config):
                continue
            sample = self._samples[name]
            rows = sample if beside.may_be_last else sample[: self._site_pictures]
            write_arrays(network, _moved(beside.start, change))
            maps = maps_of(
                network,
                self._shards[name],
                rows,
                task=config.task(name),
                batch_size=config.evaluation.batch_size,
            )
            looks.setdefault(name, {})[site.name] = SiteLooks(
                pictures=len(rows),
                similarity=self._similarity(name, sampled[name][: len(rows)], maps, rows),
            )
        return looks

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

    def _alarms(self, name: str, looks: TaskLooks, server_round: int) -> Iterator[Alarm]:
        title, thresholds = self._config.task(name).title, self._config.evaluation.alarms
        if server_round == 0:
            return  # nothing has been learned yet, neither right nor wrong
        if looks.since is not None:
            yield from drift_alarms(
                name, title, looks.drift, since=looks.since, thresholds=thresholds
            )
        yield from shortcut_alarms(name, title, looks.shares, thresholds=thresholds)
        for site, compared in looks.sites.items():
            yield from site_alarms(name, title, site, compared.similarity, thresholds=thresholds)

    def _sites_note(
        self, sites: Mapping[str, Mapping[str, SiteLooks]], beside: Beside, server_round: int
    ) -> str:
        if self._config.secure_aggregation.enabled:
            return IN_THE_SUM_ONLY
        compared = [site for found in sites.values() for site in found]
        local = sorted({s.task for s in self._config.sites if _stays(s.task, self._config)})
        heads = f"; heads that stay at the sites are not compared: {', '.join(local)}"
        note = NOBODY if server_round else "before training there is no site's model"
        if compared:
            turn = "all that answered" if beside.may_be_last else "the sites take turns"
            note = f"{', '.join(sorted(compared))}: {turn}"
        return note + (heads if local else "")

    def _draws(self, name: str) -> np.random.Generator:
        """Return the same draws for every round, so that rounds differ by their maps alone."""
        seed = derive_seed(self._config.seed, "bootstrap", "explanation", name, self._part)
        return np.random.default_rng(seed)


def _stacked(found: TaskPredictions, rows: NDArray[np.int64]) -> Maps:
    return np.stack([found.kept_maps[int(index)] for index in rows])


def _moved(start: Arrays, change: Arrays) -> Arrays:
    """Return a site's model: what it was sent plus its change; the rest as it was sent."""
    return {
        name: (array + change[name]).astype(array.dtype) if name in change else array
        for name, array in start.items()
    }


def _stays(task: str, config: RunConfig) -> bool:
    """Say whether a task's head stays at its sites: the coordinator's own was never trained."""
    return is_local(f"heads.{task}.", config.federation.local_layers)


def _averages(
    shard: Shard, rows: NDArray[np.int64], maps: Maps, names: tuple[str, ...]
) -> Iterator[AverageLook]:
    for logit, name in enumerate(names):
        shown = np.flatnonzero(shard.targets[rows, logit] >= 1)  # NaN, unknown, is not shown
        if len(shown):
            evidence = np.clip(maps[shown, logit], 0, None)
            mean = np.where(np.isfinite(evidence), evidence, 0).mean(axis=0)
            some = np.asarray(shard.images[np.sort(rows[shown[:BLENDED]])])
            image = some.mean(axis=0).round().astype(np.uint8)
            yield AverageLook(name, len(shown), mean.astype(np.float32), image)
