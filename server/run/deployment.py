"""A run over real sites: Flower's run config names the coordinator's folder and the run in it."""

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from flwr.app.user_config import UserConfigValue
from flwr.serverapp import Grid

from common.config.reading import LoadedConfig, config_digest
from common.errors import ConfigError, FoveaError, RunError
from common.files.lock import Lock
from common.machine.log import configure
from common.messages.manifest import Manifest, expired, open_manifest
from common.messages.signing import PublicKey, public_key, read_private_key
from server.exchange.participation import Status
from server.exchange.sealing import Sealing, Signed
from server.journal.journal import Journal
from server.journal.logged_progress import LoggedProgress, log_preparation
from server.measuring.central_eval import CentralEvaluation
from server.operations.admitted import read_admitted
from server.operations.home import CoordinatorHome, RunFolder
from server.operations.order import (
    Order,
    check_unexpired,
    pinned_run_keys,
    read_manifest,
    read_order,
)
from server.operations.reported_progress import ReportedProgress
from server.operations.run_status import Phase, read_status
from server.operations.runs import lock_file
from server.planning.preparation import prepare_reference
from server.record.checkpoint import Checkpoint, ModelFiles, load_checkpoint
from server.record.summary import FILE_NAME, Summary
from server.rounds.coordinate import Instruments, RunResult, coordinate
from server.run.composition import check_plan, conduct
from server.strategies import STRATEGIES

log = logging.getLogger(__name__)

LOCK_S = 2.0  # somebody who only looks whether the run lives holds its lock for a moment


@dataclass(frozen=True)
class Mandate:
    """What a run may do, and with whom: its signed manifest, its sites' nodes and keys."""

    sealing: Sealing
    nodes: Mapping[str, int]
    site_keys: Mapping[str, PublicKey]


def run_place(run_config: Mapping[str, UserConfigValue]) -> tuple[CoordinatorHome, RunFolder]:
    """Read the keys ``home`` and ``run`` of Flower's run config.

    Raises ConfigError for a key that is missing or unknown, or a value that is no text.
    """
    texts = {"home": "", "run": ""}
    for key, value in run_config.items():
        if key not in texts:
            raise ConfigError(f"run config: unknown key {key!r}. Known: {', '.join(texts)}.")
        if not isinstance(value, str):
            raise ConfigError(f"run config: {key} must be text, got {value!r}.")
        texts[key] = value
    for key, text in texts.items():
        if not text or (key == "run" and Path(text).name != text):
            raise ConfigError(
                f"run config: {key} is {text!r}. Runs are started by `fovea launch`, which names "
                "the coordinator's folder and a run in it."
            )
    home = CoordinatorHome(Path(texts["home"]))
    return home, home.run(texts["run"])


def run_deployment(grid: Grid, run_config: Mapping[str, UserConfigValue]) -> Summary:
    """Run, or go on with, the run that the run config names, over its sites' nodes.

    Raises ConfigError, DataError, TrustError or RunError naming what cannot work and the remedy;
    RunError also, once all is written, when no round changed the model, so that Flower lists the
    run as failed.
    """
    started_at = datetime.now(UTC)
    home, folder = run_place(run_config)
    if not folder.order.is_file():
        raise RunError(f"{folder.root}: no such run. `fovea launch` starts one.")
    taken = "another process runs these rounds already."
    with (
        Lock(lock_file(folder), taken, patience_s=LOCK_S),
        _logged_to(folder.log),
        _reported(folder) as progress,
    ):
        order, loaded = read_order(folder)
        checkpoint = _last_state(folder, loaded)
        # Once no round is left the report needs neither the sites nor their consent.
        is_over = checkpoint is not None and checkpoint.is_last(loaded.run)
        mandate = _mandate(home, folder, started_at, needs_sites=not is_over)
        return _run(grid, folder, order, loaded, checkpoint, mandate=mandate, progress=progress)


def _run(
    grid: Grid,
    folder: RunFolder,
    order: Order,
    loaded: LoadedConfig,
    checkpoint: Checkpoint | None,
    *,
    mandate: Mandate,
    progress: ReportedProgress,
) -> Summary:
    config, out = loaded.run, folder.out.resolve()
    progress.go_on(after=checkpoint.server_round if checkpoint else 0)
    network = check_plan(config, out=out, goes_on=checkpoint is not None)
    reference = prepare_reference(loaded, data_root=order.data_root, out=out, watch=log_preparation)
    results: list[RunResult] = []

    def federate(evaluator: CentralEvaluation, journal: Journal) -> RunResult:
        result = coordinate(
            grid,
            config,
            STRATEGIES.get(config.federation.strategy)(config),
            Instruments(evaluator, journal, progress, ModelFiles(out / "model")),
            run=folder.name,
            nodes=mandate.nodes,
            sealing=mandate.sealing,
            site_keys=mandate.site_keys,
            stop=folder.stop_marker.exists,
            resume=checkpoint,
        )
        results.append(result)
        progress.begin(Phase.CLOSING)
        return result

    summary = conduct(
        config,
        federate,
        network=network,
        reference=reference,
        out=out,
        kind="deployment",
        started_at=order.launched_at,
        resume=checkpoint,
    )
    was_stopped = results[0].was_stopped
    phase = Phase.STOPPED if was_stopped else Phase.ENDED
    progress.ended(phase, verdict=summary.verdict, reasons=summary.reasons)
    log.info("run ended", extra={"action": "run_ended", "verdict": summary.verdict.value})
    if summary.verdict is Status.FAILED and not was_stopped:
        reasons = " ".join(summary.reasons)
        raise RunError(f"the run produced no model: {reasons} See {out / FILE_NAME}.")
    return summary


def _mandate(
    home: CoordinatorHome, folder: RunFolder, now: datetime, *, needs_sites: bool
) -> Mandate:
    key = read_private_key(home.run_key)
    signed = read_manifest(folder)
    manifest = open_manifest(signed, run_keys=pinned_run_keys(home))
    if manifest.run != folder.name:
        raise RunError(f"{folder.manifest}: is of run {manifest.run}. Restore the run's own.")
    if needs_sites:
        check_unexpired(manifest, now)
    keys = {site.name: public_key(site.signing_key) for site in manifest.sites}
    sealing = Signed(manifest=signed, run_key=key, site_keys=keys)
    # Every site would refuse what an expired manifest asks: then none is asked.
    nodes = {} if expired(manifest, now) else _nodes(home, manifest)
    return Mandate(sealing, nodes, keys)


def _nodes(home: CoordinatorHome, manifest: Manifest) -> dict[str, int]:
    """Return the node of every site that is still admitted with the manifest's key."""
    admitted = read_admitted(home)
    nodes: dict[str, int] = {}
    for site in manifest.sites:
        entry = admitted.get(site.name)
        if entry is None or entry.retired_at is not None or entry.signing_key != site.signing_key:
            extra = {"action": "site_left_out", "site": site.name}
            log.warning("site left out: retired, or admitted with other keys", extra=extra)
        elif entry.node_id is None:
            extra = {"action": "site_left_out", "site": site.name}
            log.warning("site left out: Flower does not know its node", extra=extra)
        else:
            nodes[site.name] = entry.node_id
    return nodes


def _last_state(folder: RunFolder, loaded: LoadedConfig) -> Checkpoint | None:
    path = ModelFiles(folder.out / "model").checkpoint
    if not path.exists():
        return None
    return load_checkpoint(path, config_digest=config_digest(loaded.run))


@contextmanager
def _reported(folder: RunFolder) -> Iterator[ReportedProgress]:
    """Keep status.json true while the block runs, and say in it what ended the block."""
    status = read_status(folder.status)
    if status is None:
        raise RunError(f"{folder.status}: not found. `fovea resume {folder.name}` starts it again.")
    begun = {"phase": Phase.PREPARING, "pid": os.getpid(), "verdict": None, "reasons": ()}
    status = status.model_copy(update={**begun, "since": datetime.now(UTC)})
    with ReportedProgress(folder.status, status, beside=LoggedProgress()) as progress:
        try:
            yield progress
        except (SystemExit, KeyboardInterrupt):
            raise  # Flower or a signal ends this process: the run was interrupted and can go on
        except BaseException as error:
            if not progress.is_over():
                log.exception("run broke off", extra={"action": "run_broke_off"})
                kind = type(error).__name__
                # Another library's message may hold anything.
                reason = (
                    str(error) if isinstance(error, FoveaError) else f"{kind}: see {folder.log}"
                )
                progress.ended(Phase.BROKEN, verdict=None, reasons=(reason,))
            raise


@contextmanager
def _logged_to(path: Path) -> Iterator[None]:
    """Send events to a file of the run; what Flower shows of this process stays short."""
    with path.open("a", encoding="utf-8") as stream:
        configure(level=logging.INFO, as_json=False, stream=stream)
        try:
            yield
        finally:
            configure(level=logging.INFO, as_json=False, stream=sys.stderr)
