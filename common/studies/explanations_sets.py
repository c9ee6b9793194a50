"""The pictures of one set of the study: prepared as a run prepares them, and the cases in them."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.config.reading import canonical_json, load_config
from common.config.run import DuplicateConfig, PreprocessConfig, RunConfig
from common.datasets.prepare import prepare_shard
from common.datasets.shard import Shard, lesion_masks
from common.datasets.sources import open_source
from common.datasets.views import JoinedSource
from common.errors import ConfigError, DataError
from common.machine.seed import derive_seed
from common.package.schema import TaskPackage
from common.registry import unknown_name
from common.studies.explanations_config import SetConfig
from common.tasks import Task, task_named

PHANTOM = "phantom"  # kind of a source that needs no data folder
NO_VALIDATION = 0.0  # nothing is selected, so nothing is needed to select on


@dataclass(frozen=True)
class Preparation:
    """How the pictures become a shard: the recipe's way, or that of a finished model."""

    image_size_px: int
    duplicates: DuplicateConfig
    preprocess: Mapping[str, PreprocessConfig]


@dataclass(frozen=True, eq=False)
class PreparedSet:
    """A set with its pictures; what is trained on is never measured on."""

    name: str
    config: SetConfig
    run: RunConfig  # of the recipe
    task: Task
    shard: Shard  # parts train, val (empty) and test
    digest: str  # of what decides pictures and training


@dataclass(frozen=True, eq=False)
class MeasuredCase:
    """One test picture, one logit that is positive in it, and the region that explains it."""

    index: int  # in the shard
    logit: int
    patient: int
    region: NDArray[np.bool_]  # (S, S)


def needs_data(config: SetConfig) -> bool:
    """Say whether a set's pictures lie in a data folder."""
    return config.sources is None or any(source.kind != PHANTOM for source in config.sources)


def prepare_set(
    name: str,
    config: SetConfig,
    *,
    data_root: Path | None,
    work: Path,
    seed: int,
    model: TaskPackage | None = None,
) -> PreparedSet:
    """Read a set's pictures, or open what was prepared before.

    Args:
        name: Of the set.
        config: Its settings.
        data_root: Folder of real pictures; phantoms need none.
        work: Where shards are kept; sets that differ in what they measure alone share one.
        seed: Of the phantoms and of the split by patient.
        model: Prepare as for this model; None: as the recipe says.

    Raises:
        ConfigError: The recipe lacks what the set names.
        DataError: There are no pictures.
    """
    loaded = load_config(Path(config.recipe), config.overrides)
    run = loaded.run
    if config.task not in run.tasks:
        raise ConfigError(f"set {name}: " + unknown_name("task", config.task, run.tasks))
    task = run.task(config.task) if model is None else _task_of(config.task, model)
    for label in config.measured:
        if label not in task.logit_names:
            known = dict.fromkeys(task.logit_names)
            raise ConfigError(f"set {name}: " + unknown_name("measured logit", label, known))
    if needs_data(config) and data_root is None:
        raise DataError(f"set {name} has real pictures: give their folder (--data).")
    sources = config.sources
    if sources is None:
        if config.pool not in run.data.pools:
            known = dict.fromkeys(run.data.pools)
            raise ConfigError(f"set {name}: " + unknown_name("pool", str(config.pool), known))
        sources = run.data.pools[str(config.pool)].sources
    opened = JoinedSource(
        tuple(
            open_source(
                source,
                task=task,
                data_root=data_root or Path(),
                config_root=loaded.root,
                site="study",
                seed=derive_seed(seed, "phantoms"),
            )
            for source in sources
        )
    )
    preparation = Preparation(
        image_size_px=run.data.image_size_px if model is None else model.size_px,
        duplicates=run.data.duplicates,
        preprocess=run.data.preprocess if model is None else {task.name: model.preprocess},
    )
    parts = {"train": 1 - config.test_share, "val": NO_VALIDATION, "test": config.test_share}
    decisive = (
        *(source.model_dump_json() for source in sources),
        *(task.name, *task.labels, str(preparation.image_size_px), str(parts), str(seed)),
        *(preparation.preprocess[task.name].model_dump_json(), str(data_root)),
        *(canonical_json(run), str(config.steps)),
    )
    digest = hashlib.sha256(json.dumps(decisive).encode()).hexdigest()
    shard = prepare_shard(
        opened,
        task=task,
        parts=parts,
        data=preparation,
        seed=derive_seed(seed, "split"),
        out=work / digest[:16] / "shard",
    )
    return PreparedSet(name, config, run, task, shard, digest)


def cases_of(prepared: PreparedSet, *, at_most: int, seed: int) -> tuple[MeasuredCase, ...]:
    """Return the cases to measure, grouped by logit; every logit has the same room.

    Raises:
        DataError: No test picture has a region for a measured logit.
    """
    task, shard = prepared.task, prepared.shard
    indices = shard.indices("test")
    order = np.random.default_rng(derive_seed(seed, "cases")).permutation(indices)
    wanted = [task.logit_names.index(label) for label in prepared.config.measured]
    room = max(1, at_most // len(wanted))
    found: dict[int, list[MeasuredCase]] = {logit: [] for logit in wanted}
    for index in order.tolist():
        masks = lesion_masks(shard, index, task)
        for logit in wanted:
            if logit in masks and masks[logit].any() and len(found[logit]) < room:
                patient = int(shard.patients[index])
                found[logit].append(MeasuredCase(index, logit, patient, masks[logit]))
    cases = tuple(case for logit in wanted for case in found[logit])
    if not cases:
        raise DataError(
            f"set {prepared.name}: none of {len(indices)} test pictures has a lesion region for "
            f"{', '.join(prepared.config.measured)}. Raise test_share or measure another logit."
        )
    return cases


def by_logit(cases: Sequence[MeasuredCase]) -> dict[int, list[int]]:
    """Return the places of the cases of each logit."""
    places: dict[int, list[int]] = {}
    for place, case in enumerate(cases):
        places.setdefault(case.logit, []).append(place)
    return places


def _task_of(name: str, model: TaskPackage) -> Task:
    whole = task_named(name)
    return task_named(name, model.labels if whole.kind == "multi-label" else None)
