"""A whole federation on one machine, through Flower's simulation engine.

Flower starts one Ray process per site that trains at the same time; each keeps its trainers warm
between rounds. The coordinator runs in a thread of this process.
"""

import logging
import math
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

# Flower reads these when it is imported.
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
# Ray would otherwise warn about a future default of its own.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray

# `run_simulation`, the public name of this function, announces its own end and offers only the
# `flwr run` command instead, which starts servers and cannot show progress in this process.
# Flower is pinned exactly; this file is the only one to change when it moves.
from flwr.app import ConfigRecordValues
from flwr.simulation.run_simulation import _run_simulation
from flwr.supercore.telemetry import EventType

from common.config.run import RunConfig
from common.errors import ConfigError, DataError, RunError
from common.local_site import SITES_VARIABLE, LocalSite, write_sites
from common.messages.signing import PrivateKey
from server.record.checkpoint import ModelFiles
from server.rounds.coordinate import Instruments, RunResult, server_app
from server.rounds.round_report import (
    CentralEvaluator,
    Progress,
    ResultT,
    Tracker,
)

log = logging.getLogger(__name__)

CLIENT_APP = "client.app:app"
SITE_LOG = "site.log"
OBJECT_STORE_MB = 512  # Ray's shared memory; what does not fit spills to its folder


def simulate(
    config: RunConfig,
    *,
    shards: Mapping[str, Path],
    out: Path,
    evaluator: CentralEvaluator[ResultT],
    tracker: Tracker[ResultT],
    progress: Progress,
    client_app: str = CLIENT_APP,
) -> RunResult:
    """Run the federation that a configuration describes.

    ``shards`` are the sites' prepared shards by name. Writes the models and the checkpoint to
    ``out/model``, what lasts at the sites and their logs to ``out/sites``. Raises ConfigError,
    DataError or RunError naming what cannot work, and whatever evaluator, tracker or progress
    raise.
    """
    sites = _local_sites(config, shards, out)
    keys = {site.name: PrivateKey.new() for site in sites} if _is_summed(config) else {}
    instruments = Instruments(evaluator, tracker, progress, ModelFiles(out / "model"))
    results: list[RunResult] = []
    stop = threading.Event()
    app = server_app(
        config,
        instruments,
        site_keys={site: key.public for site, key in keys.items()},
        stop=stop.is_set,
        finished=results.append,
    )
    with _engine_folder() as folder, _quiet_flower(), _environment_kept(), _interruptible(stop):
        sites_file = folder / "sites.json"
        write_sites(sites_file, _with_keys(sites, keys, folder))
        os.environ[SITES_VARIABLE] = str(sites_file)
        try:
            _start_ray(config, len(sites), folder)
            _run_simulation(
                num_supernodes=len(sites),
                exit_event=EventType.PYTHON_API_RUN_SIMULATION_LEAVE,
                client_app_attr=client_app,
                server_app=app,
                backend_config={"client_resources": _resources(config)},
                app_dir=str(Path(__file__).parents[2]),
            )
        finally:
            # Without this a coordinator whose engine broke down would wait for its sites.
            stop.set()
            ray.shutdown()
    if not results:
        raise RunError("Flower's simulation engine ended before the run. See the messages above.")
    return results[0]


def _local_sites(config: RunConfig, shards: Mapping[str, Path], out: Path) -> tuple[LocalSite, ...]:
    sites = []
    for site in config.sites:
        if site.name not in shards:
            raise DataError(f"no shard was prepared for site {site.name}. Prepare it first.")
        if not shards[site.name].is_dir():
            raise DataError(f"{shards[site.name]}: no such folder. Prepare site {site.name}.")
        sites.append(
            LocalSite(
                name=site.name,
                task=site.task,
                shard=shards[site.name].resolve(),
                state=(out / "sites").resolve(),
                num_threads=max(int(config.simulation.cpus_per_site), 1),
                # What a site's process writes to its own streams goes with Ray's folder.
                log=(out / "sites" / site.name / SITE_LOG).resolve(),
            )
        )
    return tuple(sites)


def _is_summed(config: RunConfig) -> bool:
    return config.secure_aggregation.enabled


def _with_keys(
    sites: Sequence[LocalSite], keys: Mapping[str, PrivateKey], folder: Path
) -> tuple[LocalSite, ...]:
    """Give every site a key to sign with, for this run only, and the public keys of all.

    Real sites make their keys themselves and pin each other's. Here all are of one machine.
    """
    if not keys:
        return tuple(sites)
    public = tuple((site, key.public.text) for site, key in sorted(keys.items()))
    given = []
    for site in sites:
        path = folder / "keys" / f"{site.name}.key"
        keys[site.name].write(path)
        given.append(site.model_copy(update={"signing_key": path, "site_keys": public}))
    return tuple(given)


def _resources(config: RunConfig) -> dict[str, ConfigRecordValues]:
    return {
        "num_cpus": config.simulation.cpus_per_site,
        "num_gpus": config.simulation.gpus_per_site,
    }


def _start_ray(config: RunConfig, num_sites: int, folder: Path) -> None:
    """Start Ray for this run only, reachable from this machine only.

    Flower would start it with an environment of its own for the sites' processes, for which the
    processes that Ray has ready are thrown away and started anew.
    """
    if ray.is_initialized():
        raise RunError("Ray runs in this process already. Stop it with ray.shutdown() first.")
    cpus = config.simulation.cpus_per_site
    available = len(os.sched_getaffinity(0))
    if cpus > available:
        raise ConfigError(
            f"simulation.cpus_per_site is {cpus:g}, this machine has {available}. Lower it."
        )
    # The sites' processes must find what this process finds.
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    ray.init(
        # More processes than sites would only take memory.
        num_cpus=min(available, math.ceil(cpus * num_sites)),
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_MB * 2**20,
        log_to_driver=False,
        configure_logging=False,
        _node_ip_address="127.0.0.1",
        _temp_dir=str(folder),
    )
    gpus = ray.cluster_resources().get("GPU", 0.0)  # type: ignore[no-untyped-call]
    if config.simulation.gpus_per_site > gpus:
        raise ConfigError(
            f"simulation.gpus_per_site is {config.simulation.gpus_per_site:g}, this machine has "
            f"{gpus:g} GPUs. Lower it; 0 trains on the CPU, or on a GPU that sites share freely."
        )


@contextmanager
def _engine_folder() -> Iterator[Path]:
    """Give Ray a folder for sockets, logs and spilled objects, and remove it at the end."""
    # In /tmp, not under the run's folder: a socket's path may not be longer than 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="fovea-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _interruptible(stop: threading.Event) -> Iterator[None]:
    """Let Ctrl-C end the run in order; a second one ends the process at once.

    Left to itself it would hit Flower's engine half-way: Ray then ends this process from within,
    and nobody could close what is open. Sites finish the step they are in.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)

    def ask_to_stop(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, before)
        stop.set()

    signal.signal(signal.SIGINT, ask_to_stop)

    def was_asked() -> bool:
        return signal.getsignal(signal.SIGINT) is before

    try:
        yield
        # The rounds ended in order; whoever pressed the keys must not read of a finished run.
        if was_asked():
            raise KeyboardInterrupt
    except RunError:
        if was_asked():
            raise KeyboardInterrupt from None
        raise
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _quiet_flower() -> Iterator[None]:
    """Keep Flower's and Ray's own messages to errors; the run tells what happens itself."""
    levels = {name: logging.getLogger(name).level for name in ("flwr", "ray")}
    for name in levels:
        # Every failure of a site reaches the rounds as a reply and is reported by name there.
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


@contextmanager
def _environment_kept() -> Iterator[None]:
    """Undo what this run and Ray's start change in the environment."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)
