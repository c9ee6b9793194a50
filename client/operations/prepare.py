"""``fovea-site prepare``: raw files become this site's shard; a re-run reads what has changed."""

import errno
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from client.home.folders import SiteHome
from client.home.ownership import hand_over
from client.home.site import SiteSettings
from common.config.run import (
    DuplicateConfig,
    EbhiSource,
    FileSource,
    IdridSource,
    ManifestSource,
    PreprocessConfig,
)
from common.datasets.picture_store import PictureStore, StoreDamagedError
from common.datasets.record import Source
from common.datasets.shard import Shard
from common.errors import ConfigError, DataError, SiteError
from common.files.lock import Lock
from common.machine.derived_seed import derive_seed
from common.tasks import Task, task_named

log = logging.getLogger(__name__)

SHIPPED = Path(__file__).resolve().parents[2] / "configs"  # label tables of known sources
NIH_TABLE = "labels/nih.yaml"
LOCK = "prepare.lock"
READERS = min(8, os.cpu_count() or 1)  # threads; decoding and resizing release the interpreter
SPARE_SHARE = 1.1  # of the estimate: tables and the file system's own

Watch = Callable[[int, int], None]  # told (pictures done, pictures in all)


@dataclass(frozen=True)
class PreparedSite:
    """What preparing did. Where the shard was up to date, nothing was read and nothing taken."""

    shard: Shard
    read_anew: int  # pictures whose files were decoded
    from_store: int  # pictures taken as they were kept
    excluded: Mapping[str, int]  # reason → rows or pictures left out
    damaged: int  # kept pictures whose checksum was wrong; they were read anew
    seconds: float


@dataclass(frozen=True)
class _Recipe:
    """How pictures are prepared, in the form that preparation takes."""

    image_size_px: int
    duplicates: DuplicateConfig
    preprocess: Mapping[str, PreprocessConfig]


def prepare_site(
    home: SiteHome, site: SiteSettings, *, watch: Watch, verify: bool = False
) -> PreparedSite:
    """Prepare or bring up to date the shard of a site; the former one stays until it is whole.

    Args:
        home: The site's folder; shard and picture store lie in it.
        site: What ``site.yaml`` says.
        watch: Told how far it is.
        verify: Whether to hash every file again and write the shard anew, whatever file times say.

    Raises:
        ConfigError: The label table or the source's settings are wrong.
        DataError: The pictures cannot be used, or the disk has too little room.
        SiteError: Another preparation runs.
    """
    began = time.monotonic()
    taken = "another `fovea-site prepare` runs here. Wait until it is done."
    with Lock(home.trainer / LOCK, taken, error=SiteError):
        _remove_leftovers(home.shard)
        source = open_site_source(home, site)
        try:
            prepared = _prepared(home, site, source, watch=watch, verify=verify)
        except StoreDamagedError:
            log.warning(
                "the picture store is damaged, all pictures are read anew",
                extra={"action": "store_damaged"},
            )
            shutil.rmtree(home.picture_store)
            prepared = _prepared(home, site, source, watch=watch, verify=verify)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise DataError(
                f"{home.trainer}: the disk is full. Make room and run `fovea-site prepare` again: "
                "what was read so far is kept."
            ) from error
        finally:
            _hand_over(home)
    shard, read_anew, store = prepared
    return PreparedSite(
        shard=shard,
        read_anew=read_anew,
        from_store=store.taken,
        excluded=shard.card.exclusions,
        damaged=store.damaged,
        seconds=time.monotonic() - began,
    )


def open_site_source(home: SiteHome, site: SiteSettings) -> Source:
    """Read the tables of a site's source; no picture is opened.

    Raises ConfigError or DataError naming what is wrong.
    """
    from common.datasets.sources import open_source  # noqa: PLC0415 - only preparing needs it

    if site.source.kind != "phantom" and site.data is None:
        raise ConfigError(
            f"{home.site_file}: data: source {site.source.kind!r} reads files; name the folder "
            "that holds them."
        )
    return open_source(
        site.source,
        task=site_task(site),
        data_root=home.trainer / (site.data or ""),
        config_root=_label_root(home, site.source),
        site=site.name,
        seed=site.preparation.seed,
    )


def site_task(site: SiteSettings) -> Task:
    """Return the task as this site is asked about it. Raises ConfigError for unknown names."""
    return task_named(site.task, site.labels)


def expected_fingerprint(site: SiteSettings, source: Source) -> str | None:
    """Return the fingerprint that this site's shard would have if it were prepared now."""
    from common.datasets.prepare import fingerprint_of  # noqa: PLC0415 - loads image libraries

    return fingerprint_of(
        source,
        task=site_task(site),
        parts=site.preparation.split.model_dump(),
        data=_recipe(site),
        seed=_split_seed(site),
    )


def _recipe(site: SiteSettings) -> _Recipe:
    return _Recipe(
        image_size_px=site.preparation.image_size_px,
        duplicates=site.preparation.duplicates,
        preprocess={site.task: site.preparation.preprocess},
    )


def _split_seed(site: SiteSettings) -> int:
    # As in a simulation, so that a site splits its patients there as it does here.
    return derive_seed(site.preparation.seed, "split", site.name)


def _prepared(
    home: SiteHome, site: SiteSettings, source: Source, *, watch: Watch, verify: bool
) -> tuple[Shard, int, PictureStore]:
    from common.datasets.prepare import prepare_shard  # noqa: PLC0415 - loads image libraries

    done = 0

    def progress(pictures: int, total: int) -> None:
        nonlocal done
        done = pictures
        watch(pictures, total)

    with PictureStore(home.picture_store, verify=verify) as store:
        shard = prepare_shard(
            source,
            task=site_task(site),
            parts=site.preparation.split.model_dump(),
            data=_recipe(site),
            seed=_split_seed(site),
            out=home.shard,
            progress=progress,
            workers=READERS,
            store=store,
            anew=verify,
            before_reading=lambda: _refuse_small_disk(home, site, source, store),
        )
        if done:
            store.prune()
    return shard, done - store.taken, store


def _label_root(home: SiteHome, source: FileSource) -> Path:
    """Return the folder that label tables are named from: the site's own, or the shipped ones."""
    if isinstance(source, ManifestSource | EbhiSource | IdridSource):
        table = source.mapping
    else:
        table = NIH_TABLE
    return home.trainer if (home.trainer / table).exists() else SHIPPED


def _hand_over(home: SiteHome) -> None:
    """Give what root has written to the trainer's user, who could not read it otherwise."""
    hand_over(home.trainer / LOCK)
    for folder in (home.picture_store, home.shard):
        if folder.is_dir():
            hand_over(folder)
            for path in folder.iterdir():
                hand_over(path)


def _remove_leftovers(shard: Path) -> None:
    """Remove half-written shards of killed processes; only one process prepares at a time."""
    for partial in shard.parent.glob(f".{shard.name}-*"):
        shutil.rmtree(partial)


def _refuse_small_disk(
    home: SiteHome, site: SiteSettings, source: Source, store: PictureStore
) -> None:
    needed = _bytes_needed(site, source, store) + site.limits.min_free_disk_mb * 10**6
    free = shutil.disk_usage(home.trainer).free
    if free < needed:
        raise DataError(
            f"{home.trainer}: {free / 10**9:.1f} GB are free, preparing {len(source)} pictures "
            f"takes up to {needed / 10**9:.1f} GB. Make room, or move the site to a larger disk."
        )


def _bytes_needed(site: SiteSettings, source: Source, store: PictureStore) -> int:
    """Estimate what preparing writes at most: the store's new pictures, and the shard twice."""
    from common.datasets.kept_reading import settings_digest  # noqa: PLC0415 - image libraries
    from common.datasets.source_traits import Tabled  # noqa: PLC0415

    size_px, channels = site.preparation.image_size_px, site_task(site).channels
    picture = size_px**2 * channels
    regions = len(source)
    new = 0
    if isinstance(source, Tabled):
        regions = sum(len(record.regions) for record in source.records)
        settings = settings_digest(
            channels=channels, size_px=size_px, config=site.preparation.preprocess
        )
        new = max(0, len(source) - store.count(settings))
    # Pixels are staged before it is known which pictures stay, then written as arrays.
    shard = 2 * (len(source) * picture + regions * size_px**2)
    return int(SPARE_SHARE * (shard + new * picture))
