"""``fovea launch``: a run from its YAML to a signed manifest and a process.

Everything that can be found wrong is found here, before any site hears of the run.
"""

import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import ValidationError

from common.config.reading import LoadedConfig, load_config
from common.config.run import ManifestColumns, ManifestSource, RunConfig, SiteConfig
from common.errors import ConfigError
from common.messages.code_digest import site_code_digest
from common.messages.manifest import (
    Manifest,
    ManifestSite,
    SignedManifest,
    sign_manifest,
)
from common.messages.signing import read_private_key
from common.registry import unknown_name
from server.exchange.site_config import told
from server.operations.admitted import AdmittedSite, read_admitted
from server.operations.federation_file import Federation, read_federation
from server.operations.flower_control import control_of
from server.operations.home import CoordinatorHome, RunFolder
from server.operations.order import (
    Order,
    write_manifest,
    write_order,
)
from server.operations.start import UncertainStartError, start, write_launched
from server.planning.compatibility import refuse_conflicts
from server.planning.secured import secured

SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "file")  # MLflow's

# Where a site's pictures lie is its own affair; this stands where the schema wants a source.
_AT_THE_SITE = ManifestSource(
    kind="manifest",
    table="at the site",
    images=None,
    columns=ManifestColumns(
        image="-",
        labels="-",
        patient=None,
        site=None,
        roi_mask=None,
        roi_boxes=None,
        roi_kind=None,
        official_split=None,
    ),
    where={},
    label_separator="|",
    mapping="-",
)


@dataclass(frozen=True)
class PlannedRun:
    """Everything a run's folder begins with."""

    order: Order
    config: RunConfig
    manifest: SignedManifest
    notes: tuple[str, ...]  # what the coordinator should know of it, a sentence each


@dataclass(frozen=True)
class Launched:
    """A run that has begun."""

    folder: RunFolder
    notes: tuple[str, ...]  # what the coordinator should know of it, a sentence each


def launch(
    home: CoordinatorHome,
    config: Path,
    *,
    sites: Sequence[str],
    overrides: Sequence[str],
    data_root: Path | None,
    days: int | None,
    now: datetime,
) -> Launched:
    """Start a run of a configuration with these sites and no other.

    Args:
        home: The coordinator's; its SuperLink must be running.
        config: The run's YAML.
        sites: Names of admitted sites.
        overrides: ``key.path=value``, in order.
        data_root: Folder that the reference sources start from.
        days: How long the manifest is valid; None: the federation's.
        now: With its time zone.

    Raises ConfigError, DataError, ModelError, TrustError or RunError naming what cannot work. Then
    no run folder is left, but where Flower was asked and nobody knows what it did.
    """
    planned = plan_run(
        home, config, sites=sites, overrides=overrides, data_root=data_root, days=days, now=now
    )
    folder = home.run(planned.order.run)
    with control_of(home) as control:
        control.nodes()  # a SuperLink that is away is found before anything is written
        home.runs.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.root.mkdir(mode=0o700)
        try:
            write_run(folder, planned)
            start(home, folder, planned.config, control, now)
        except UncertainStartError:
            raise  # its process may be at work in the folder
        except BaseException:
            shutil.rmtree(folder.root)
            raise
    return Launched(folder, planned.notes)


def plan_run(
    home: CoordinatorHome,
    config: Path,
    *,
    sites: Sequence[str],
    overrides: Sequence[str],
    data_root: Path | None,
    days: int | None,
    now: datetime,
) -> PlannedRun:
    """Return a run that is known to work as far as this machine can tell; nothing is written."""
    federation = read_federation(home.federation_file)
    loaded = load_config(config, overrides)
    named = _named_sites(loaded.run, sites, read_admitted(home), now)
    run_config, notes = secured(restricted(loaded.run, named))
    refuse_conflicts(run_config)  # told before the seconds that torch takes
    whole = LoadedConfig(run=run_config, root=loaded.root, path=loaded.path)
    manifest = _manifest(
        run_config,
        federation,
        named,
        run=f"{run_config.name}-{secrets.token_hex(4)}",
        architecture_digest=_checked_plan(whole, data_root),
        now=now,
        days=days,
    )
    order = Order(
        version=1,
        run=manifest.run,
        source=loaded.path,
        overrides=tuple(overrides),
        config_root=loaded.root,
        data_root=data_root.resolve() if data_root else None,
        launched_at=now,
    )
    signed = sign_manifest(manifest, read_private_key(home.run_key))
    return PlannedRun(order, run_config, signed, notes)


def write_run(folder: RunFolder, planned: PlannedRun) -> None:
    """Write order, configuration, manifest and first status of a run into its empty folder."""
    write_order(folder, planned.order, planned.config)
    write_manifest(folder, planned.manifest)
    write_launched(folder, planned.config, planned.order.launched_at)


def restricted(config: RunConfig, sites: Mapping[str, AdmittedSite]) -> RunConfig:
    """Return the configuration with these sites alone, without a word on where pictures lie.

    Tasks that none of them holds are left out: nobody would train their heads. Raises ConfigError
    when what is left does not agree with itself.
    """
    chosen = tuple(
        SiteConfig(name=name, task=site.task, source=_AT_THE_SITE) for name, site in sites.items()
    )
    held = {site.task for site in chosen}
    kept = {
        "sites": chosen,
        "tasks": {task: entry for task, entry in config.tasks.items() if task in held},
        "reference": {task: entry for task, entry in config.reference.items() if task in held},
    }
    try:
        return RunConfig.model_validate(config.model_copy(update=kept).model_dump())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
        raise ConfigError(f"with --sites {','.join(sites)}: {first}.") from error


def check_tracking_uri(uri: str | None) -> None:
    """Raise ConfigError when MLflow could not even begin to understand the address."""
    if uri is None:
        return
    parts = urlsplit(uri)
    scheme = parts.scheme.partition("+")[0]
    if scheme not in SCHEMES:
        raise ConfigError("tracking.uri: " + unknown_name("scheme", scheme, dict.fromkeys(SCHEMES)))
    if scheme in ("http", "https") and not parts.hostname:
        raise ConfigError(f"tracking.uri: expected {scheme}://host:port, the host is missing.")


def _named_sites(
    config: RunConfig, names: Sequence[str], admitted: Mapping[str, AdmittedSite], now: datetime
) -> dict[str, AdmittedSite]:
    if not names:
        raise ConfigError("--sites: name at least one site. `fovea sites` lists them.")
    tasks = {site.name: site.task for site in config.sites}
    chosen: dict[str, AdmittedSite] = {}
    for name in names:
        if name in chosen:
            raise ConfigError(f"--sites: {name} is named twice.")
        if name not in admitted:
            hint = "It sends its admission.json, then: fovea admit admission.json."
            raise ConfigError(unknown_name("site", name, admitted) + f" {hint}")
        site = admitted[name]
        if site.retired_at is not None and site.retired_at <= now:
            raise ConfigError(
                f"site {name} was retired on {site.retired_at:%Y-%m-%d}. Leave it out."
            )
        if site.task not in config.tasks:
            said = unknown_name("task", site.task, config.tasks)
            raise ConfigError(f"site {name} was admitted for a task that the run lacks: {said}")
        if tasks.get(name, site.task) != site.task:
            raise ConfigError(
                f"site {name} was admitted for task {site.task}, the configuration says "
                f"{tasks[name]}. Correct its sites."
            )
        chosen[name] = site
    return chosen


def _checked_plan(loaded: LoadedConfig, data_root: Path | None) -> str:
    """Return the architecture's digest, having tried what the rounds' process will need."""
    from server.operations.plan import check_reference, planned_architecture  # noqa: PLC0415 - torch

    check_tracking_uri(loaded.run.tracking.uri)
    check_reference(loaded, data_root=data_root)
    return planned_architecture(loaded.run)


def _manifest(
    config: RunConfig,
    federation: Federation,
    sites: Mapping[str, AdmittedSite],
    *,
    run: str,
    architecture_digest: str,
    now: datetime,
    days: int | None,
) -> Manifest:
    return Manifest(
        version=1,
        federation=federation.name,
        run=run,
        sites=tuple(
            ManifestSite(name=name, task=site.task, signing_key=site.signing_key)
            for name, site in sites.items()
        ),
        config=told(config),
        architecture_digest=architecture_digest,
        code_digest=site_code_digest(),
        issued_at=now,
        expires_at=now + timedelta(days=days or federation.run_days),
    )
