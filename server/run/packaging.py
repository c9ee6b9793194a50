"""At the end of a run: its best model with all that is needed to use it away from the run."""

import logging
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from common.config.reading import config_digest
from common.config.run import PoolSource, RunConfig
from common.datasets.shard import Shard
from common.errors import ModelError, RunError
from common.messages.durable import read_array_file
from common.metrics.novelty import Familiar
from common.model.arrays import array_names, write_arrays
from common.model.network import Network
from common.package.calibrating import calibrate
from common.package.familiarity import Novelty, learn_novelty
from common.package.known import NotKnown
from common.package.responses import Responses, respond
from common.package.schema import FORMAT, PACKAGE_FOLDER, Calibration, ModelPackage, TaskPackage
from common.package.shift import class_shift
from common.package.sign_association import concept_association
from common.package.writing import write_package
from server.exchange.participation import Participation, Status
from server.journal.entries import installed_versions
from server.record.summary import RoundEntry
from server.rounds.coordinate import RunResult
from server.run.untrained import training_of, untrained_tasks

log = logging.getLogger(__name__)

CALIBRATION, GATE = "calibration", "gate"


def package_run(
    config: RunConfig,
    result: RunResult,
    rounds: Sequence[RoundEntry],
    *,
    network: Network,
    reference: Mapping[str, Shard],
) -> Path | None:
    """Write the package of a run's best model, or its last where none was best.

    Calibration and prediction sets are fitted on each reference set's part ``calibration`` and
    judged on its part ``gate``, which no round has looked at. What cannot be fitted is left out and
    the package says why; so is a task whose head was not trained together
    (:mod:`server.run.untrained`).

    Args:
        config: The run's.
        result: How the rounds ended.
        rounds: Their entries.
        network: Of the run, on the device to be used; its weights are overwritten.
        reference: The reference set of every task of the run.

    Returns:
        The package's folder; None for a run that brought no model.

    Raises:
        DataError: The model or a reference set cannot be read.
        RunError: The model's file does not say which round it is of.
        ModelError: The model is not of this network, or every task would be left out.
        OSError: The folder cannot be written.
    """
    files = result.files
    path = next((path for path in (files.best, files.last) if path.exists()), None)
    if path is None or result.verdict.status is Status.FAILED:
        return None
    started = time.monotonic()
    arrays, note = read_array_file(path)
    server_round = note.get("round")
    if not isinstance(server_round, int):
        raise RunError(f"{path}: does not say which round it is of. Start the run anew.")
    write_arrays(network, arrays)
    tasks: dict[str, TaskPackage] = {}
    familiar: dict[str, Familiar] = {}
    left_out = untrained_tasks(
        config,
        array_names(network),
        rounds,
        participation=result.participation,
        until=server_round,
    )
    if set(reference) <= set(left_out):
        reasons = " ".join(f"{name}: {why}" for name, why in left_out.items())
        raise ModelError(f"no task of it could be answered. {reasons}")
    for name, shard in reference.items():
        if name in left_out:
            continue
        measure = partial(
            respond,
            network,
            shard,
            task=config.task(name),
            batch_size=config.evaluation.batch_size,
        )
        tasks[name], known = _task_package(
            config,
            name,
            rounds,
            participation=result.participation,
            of=server_round,
            calibration=measure(CALIBRATION),
            gate=measure(GATE),
        )
        if known is not None:
            familiar[name] = known
    folder = files.folder / PACKAGE_FOLDER
    package = ModelPackage(
        format=FORMAT,
        run=result.run,
        round=server_round,
        seed=config.seed,
        config_digest=config_digest(config),
        weights_sha256="",  # the writer fills in the digests
        novelty_sha256="",
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=installed_versions(),
        model=config.model,
        tasks=tasks,
        left_out=left_out,
    )
    write_package(folder, network, package, familiar)
    log.info(
        "model packaged",
        extra={"action": "model_packaged", "seconds": round(time.monotonic() - started, 2)},
    )
    return folder


def _task_package(
    config: RunConfig,
    name: str,
    rounds: Sequence[RoundEntry],
    *,
    participation: Sequence[Participation],
    of: int,
    calibration: Responses,
    gate: Responses,
) -> tuple[TaskPackage, Familiar | None]:
    task, seed = config.task(name), config.seed
    fitted = calibrate(
        calibration,
        gate,
        task=task,
        coverage=config.evaluation.coverage,
        seed=seed,
        shift=class_shift(task, config.loss),
    )
    novelty = learn_novelty(calibration, gate, task=task, seed=seed)
    known = novelty if isinstance(novelty, Novelty) else None
    sites, pictures = training_of(config, name, rounds, participation=participation, until=of)
    about = TaskPackage(
        labels=task.labels,
        concepts=task.concepts,
        size_px=config.data.image_size_px,
        preprocess=config.data.preprocess[name],
        calibration=fitted if isinstance(fitted, Calibration) else None,
        why_not_calibrated=fitted.why if isinstance(fitted, NotKnown) else "",
        novelty_limit=known.limit.value if known else None,
        why_no_novelty=novelty.why if isinstance(novelty, NotKnown) else "",
        novelty_share_expected=known.limit.expected_share if known else None,
        novelty_share_measured=known.measured_share if known else None,
        concept_association=concept_association(calibration, task=task),
        sites=sites,
        training_pictures=pictures,
        reference=_reference(config, name, calibration),
        measured=_measured(name, rounds, of=of),
    )
    return about, known.familiar if known else None


def _reference(config: RunConfig, name: str, calibration: Responses) -> str:
    source = config.reference[name].source
    kind = f"pool {source.pool}" if isinstance(source, PoolSource) else source.kind
    if not len(calibration):
        return f"the coordinator's reference set ({kind}) has no calibration part"
    return (
        f"{len(calibration)} pictures of {calibration.num_patients} patients, the calibration part "
        f"of the coordinator's reference set ({kind})"
    )


def _measured(name: str, rounds: Sequence[RoundEntry], *, of: int) -> dict[str, float]:
    """Return what the selection part said of a round's model: metric → value, where defined."""
    found: dict[str, float] = {}
    for entry in rounds:
        if entry.round == of and name in entry.central:
            central = entry.central[name]
            measured = central.classification.average | central.classification.grades
            measured = measured | central.localisation.average
            found = {m: e.value for m, e in measured.items() if e.value is not None}
    return found
