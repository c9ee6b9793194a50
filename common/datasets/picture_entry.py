"""One prepared picture as bytes: what its pixels decided, and nothing of its labels or patient."""

import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.datasets.duplicates import DETAIL_SIDE, Signature
from common.errors import DataError

_LENGTH = struct.Struct(">I")  # of the head, which stands first
_DETAIL_BYTES = DETAIL_SIDE**2


@dataclass(frozen=True)
class KeptOutline:
    """A region of the picture, resized with it."""

    mask: NDArray[np.bool_]  # (S, S)
    is_marked: bool  # whether the original marked a single pixel; it may have been cropped away


@dataclass(frozen=True)
class KeptPicture:
    """A picture resized and contrast-normalised, with what else had to be read from its file."""

    image: NDArray[np.uint8]  # (S, S, C)
    width: int  # of the original
    height: int
    signature: Signature
    skipped: tuple[str, ...]  # steps of preprocessing that were left out
    outlines: Mapping[bytes, KeptOutline]  # by a digest of mask file or box


def encode_picture(picture: KeptPicture) -> bytes:
    """Return the picture as bytes; masks are compressed, pixels are not."""
    packed = {
        key: zlib.compress(np.packbits(outline.mask).tobytes(), level=1)
        for key, outline in picture.outlines.items()
    }
    head = {
        "shape": picture.image.shape,
        "width": picture.width,
        "height": picture.height,
        "digest": picture.signature.digest.hex(),
        "perceptual": int(picture.signature.perceptual),
        "skipped": picture.skipped,
        "outlines": [
            [key.hex(), outline.is_marked, len(packed[key])]
            for key, outline in picture.outlines.items()
        ],
    }
    text = json.dumps(head).encode()
    return b"".join(
        [
            _LENGTH.pack(len(text)),
            text,
            picture.signature.detail.tobytes(),
            np.ascontiguousarray(picture.image).tobytes(),
            *packed.values(),
        ]
    )


def decode_picture(content: bytes) -> KeptPicture:
    """Return what :func:`encode_picture` wrote. Raises DataError for anything else."""
    try:
        return _decoded(memoryview(content))
    except (struct.error, ValueError, KeyError, TypeError, zlib.error) as error:
        raise DataError("a kept picture is damaged; prepare with `--verify`.") from error


def _decoded(content: memoryview) -> KeptPicture:
    (length,) = _LENGTH.unpack_from(content)
    place = _LENGTH.size + length
    head = json.loads(bytes(content[_LENGTH.size : place]))
    detail = np.frombuffer(content[place : place + _DETAIL_BYTES], dtype=np.int8)
    place += _DETAIL_BYTES
    shape = tuple(head["shape"])
    pixels = int(np.prod(shape))
    image = np.frombuffer(content[place : place + pixels], dtype=np.uint8).reshape(shape)
    place += pixels
    outlines = {}
    for key, is_marked, size in head["outlines"]:
        bits = np.frombuffer(zlib.decompress(content[place : place + size]), dtype=np.uint8)
        mask = np.unpackbits(bits, count=shape[0] * shape[1]).reshape(shape[:2]).astype(np.bool_)
        outlines[bytes.fromhex(key)] = KeptOutline(mask=mask, is_marked=is_marked)
        place += size
    return KeptPicture(
        image=image,
        width=head["width"],
        height=head["height"],
        signature=Signature(
            digest=bytes.fromhex(head["digest"]),
            perceptual=np.uint64(head["perceptual"]),
            detail=detail,
        ),
        skipped=tuple(head["skipped"]),
        outlines=outlines,
    )
