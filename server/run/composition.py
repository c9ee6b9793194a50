"""What every run is made of, wherever its sites are: checked, measured, recorded, closed."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryFile
from typing import Literal

from common.config.run import RunConfig
from common.datasets.shard import Shard
from common.errors import FoveaError, RunError
from common.explaining.breakdown import breakdown
from common.learning.device import chosen_device
from common.model.network import Network
from common.package.reading import read_package
from common.package.schema import MODEL_FILE, ModelPackage
from server.journal.former_run import clear_former_run
from server.journal.journal import Journal
from server.journal.kept_rounds import KeptRounds
from server.journal.tracking import continue_tracking, start_tracking
from server.measuring.central_eval import CentralEvaluation
from server.measuring.explanation_closing import ClosingReport
from server.planning.planned_network import planned_network
from server.record.checkpoint import Checkpoint
from server.record.summary import PackageEntry, Summary
from server.rounds.coordinate import RunResult
from server.run.closing import look_at_last
from server.run.mlflow_flavour import write_flavour
from server.run.packaging import package_run

log = logging.getLogger(__name__)

Kind = Literal["simulation", "deployment"]  # are the sites this machine's, or the nodes' own?

# Runs the rounds with what measures and records them; the journal is the rounds' tracker.
Federate = Callable[[CentralEvaluation, Journal], RunResult]


def check_plan(config: RunConfig, *, out: Path, goes_on: bool = False) -> Network:
    """Return the run's network, having found what can be wrong before pictures are read.

    From then on the folder is this run's: what an earlier one left there is taken away, but for a
    run that ``goes_on`` from its checkpoint.

    Raises ConfigError or ModelError for a plan that cannot work, RunError when the folder ``out``
    cannot be made or written to.
    """
    _make_folder(out)
    network = planned_network(config)
    if not goes_on:
        clear_former_run(out)
    return network


def conduct(
    config: RunConfig,
    federate: Federate,
    *,
    network: Network,
    reference: Mapping[str, Shard],
    out: Path,
    kind: Kind,
    started_at: datetime,
    resume: Checkpoint | None = None,
) -> Summary:
    """Run the rounds with all that measures and records them; return what was written.

    Args:
        config: The run's.
        federate: Runs the rounds.
        network: Of :func:`check_plan`.
        reference: The coordinator's reference set of every task.
        out: The run's folder: summary, report, pictures, models.
        kind: Where the sites are; a tag of the MLflow run.
        started_at: When the run began, with its time zone; of a run that is continued it is known.
        resume: The state to go on after: the journal, the MLflow run and the summary go on too.

    When anything is raised, an MLflow run that was begun is closed as failed, and summary.json
    says FAILED, why, and what the rounds until then brought.
    """
    evaluator = CentralEvaluation(config, network.to(chosen_device(config.train)), reference)
    cases = evaluator.cases()
    tags = {"fovea.kind": kind}
    if resume is None:
        tracker = start_tracking(config, out=out, tags=tags)
    else:
        note = KeptRounds(out).read_note()
        tracker = continue_tracking(config, note.tracking_run_id, out=out, tags=tags)
        started_at = datetime.fromisoformat(note.started_at)
    journal = Journal(config, out=out, tracker=tracker, cases=cases, started_at=started_at)
    reference_cards = {task: shard.card for task, shard in reference.items()}
    try:
        if resume is None:
            journal.begin(reference_cards)
        else:
            journal.go_on(reference_cards, after=resume.server_round)
        result = federate(evaluator, journal)
        result, package, about = _packaged(
            config, result, journal, network=network, reference=reference
        )
        result, closing = _looked_at(config, result, journal, network=network, reference=reference)
        return journal.finish(result, package=package, about=about, closing=closing)
    except BaseException as error:
        journal.abandon(error)
        raise


def _packaged(
    config: RunConfig,
    result: RunResult,
    journal: Journal,
    *,
    network: Network,
    reference: Mapping[str, Shard],
) -> tuple[RunResult, Path | None, PackageEntry | None]:
    """Package the run's model. Where that fails the run is what it was, and its verdict says so.

    Whatever it fails by: the rounds are worth more than what is made of them in a moment.
    """
    folder, about = None, None
    try:
        folder = package_run(config, result, journal.rounds(), network=network, reference=reference)
        if folder is not None:
            about = _noted(read_package(folder / MODEL_FILE))
            result = _with_reasons(
                result,
                *(
                    f"the package does not answer task {task}: {why}"
                    for task, why in about.left_out.items()
                ),
            )
            write_flavour(folder)
    except Exception as error:
        log.exception("model not packaged", extra={"action": "model_not_packaged"})
        what = "the model was not packaged" if folder is None else "the package is not whole"
        return _with_reasons(result, f"{what}: {_told(error)}"), folder, about
    return result, folder, about


def _looked_at(
    config: RunConfig,
    result: RunResult,
    journal: Journal,
    *,
    network: Network,
    reference: Mapping[str, Shard],
) -> tuple[RunResult, ClosingReport | None]:
    """Look at the run's model once more. Where that fails its verdict says so, and no more.

    Whatever it fails by, such as a device without memory: the rounds are done, and are worth more.
    """
    try:
        return result, look_at_last(
            config, result, network=network, reference=reference, rounds=journal.rounds()
        )
    except Exception as error:
        log.exception("model not looked at", extra={"action": "model_not_looked_at"})
        return _with_reasons(result, f"signs and methods were not measured: {_told(error)}"), None


def _told(error: Exception) -> str:
    """Return what a verdict says of an error: Fovea's words or the system's, never a library's."""
    if isinstance(error, FoveaError):
        return str(error)
    return (isinstance(error, OSError) and error.strerror) or breakdown(error)


def _noted(package: ModelPackage) -> PackageEntry:
    return PackageEntry(
        digest=package.digest, tasks=tuple(package.tasks), left_out=package.left_out
    )


def _with_reasons(result: RunResult, *reasons: str) -> RunResult:
    verdict = replace(result.verdict, reasons=(*result.verdict.reasons, *reasons))
    return replace(result, verdict=verdict)


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise RunError(
            f"{out}: cannot be written to ({error.strerror}). Name another folder with --out."
        ) from error
