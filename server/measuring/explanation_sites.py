"""Which sites look elsewhere: each site's own model beside the round's global one.

Only where the server sees a site's update: under masks there is no site's model to look at.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.config.run import RunConfig
from common.datasets.shard import Shard
from common.learning.evaluate import positive_logits
from common.messages.kinds import Arrays
from common.metrics.estimate import Estimate
from common.model.arrays import write_arrays
from common.model.layers import is_local
from common.model.network import Network
from common.tasks import Task
from server.measuring.explanation_sample import Maps, maps_of
from server.measuring.overlay_cases import Choice, bare_map, overlay_case
from server.measuring.overlays import OverlayCase, OverlayMap
from server.rounds.round_report import Beside

IN_THE_SUM_ONLY = "in the sum only: updates are summed under masks, no site's model is seen"
NOBODY = "no site's model was there to compare"

Estimates = Mapping[str, Estimate]
# From a task, two models' maps (N, T, h, w) and their pictures (N,) to class → estimates.
Similarity = Callable[[str, Maps, Maps, NDArray[np.int64]], Mapping[str, Estimates]]


@dataclass(frozen=True, eq=False)
class SiteLooks:
    """How far a site's locally trained model looks where the round's global model looks."""

    pictures: int
    similarity: Mapping[str, Estimates]  # class → spearman, top_iou


@dataclass(frozen=True, eq=False)
class SiteExample:
    """The sample's first picture as the global model and the sites' models see it."""

    case: OverlayCase  # the first class that is positive in it
    whole: OverlayMap  # of the global model
    sites: Mapping[str, OverlayMap]  # site → of its own


@dataclass(frozen=True, eq=False)
class SitesCompared:
    """What came of one round's sites, by task."""

    looks: Mapping[str, Mapping[str, SiteLooks]]  # task → site
    examples: Mapping[str, SiteExample]  # of a round that may be the last


def compare_sites(
    config: RunConfig,
    network: Network,
    shards: Mapping[str, Shard],
    samples: Mapping[str, NDArray[np.int64]],
    sampled: Mapping[str, Maps],
    *,
    beside: Beside,
    pictures: int,
    similarity: Similarity,
) -> SitesCompared:
    """Compare each site's model with the global one.

    Args:
        config: The run's.
        network: For the sites' models; its weights are overwritten when there are any.
        shards: Reference set of each task.
        samples: Pictures of each task's set, (N,).
        sampled: The global model's maps of them.
        beside: The sites' changes.
        pictures: Of the sample, from its beginning, that a site is compared on; all of it in a
            round that may be the last.
        similarity: Of two models' maps.
    """
    looks = dict[str, dict[str, SiteLooks]]()
    seen = dict[str, dict[str, NDArray[np.float32]]]()
    if config.secure_aggregation.enabled:
        return SitesCompared(
            looks={}, examples={}
        )  # whatever is there: nobody may tell sites apart
    for site in config.sites:
        change, name = beside.changes.get(site.name), site.task
        if change is None or stays(name, config):
            continue
        sample = samples[name]
        rows = sample if beside.may_be_last else sample[:pictures]
        write_arrays(network, _moved(beside.start, change))
        maps = maps_of(
            network,
            shards[name],
            rows,
            task=config.task(name),
            batch_size=config.evaluation.batch_size,
        )
        looks.setdefault(name, {})[site.name] = SiteLooks(
            pictures=len(rows), similarity=similarity(name, sampled[name][: len(rows)], maps, rows)
        )
        seen.setdefault(name, {})[site.name] = maps[0]
    examples = {
        name: _example(
            shards[name], int(samples[name][0]), sampled[name][0], maps, task=config.task(name)
        )
        for name, maps in seen.items()
        if beside.may_be_last
    }
    return SitesCompared(looks=looks, examples=examples)


def sites_note(
    config: RunConfig,
    looks: Mapping[str, Mapping[str, SiteLooks]],
    beside: Beside,
    server_round: int,
) -> str:
    """Say which sites were compared, or why none was."""
    if config.secure_aggregation.enabled:
        return IN_THE_SUM_ONLY
    compared = [site for found in looks.values() for site in found]
    local = sorted({s.task for s in config.sites if stays(s.task, config)})
    heads = f"; heads that stay at the sites are not compared: {', '.join(local)}"
    note = NOBODY if server_round else "before training there is no site's model"
    if compared:
        turn = "all that answered" if beside.may_be_last else "the sites take turns"
        note = f"{', '.join(sorted(compared))}: {turn}"
    return note + (heads if local else "")


def stays(task: str, config: RunConfig) -> bool:
    """Say whether a task's head stays at its sites: the coordinator's own was never trained."""
    return is_local(f"heads.{task}.", config.federation.local_layers)


def _example(
    shard: Shard,
    index: int,
    whole: NDArray[np.float32],
    sites: Mapping[str, NDArray[np.float32]],
    *,
    task: Task,
) -> SiteExample:
    """Return one picture with each model's maps (T, h, w) of it, of one logit."""
    logit = next(iter(positive_logits(shard, index)), 0)
    case = overlay_case(shard, Choice(index, logit), task=task)
    return SiteExample(
        case=case,
        whole=bare_map(whole[logit], case),
        sites={site: bare_map(maps[logit], case) for site, maps in sites.items()},
    )


def _moved(start: Arrays, change: Arrays) -> Arrays:
    """Return a site's model: what it was sent plus its change; the rest as it was sent."""
    return {
        name: (array + change[name]).astype(array.dtype) if name in change else array
        for name, array in start.items()
    }
