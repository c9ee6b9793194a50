"""Every shard of a simulated federation: the sites' and the reference sets', from the YAML alone.

In a real federation each hospital prepares its own; here one machine holds all of them, and can
therefore check that no patient and no picture is in two places.
"""

import csv
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from common.config.reading import LoadedConfig
from common.config.run import FileSource, PoolSource, RunConfig
from common.datasets.partition import partition, scan_duplicates_once
from common.datasets.phantom_source import REFERENCE
from common.datasets.prepare import prepare_shard
from common.datasets.record import Source
from common.datasets.shard import Shard
from common.datasets.shared_pictures import Place, find_shared_pictures
from common.datasets.sources import OWN_PATIENT, open_source
from common.datasets.views import JoinedSource
from common.errors import ConfigError, DataError
from common.machine.seed import derive_seed
from common.private.sampling import require_units

READERS = min(8, os.cpu_count() or 1)  # threads; decoding and resizing release the interpreter

SHARED = "shared-pictures.csv"  # names rows: for the person at this machine alone

# Told what is being read, how many pictures are done and how many there are.
Watch = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Shards:
    """The prepared shards of a run, and where the sites' lie."""

    sites: Mapping[str, Shard]
    site_folders: Mapping[str, Path]
    reference: Mapping[str, Shard]  # by task


def prepare_shards(
    loaded: LoadedConfig, *, data_root: Path | None, out: Path, watch: Watch
) -> Shards:
    """Prepare or reopen every shard of a run below ``out/shards``.

    Raises:
        ConfigError: A source names an unknown pool, or a pool of another task, or needs ``--data``.
        DataError: A source cannot be read, a patient or a picture is in two places, or a run that
            protects patients has pictures whose patient is not known.
    """
    config = loaded.run
    places = _tasks_by_place(config)
    sources = open_sources(loaded, places, data_root=data_root, out=out, watch=watch)
    _no_patient_twice(sources, places)
    sites, folders = {}, {}
    for site in config.sites:
        folders[site.name] = out / "shards" / site.name
        with _naming(site.name):
            sites[site.name] = prepare_shard(
                sources[site.name],
                task=config.task(site.task),
                parts=config.data.split.model_dump(),
                data=config.data,
                seed=derive_seed(config.seed, "split", site.name),
                out=folders[site.name],
                progress=_watched(watch, site.name),
                workers=READERS,
            )
            if config.privacy.enabled:
                require_units(sites[site.name], "train", unit=config.privacy.unit)
    reference = _prepare_reference(config, sources, out=out, watch=watch)
    _no_picture_twice(config, sources, places, folder=out / "shards")
    return Shards(sites=sites, site_folders=folders, reference=reference)


def prepare_reference(
    loaded: LoadedConfig, *, data_root: Path | None, out: Path, watch: Watch
) -> dict[str, Shard]:
    """Prepare or reopen the coordinator's reference sets alone, by task; sites have their own.

    A reference set that is a share of a pool gets the same patients as beside all the sites.
    Raises what :func:`prepare_shards` raises.
    """
    names = [REFERENCE + task for task in loaded.run.tasks]
    sources = open_sources(loaded, names, data_root=data_root, out=out, watch=watch)
    return _prepare_reference(loaded.run, sources, out=out, watch=watch)


def _prepare_reference(
    config: RunConfig, sources: Mapping[str, Source], *, out: Path, watch: Watch
) -> dict[str, Shard]:
    reference = {}
    for task in config.tasks:
        name = REFERENCE + task
        with _naming(name):
            reference[task] = prepare_shard(
                sources[name],
                task=config.task(task),
                parts=config.data.reference_split.model_dump(),
                data=config.data,
                seed=derive_seed(config.seed, "split", name),
                out=out / "shards" / name,
                progress=_watched(watch, name),
                workers=READERS,
            )
    return reference


def open_sources(
    loaded: LoadedConfig,
    names: Collection[str],
    *,
    data_root: Path | None,
    out: Path,
    watch: Watch,
) -> dict[str, Source]:
    """Open the sources of sites and, as ``reference-<task>``, of reference sets, by these names.

    A pool is read whole even for one of its shares: who gets whom depends on all of them. What was
    found of it is kept below ``out/shards``.
    """
    config = loaded.run
    for site in config.sites:
        if site.name.startswith(REFERENCE):
            raise ConfigError(
                f"site {site.name}: names that begin with {REFERENCE!r} are those of reference "
                "sets. Choose another."
            )
    known = {REFERENCE + task: (task, config.reference[task].source) for task in config.tasks}
    known |= {site.name: (site.task, site.source) for site in config.sites}
    opened: dict[str, Source] = {}
    shares: dict[str, dict[str, float]] = {}
    for name, (task, source) in known.items():
        if isinstance(source, PoolSource):
            _check_pool(config, name, task, source)
            shares.setdefault(source.pool, {})[name] = source.share
        elif name in names:
            opened[name] = _open(loaded, source, task=task, site=name, data_root=data_root)
    for pool, parts in shares.items():
        if not parts.keys().isdisjoint(names):
            opened |= _share_out(loaded, pool, parts, data_root=data_root, out=out, watch=watch)
    return {name: opened[name] for name in names}


def _share_out(
    loaded: LoadedConfig,
    name: str,
    shares: Mapping[str, float],
    *,
    data_root: Path | None,
    out: Path,
    watch: Watch,
) -> Mapping[str, Source]:
    config, pool = loaded.run, loaded.run.data.pools[name]
    joined = JoinedSource(
        tuple(
            _open(loaded, source, task=pool.task, site=name, data_root=data_root)
            for source in pool.sources
        )
    )
    found = scan_duplicates_once(
        joined,
        config=config.data.duplicates,
        folder=out / "shards",
        progress=_watched(watch, f"pool {name}"),
    )
    seed = derive_seed(config.seed, "pool", name)
    return partition(joined, duplicates=found, shares=shares, seed=seed)


def _open(
    loaded: LoadedConfig, source: FileSource, *, task: str, site: str, data_root: Path | None
) -> Source:
    if data_root is None and source.kind != "phantom":
        raise ConfigError(
            f"{loaded.path.name}: source {source.kind!r} of {site} reads files. "
            "Say where they lie with --data FOLDER."
        )
    if data_root is not None and not data_root.is_dir():
        raise DataError(f"--data {data_root}: no such folder. Give the folder of the pictures.")
    with _naming(site):
        return open_source(
            source,
            task=loaded.run.task(task),
            data_root=(data_root or loaded.root).resolve(),
            config_root=loaded.root,
            site=site,
            seed=loaded.run.seed,
        )


def _check_pool(config: RunConfig, name: str, task: str, source: PoolSource) -> None:
    pools = config.data.pools
    if source.pool not in pools:
        known = ", ".join(pools) or "none"
        raise ConfigError(f"{name}: there is no pool {source.pool!r} in data.pools (has: {known}).")
    if pools[source.pool].task != task:
        raise ConfigError(
            f"{name} is of task {task}, its pool {source.pool!r} of {pools[source.pool].task}. "
            "Name a pool of the same task."
        )


def _tasks_by_place(config: RunConfig) -> dict[str, str]:
    places = {REFERENCE + task: task for task in config.tasks}
    return places | {site.name: site.task for site in config.sites}


def _no_patient_twice(sources: Mapping[str, Source], tasks: Mapping[str, str]) -> None:
    """Raise DataError when a patient, or a picture without one, is at two places of one task."""
    place_of: dict[tuple[str, str], str] = {}
    for place, source in sources.items():
        patients = {source.patient(index) for index in range(len(source))}
        for patient in patients:
            other = place_of.setdefault((tasks[place], patient), place)
            if other != place:
                whom = "picture" if patient.startswith(OWN_PATIENT) else "patient"
                raise DataError(
                    f"{other} and {place} share a {whom}. Take both from one pool of data.pools, "
                    "which is divided by patient."
                )


def _no_picture_twice(
    config: RunConfig, sources: Mapping[str, Source], tasks: Mapping[str, str], *, folder: Path
) -> None:
    """Raise DataError when places of one task that read files show the same picture.

    Which rows they are is written below the folder, for the person at this machine.
    """
    listing = folder / SHARED
    listing.unlink(missing_ok=True)
    origins = _file_origins(config)
    for task in config.tasks:
        places = {
            name: Place(folder=folder / name, source=sources[name], origin=origin)
            for name, origin in origins.items()
            if tasks[name] == task
        }
        shared = find_shared_pictures(places, config=config.data.duplicates)
        if not shared:
            continue
        with listing.open("w", newline="", encoding="utf-8") as stream:
            table = csv.writer(stream)
            table.writerow(["place", "row", "other place", "other row"])
            for found in shared:
                (one, other), (row, its_row) = found.places, found.rows
                table.writerow([one, row, other, its_row])
        listing.chmod(0o600)
        one, other = shared[0].places
        count = sum(found.places == (one, other) for found in shared)
        raise DataError(
            f"{one} and {other} share {count} picture{'s' if count > 1 else ''} (rows in "
            f"{listing}). Take both from one pool of data.pools, which is divided by picture."
        )


def _file_origins(config: RunConfig) -> dict[str, str]:
    """Return where the pictures of every place that reads files come from: itself or its pool."""
    named = {REFERENCE + task: config.reference[task].source for task in config.tasks}
    named |= {site.name: site.source for site in config.sites}
    origins = {}
    for name, source in named.items():
        if isinstance(source, PoolSource):
            if any(part.kind != "phantom" for part in config.data.pools[source.pool].sources):
                origins[name] = f"pool {source.pool}"
        elif source.kind != "phantom":
            origins[name] = name
    return origins


@contextmanager
def _naming(place: str) -> Iterator[None]:
    """Say in an error on data where it was."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{place}: {error}") from error


def _watched(watch: Watch, name: str) -> Callable[[int, int], None]:
    def told(done: int, total: int) -> None:
        watch(name, done, total)

    return told
