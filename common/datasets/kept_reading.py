"""Reads one record's picture through the store: from it, or from its files into it."""

import hashlib
import json

from common.config.run import PreprocessConfig
from common.datasets.code_digest import pixel_code_digest
from common.datasets.duplicates import signature
from common.datasets.picture_entry import KeptOutline, KeptPicture
from common.datasets.picture_store import FileState, PictureKey, PictureStore, file_state
from common.datasets.preprocess import preprocess
from common.datasets.record import Record, Region
from common.datasets.sources import read_pixels


def settings_digest(*, channels: int, size_px: int, config: PreprocessConfig) -> bytes:
    """Return a digest of all but the file that decides a prepared picture's pixels."""
    decisive = [pixel_code_digest(), channels, size_px, config.model_dump_json()]
    return hashlib.sha256(json.dumps(decisive).encode()).digest()


def kept_or_read(
    record: Record,
    *,
    channels: int,
    size_px: int,
    config: PreprocessConfig,
    store: PictureStore,
) -> tuple[KeptPicture, list[KeptOutline]]:
    """Return a record's prepared picture and the outline of each of its regions, in order.

    Raises DataError naming file and remedy.
    """
    before = _states(record)
    # A file's name tells DICOM files without a preamble, so its ending counts as content.
    ending = record.image.suffix.lower().encode()
    key = PictureKey(
        settings=settings_digest(channels=channels, size_px=size_px, config=config),
        content=hashlib.sha256(ending + b"\0" + store.file_digest(record.image)).digest(),
    )
    names = [_outline_name(region, store) for region in record.regions]
    kept = store.take(key, outlines=names)
    if kept is None:
        kept = _read(record, names, channels=channels, size_px=size_px, config=config)
        # A file that was replaced meanwhile may have been hashed as one and read as the other.
        if _states(record) == before:
            store.put(key, kept)
    return kept, [kept.outlines[name] for name in names]


def _read(
    record: Record, names: list[bytes], *, channels: int, size_px: int, config: PreprocessConfig
) -> KeptPicture:
    image, masks = read_pixels(record, channels=channels)
    prepared = preprocess(image, masks, size_px=size_px, config=config)
    return KeptPicture(
        image=prepared.image,
        width=image.shape[1],
        height=image.shape[0],
        signature=signature(image),
        skipped=prepared.skipped,
        outlines={
            name: KeptOutline(mask=small, is_marked=bool(mask.any()))
            for name, mask, small in zip(names, masks, prepared.masks, strict=True)
        },
    )


def _outline_name(region: Region, store: PictureStore) -> bytes:
    if region.mask is not None and region.of_class is not None:
        # What else the mask may hold counts too: a value without a meaning would be an error.
        digest = store.file_digest(region.mask)
        return hashlib.sha256(repr((digest, region.of_class)).encode()).digest()
    if region.mask is not None:
        return store.file_digest(region.mask)
    return hashlib.sha256(repr((region.box, region.box_frame)).encode()).digest()


def _states(record: Record) -> list[FileState]:
    files = [record.image, *(region.mask for region in record.regions if region.mask is not None)]
    return [file_state(path) for path in files]
