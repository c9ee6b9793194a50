"""From a source to a prepared shard: read, compare, share out, write, and say what was found."""

import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Protocol

from common.config.run import DuplicateConfig, PreprocessConfig
from common.datasets.assemble import write_shard
from common.datasets.code_digest import code_digest
from common.datasets.picture_store import PictureStore
from common.datasets.preprocess import Preprocessed
from common.datasets.reading import ReadPicture, read_all
from common.datasets.record import Exclusion, Source
from common.datasets.shard import FORMAT, META, Shard, open_shard, shard_fingerprint
from common.datasets.shared_pictures import read_signatures
from common.datasets.source_traits import at_size, identity_of
from common.errors import DataError
from common.tasks import Task

log = logging.getLogger(__name__)


class PreparationConfig(Protocol):
    """What of a configuration decides how pictures are prepared."""

    @property
    def image_size_px(self) -> int:
        """Side of the prepared square picture."""
        ...

    @property
    def duplicates(self) -> DuplicateConfig:
        """When two pictures count as one."""
        ...

    @property
    def preprocess(self) -> Mapping[str, PreprocessConfig]:
        """What is done to the pictures of each task."""
        ...


def prepare_shard(
    source: Source,
    *,
    task: Task,
    parts: Mapping[str, float],
    data: PreparationConfig,
    seed: int,
    out: Path,
    progress: Callable[[int, int], None] | None = None,
    workers: int = 1,
    store: PictureStore | None = None,
    anew: bool = False,
    before_reading: Callable[[], None] | None = None,
) -> Shard:
    """Prepare a source for training or central evaluation and return the shard.

    Reads every picture once, one at a time; whatever cannot be used is left out and counted on
    the data card, with names in ``exclusions.csv`` beside the arrays for the person at the site.
    The folder appears whole or not at all. Where it already holds the shard of the same source,
    settings and seed, it is returned as it is.

    Args:
        source: The cases.
        task: The task as the run restricts it.
        parts: Part to share of patients: train, val, test or selection, calibration, gate.
        data: Size, preprocessing and duplicate thresholds.
        seed: Fixes the split.
        out: Folder of the shard; its parents are created.
        progress: Called with (pictures read, pictures in all).
        workers: Threads that read and preprocess.
        store: Where pictures that lie in files are taken from and kept; None: all are read.
        anew: Whether to write the shard even where it is there already.
        before_reading: Called once it is clear that the shard has to be written.

    Raises:
        DataError: No picture is left, or ``out`` holds something other than a shard.
    """
    source = at_size(source, data.image_size_px)
    fingerprint = fingerprint_of(source, task=task, parts=parts, data=data, seed=seed)
    _finish_exchange(out)
    if not anew and fingerprint is not None and shard_fingerprint(out) == fingerprint:
        try:
            read_signatures(out)
            return open_shard(out)
        except DataError:
            log.warning("shard is damaged, prepared anew", extra={"action": "shard_damaged"})
    if out.exists() and not (out / META).exists():
        raise DataError(f"{out}: exists and holds no shard; name another folder or remove it.")
    if before_reading is not None:
        before_reading()
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    items = read_all(
        source,
        task=task,
        size_px=data.image_size_px,
        config=data.preprocess[task.name],
        workers=workers,
        store=store,
    )
    try:
        with closing(items):  # whatever goes wrong, its threads have ended here
            write_shard(
                partial,
                _watched(items, progress, total=len(source)),
                source,
                task=task,
                parts=parts,
                size_px=data.image_size_px,
                duplicates=data.duplicates,
                seed=seed,
                fingerprint=fingerprint,
            )
        _exchange(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return open_shard(out)


def fingerprint_of(
    source: Source, *, task: Task, parts: Mapping[str, float], data: PreparationConfig, seed: int
) -> str | None:
    """Return a digest of all that decides the shard's content, None where it cannot be told."""
    identity = identity_of(at_size(source, data.image_size_px))
    if identity is None:
        return None
    decisive = [
        FORMAT,
        code_digest(),
        identity,
        repr(task),
        list(parts.items()),
        data.image_size_px,
        data.preprocess[task.name].model_dump_json(),
        data.duplicates.model_dump_json(),
        seed,
    ]
    return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()


def _watched(
    items: Iterator[tuple[ReadPicture, Preprocessed] | Exclusion],
    progress: Callable[[int, int], None] | None,
    *,
    total: int,
) -> Iterator[tuple[ReadPicture, Preprocessed] | Exclusion]:
    for done, item in enumerate(items, start=1):
        yield item
        if progress is not None:
            progress(done, total)


def _exchange(partial: Path, out: Path) -> None:
    """Put a whole shard in the place of the former one, which is there until then."""
    former = _former(out)
    if out.exists():
        out.rename(former)
    partial.rename(out)
    shutil.rmtree(former, ignore_errors=True)


def _finish_exchange(out: Path) -> None:
    """Put the former shard back where a process was killed between the two renames."""
    former = _former(out)
    if former.exists() and not out.exists():
        former.rename(out)
    shutil.rmtree(former, ignore_errors=True)


def _former(out: Path) -> Path:
    return out.with_name(f".{out.name}.former")
