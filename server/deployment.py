"""A federation of real nodes: Flower's run config names the YAML, the nodes hold the sites."""

import logging
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from flwr.app.user_config import UserConfigValue
from flwr.serverapp import Grid

from common.config_file import load_config
from common.errors import ConfigError, RunError
from common.log import configure
from server.central_eval import CentralEvaluation
from server.checkpoint import ModelFiles
from server.composition import check_plan, conduct
from server.coordinate import Instruments, RunResult, coordinate
from server.journal import Journal
from server.logged_progress import LoggedProgress, log_preparation
from server.participation import Status
from server.preparation import prepare_reference
from server.strategies import STRATEGIES
from server.summary import FILE_NAME, Summary

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Order:
    """What Flower's run config asks for; relative paths start at the process's folder."""

    config: Path
    out: Path | None  # None: out/<name of the run>
    data: Path | None  # folder that the reference sources start from; None: they read no files


def read_order(run_config: Mapping[str, UserConfigValue]) -> Order:
    """Read the keys ``config``, ``out`` and ``data``; an empty text counts as none.

    Raises ConfigError for a missing ``config``, a key it does not know or a value that is no text.
    """
    texts = {"config": "", "out": "", "data": ""}
    for key, value in run_config.items():
        if key not in texts:
            raise ConfigError(f"run config: unknown key {key!r}. Known: {', '.join(texts)}.")
        if not isinstance(value, str):
            raise ConfigError(f"run config: {key} must be a path in quotes, got {value!r}.")
        texts[key] = value
    paths = {key: Path(text) if text else None for key, text in texts.items()}
    if paths["config"] is None:
        raise ConfigError(
            "run config: config is missing. Name the run's YAML, e.g. flwr run . "
            "--run-config 'config=\"/etc/fovea/run.yaml\"'."
        )
    return Order(config=paths["config"], out=paths["out"], data=paths["data"])


def run_deployment(grid: Grid, run_config: Mapping[str, UserConfigValue]) -> Summary:
    """Run the federation that the run config names over the nodes of a grid.

    Only the reference sets are prepared here. Raises ConfigError, DataError or RunError naming
    what cannot work and the remedy; RunError also, once all is written, when no round changed the
    model, so that Flower lists the run as failed.
    """
    started_at = datetime.now(UTC)
    configure(level=logging.INFO, as_json=False, stream=sys.stderr)
    order = read_order(run_config)
    loaded = load_config(order.config)
    config = loaded.run
    out = (order.out or Path("out") / config.name).resolve()
    network = check_plan(config, out=out)
    reference = prepare_reference(loaded, data_root=order.data, out=out, watch=log_preparation)

    def federate(evaluator: CentralEvaluation, journal: Journal) -> RunResult:
        return coordinate(
            grid,
            config,
            STRATEGIES.get(config.federation.strategy)(config),
            Instruments(evaluator, journal, LoggedProgress(), ModelFiles(out / "model")),
            stop=threading.Event(),  # `flwr stop` ends this process
        )

    summary = conduct(
        config,
        federate,
        network=network,
        reference=reference,
        out=out,
        kind="deployment",
        started_at=started_at,
    )
    log.info("run ended", extra={"action": "run_ended", "verdict": summary.verdict.value})
    if summary.verdict is Status.FAILED:
        reasons = " ".join(summary.reasons)
        raise RunError(f"the run produced no model: {reasons} See {out / FILE_NAME}.")
    return summary
