"""Asks Flower for the process of a run, and finds out whether it came when Flower does not say."""

import logging
import time
from datetime import datetime

from common.config.run import RunConfig
from common.errors import RunError
from common.messages.bundle import build_bundle
from server.operations.flower_control import FlowerControl, FlowerRefusalError
from server.operations.home import CoordinatorHome, RunFolder
from server.operations.run_status import launched, write_status

log = logging.getLogger(__name__)

LOOK_FOR_S = 10.0  # how long a run that Flower did not confirm may take to appear
LOOK_S = 0.5


class UncertainStartError(RunError):
    """Flower was asked to start a run and fell silent: look whether it runs."""


def start(
    home: CoordinatorHome,
    folder: RunFolder,
    config: RunConfig,
    control: FlowerControl,
    now: datetime,
) -> None:
    """Ask Flower for the process of a run whose folder is complete.

    Raises RunError when it says no or did not hear; the status is then as it was before. Raises
    UncertainStartError when nobody knows: the process may be there.
    """
    former = frozenset(run.run_id for run in control.runs())
    before = folder.status.read_bytes() if folder.status.exists() else None
    # Before Flower is asked: the process may write its first step at once.
    write_launched(folder, config, now)
    try:
        _ask_to_start(home, folder, control, former)
    except UncertainStartError:
        raise
    except BaseException:
        if before is not None:
            folder.status.write_bytes(before)
        raise


def write_launched(folder: RunFolder, config: RunConfig, now: datetime) -> None:
    """Write the status of a run whose process is about to be asked for."""
    sites = tuple((site.name, site.task) for site in config.sites)
    rounds = config.federation.rounds
    write_status(folder.status, launched(run=folder.name, rounds=rounds, sites=sites, now=now))


def _ask_to_start(
    home: CoordinatorHome, folder: RunFolder, control: FlowerControl, former: frozenset[int]
) -> None:
    bundle = build_bundle()
    try:
        control.start_run(bundle, {"home": str(home.root.resolve()), "run": folder.name})
    except FlowerRefusalError:
        raise
    except (RunError, KeyboardInterrupt) as error:
        # A slow answer is no answer: Flower may have started it all the same.
        try:
            is_there = _appears(folder, control, former)
        except (RunError, KeyboardInterrupt):
            raise UncertainStartError(
                f"Flower was asked to start run {folder.name} and does not say whether it did. "
                f"`fovea status {folder.name}` shows whether it runs; if not: `fovea resume "
                f"{folder.name}`."
            ) from error
        if not is_there:
            raise
        log.warning(
            "Flower started the run without saying so",
            extra={"action": "start_unconfirmed", "run": folder.name},
        )


def _appears(folder: RunFolder, control: FlowerControl, former: frozenset[int]) -> bool:
    deadline = time.monotonic() + LOOK_FOR_S
    while True:
        for run in control.runs():
            if run.run_id not in former and run.config.get("run") == folder.name:
                return True
        if time.monotonic() > deadline:
            return False
        time.sleep(LOOK_S)
