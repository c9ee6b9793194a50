"""The run as MLflow sees it: parameters, metrics per round, pictures and files.

The only file that knows MLflow's tracking API. Nothing is lost when a tracking server goes away:
what it does not take waits in a file and is offered again with the next entry.
"""

import server.journal.mlflow_environment  # isort: skip  # before mlflow  # noqa: F401

import logging
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

import yaml
from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from PIL import Image

from common.config.run import RunConfig
from common.errors import RunError
from server.journal.metric_names import (
    evaluation_metrics,
    floor_metrics,
    parts_of,
    summed_evaluation_metrics,
)
from server.journal.tracked_params import flattened
from server.journal.unsent import (
    UNSENT_FILE,
    Entry,
    File,
    Metrics,
    Params,
    Picture,
    Tag,
    read_unsent,
    write_unsent,
)
from server.record.summary import FloorEntry, RoundEntry, TrackingEntry

log = logging.getLogger(__name__)

DATABASE_FILE = "mlflow.db"
ARTIFACT_FOLDER = "mlartifacts"

# MLflow's limits, https://mlflow.org/docs/latest/rest-api.html#run-log-batch
METRICS_PER_BATCH = 1000
PARAMS_PER_BATCH = 100
TAG_CHARACTERS = 8000

REMOTE_SCHEMES = ("http", "https", "databricks", "databricks-uc", "uc")
FAILURES = (MlflowException, OSError)  # requests' errors are OSErrors

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]


class Tracker:
    """Writes one MLflow run. Use :func:`start_tracking`."""

    def __init__(
        self, client: MlflowClient, *, uri: str, experiment: str, run_id: str, out: Path
    ) -> None:
        """Remember where to write; ``out`` receives what MLflow does not take."""
        self.run_id = run_id
        self._client = client
        self._uri = uri
        self._experiment = experiment
        self._unsent_path = out / UNSENT_FILE.format(run_id=run_id)
        self._waiting: list[Entry] = read_unsent(self._unsent_path)

    def log_config(self, config: RunConfig, *, out: Path) -> None:
        """Track every value as a parameter and the whole configuration as a file."""
        values = config.model_dump(mode="json")
        if config.tracking.uri is not None:
            values["tracking"]["uri"] = without_credentials(config.tracking.uri)
        path = out / "config.yaml"
        path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
        params = list(flattened(values).items())
        for start in range(0, len(params), PARAMS_PER_BATCH):
            self._offer(Params(dict(params[start : start + PARAMS_PER_BATCH])))
        self.log_file(path)

    def log_round(self, entry: RoundEntry) -> None:
        """Track every number of a round: the coordinator's own, then each site's."""
        for part in parts_of(entry):
            self.log_metrics(part, step=entry.round)

    def log_evaluations(self, evaluations: Mapping[str, Mapping[str, float]], *, step: int) -> None:
        """Track what sites found, by name, of the model of one round."""
        for part in evaluation_metrics(evaluations):
            self.log_metrics(part, step=step)

    def log_floor(self, floor: FloorEntry | None, *, step: int) -> None:
        """Track how many sites find the model of one round good enough."""
        self.log_metrics(floor_metrics(floor), step=step)

    def log_summed_evaluations(
        self, groups: Mapping[str, Mapping[str, float]], *, step: int
    ) -> None:
        """Track what the sites of each group found of the model of one round, as means."""
        self.log_metrics(summed_evaluation_metrics(groups), step=step)

    def log_metrics(self, values: Mapping[str, float], *, step: int) -> None:
        """Track numbers, whose names must be valid (see ``metric_names``)."""
        named = list(values.items())
        for start in range(0, len(named), METRICS_PER_BATCH):
            batch = dict(named[start : start + METRICS_PER_BATCH])
            self._offer(Metrics(batch, step=step, time_ms=_now_ms()))

    def log_picture(self, path: Path, *, key: str, step: int) -> None:
        """Track a picture under a key that stays the same from round to round."""
        self._offer(Picture(str(path), key=key, step=step, time_ms=_now_ms()))

    def log_file(self, path: Path, *, folder: str = "") -> None:
        """Track a file, in a folder of the run's artifacts."""
        self._offer(File(str(path), folder=folder))

    def describe(self, text: str) -> None:
        """Set the description on the run's page, in Markdown; cut if MLflow cannot hold it."""
        self.log_tag("mlflow.note.content", text)

    def log_tag(self, key: str, value: str) -> None:
        """Set a property of the run."""
        self._offer(Tag(key, value[:TAG_CHARACTERS]))

    def close(self, status: RunStatus = "FINISHED") -> TrackingEntry:
        """End the run and say whether MLflow has all of it."""
        self._flush()
        try:
            self._client.set_terminated(self.run_id, status=status)
        except FAILURES as error:
            self._report(error)
        return self.entry()

    def entry(self) -> TrackingEntry:
        """Say where the run is tracked, for the summary."""
        return TrackingEntry(
            uri=without_credentials(self._uri),
            experiment=self._experiment,
            run_id=self.run_id,
            is_complete=not self._waiting,
            unsent=self._unsent_path.name if self._waiting else None,
        )

    def _offer(self, entry: Entry) -> None:
        """Send an entry, and then what waits; what is refused waits for the next time."""
        try:
            _send(self._client, self.run_id, entry)
        except FAILURES as error:
            self._waiting.append(entry)
            self._report(error)
            write_unsent(self._waiting, self._unsent_path)
            return
        self._flush()

    def _flush(self) -> None:
        """Send what waits, up to the first entry that is refused again."""
        if not self._waiting:
            return
        try:
            while self._waiting:
                _send(self._client, self.run_id, self._waiting[0])
                self._waiting.pop(0)
        except FAILURES as error:
            # To the end: an entry that can never be sent must not hold up the others.
            self._waiting.append(self._waiting.pop(0))
            self._report(error)
            write_unsent(self._waiting, self._unsent_path)
            return
        self._unsent_path.unlink(missing_ok=True)

    def _report(self, error: Exception) -> None:
        log.error(
            "MLflow did not take an entry; it is offered again with the next one. What MLflow "
            "lacks is written down in %s, one entry a line",
            self._unsent_path,
            extra={
                "action": "tracking_failed",
                "error": type(error).__name__,
                "waiting": len(self._waiting),
            },
        )


def start_tracking(config: RunConfig, *, out: Path, tags: Mapping[str, str]) -> Tracker:
    """Open a run in MLflow: in ``out`` as SQLite, or at the URI of the configuration.

    Raises RunError when MLflow cannot be reached, before any training.
    """
    return open_run(
        config.tracking.uri,
        experiment=config.tracking.experiment,
        name=config.name,
        out=out,
        tags=tags,
    )


def open_run(
    uri: str | None, *, experiment: str, name: str, out: Path, tags: Mapping[str, str]
) -> Tracker:
    """Open a run of a name in an experiment at a URI, ``None``: in ``out`` as SQLite.

    Raises RunError when MLflow cannot be reached.
    """
    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    uri = uri or f"sqlite:///{out / DATABASE_FILE}"
    try:
        client = connect(uri)
        experiment_id = _experiment(client, experiment, uri=uri, out=out)
        run = client.create_run(experiment_id, run_name=name, tags=dict(tags))
    except (*FAILURES, ImportError) as error:  # a database's driver may be missing
        raise RunError(
            f"{_unreachable(uri, error)} Start that server, correct tracking.uri, or set it to "
            f"null to track into {out / DATABASE_FILE}."
        ) from error
    return Tracker(client, uri=uri, experiment=experiment, run_id=run.info.run_id, out=out)


def reopen_run(entry: TrackingEntry, *, out: Path) -> Tracker:
    """Open the MLflow run of a run that has ended, to add to it; its status stays as it is.

    Its database is looked for in ``out`` first: the folder may have been moved. Do not close the
    tracker, which would end the run anew.

    Raises RunError when MLflow cannot be reached or has no such run.
    """
    out = out.resolve()
    database = out / DATABASE_FILE
    uri = f"sqlite:///{database}" if database.exists() else entry.uri
    try:
        client = connect(uri)
        is_there = _has_run(client, entry.run_id)
    except (*FAILURES, ImportError) as error:
        raise RunError(
            f"{_unreachable(uri, error)} Start that server; one that asks for a password must be "
            "given with it, by its address instead of the run's folder."
        ) from error
    if not is_there:
        raise RunError(
            f"{without_credentials(uri)}: MLflow no longer has the run {entry.run_id}. Give the "
            "address of an MLflow server instead of the run's folder."
        )
    return Tracker(client, uri=uri, experiment=entry.experiment, run_id=entry.run_id, out=out)


def continue_tracking(
    config: RunConfig, run_id: str, *, out: Path, tags: Mapping[str, str]
) -> Tracker:
    """Open the MLflow run that a run had before it broke off, or a new one where it is gone.

    Gone is what MLflow says does not exist or is deleted; a server that fails or is silent may
    still have it, and a second run of the same rounds would be left there.

    Raises RunError when MLflow cannot be reached or does not take the run up again.
    """
    out = out.resolve()
    uri = config.tracking.uri or f"sqlite:///{out / DATABASE_FILE}"
    try:
        client = connect(uri)
        is_there = _has_run(client, run_id)
        if is_there:
            client.update_run(run_id, status="RUNNING")
    except (*FAILURES, ImportError) as error:
        raise RunError(
            f"{_unreachable(uri, error)} It has the first rounds of this run: start that server, "
            "then `fovea resume` the run again."
        ) from error
    if not is_there:
        log.warning(
            "MLflow no longer has this run; it is told everything anew in another",
            extra={"action": "tracking_run_gone"},
        )
        return start_tracking(config, out=out, tags=tags)
    return Tracker(client, uri=uri, experiment=config.tracking.experiment, run_id=run_id, out=out)


def connect(uri: str) -> MlflowClient:
    """Return a client of MLflow at a URI, which creates a database that is not there."""
    # Both tell of every table they create, and print the traceback of errors that reach us too.
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        # MLflow's tables name a loader that SQLAlchemy 2.1 has deprecated.
        warnings.filterwarnings("ignore", message="The ``noload`` loader strategy")
        return MlflowClient(tracking_uri=uri)


def without_credentials(uri: str) -> str:
    """Return a URI without user, password and values of its query, for messages and files.

    Databases take user and password in the query as well, under names of their drivers' own.
    """
    parts = urlsplit(uri)
    if "@" not in parts.netloc and not parts.query:
        return uri
    names = (pair.partition("=")[0] for pair in parts.query.split("&") if pair)
    masked = "&".join(f"{name}=***" for name in names)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=masked))


def _experiment(client: MlflowClient, name: str, *, uri: str, out: Path) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        # A server keeps artifacts where it likes; a database has no place for them of its own.
        is_remote = urlsplit(uri).scheme in REMOTE_SCHEMES
        location = None if is_remote else (out / ARTIFACT_FOLDER).as_uri()
        return client.create_experiment(name, artifact_location=location)
    if found.lifecycle_stage == "deleted":
        raise RunError(
            f"tracking.experiment {name!r} is deleted at {without_credentials(uri)}. "
            f"Restore it there, or choose another name."
        )
    return str(found.experiment_id)


def _has_run(client: MlflowClient, run_id: str) -> bool:
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code == ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            return False
        raise
    return bool(run.info.lifecycle_stage == LifecycleStage.ACTIVE)


def _unreachable(uri: str, error: Exception) -> str:
    kind = type(error).__name__
    return f"tracking.uri {without_credentials(uri)}: MLflow cannot be reached ({kind})."


def _send(client: MlflowClient, run_id: str, entry: Entry) -> None:
    match entry:
        case Metrics():
            metrics = [Metric(k, v, entry.time_ms, entry.step) for k, v in entry.values.items()]
            client.log_batch(run_id, metrics=metrics)
        case Params():
            params = [Param(key, value) for key, value in entry.values.items()]
            client.log_batch(run_id, params=params)
        case Tag():
            client.log_batch(run_id, tags=[RunTag(entry.key, entry.value)])
        case File():
            client.log_artifact(run_id, entry.path, entry.folder or None)
        case Picture():
            with Image.open(entry.path) as picture:
                client.log_image(
                    run_id, picture, key=entry.key, step=entry.step, timestamp=entry.time_ms
                )


def _now_ms() -> int:
    return int(time.time() * 1000)
