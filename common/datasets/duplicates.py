"""Finds pictures that are the same picture, and says what that means for patients and labels."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from common.config.run import DuplicateConfig

DETAIL_SIDE = 32
DETAIL_SIGMA = 1.5  # thumbnail pixels; coarser structure is anatomy that all patients share
DETAIL_CLIP = 2.0  # medians; keeps a retina's rim or a film's marker from deciding alone
BLOCK = 2048  # pictures compared at once: 2048 x 2048 hashes are 32 MiB


@dataclass(frozen=True)
class Signature:
    """What is kept of a picture to recognise it: about one kilobyte."""

    digest: bytes  # SHA-256 of shape and decoded pixels
    perceptual: np.uint64  # 64-bit DCT hash
    detail: NDArray[np.int8]  # (DETAIL_SIDE**2,) fine structure of the thumbnail


@dataclass(frozen=True)
class DuplicateReport:
    """Pictures that are the same picture. Indices are those of the signatures given."""

    exact_pairs: tuple[tuple[int, int], ...]  # each copy beside the first of its kind
    near_pairs: tuple[tuple[int, int], ...]
    groups: tuple[tuple[int, ...], ...]  # connected by pairs; two or more pictures each
    conflicts: tuple[int, ...]  # pictures whose equal carries another label
    shared_pictures: int  # groups that belong to more than one patient
    straddling_pictures: int  # groups that lie in more than one official split
    straddling_patients: int  # patients with pictures in more than one official split


def signature(image: NDArray[np.uint8]) -> Signature:
    """Describe one picture.

    Args:
        image: (H, W, C) with one or three channels, before any preprocessing.
    """
    pixels = np.ascontiguousarray(image)
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(pixels.data)
    grey = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).convert("L")
    bits = imagehash.phash(grey, hash_size=8).hash
    return Signature(
        digest=digest.digest(),
        perceptual=np.packbits(bits.ravel()).view(np.uint64)[0],
        detail=_detail(grey),
    )


def _detail(grey: Image.Image) -> NDArray[np.int8]:
    """Return the thumbnail without its coarse structure.

    Whole thumbnails of two patients' chests correlate up to 0.95 and those of two retinas up to
    0.998, because anatomy and field of view are alike. What is left after subtracting a blurred
    copy correlates below 0.89 between patients and above 0.92 between copies of one picture.
    """
    small = grey.resize((DETAIL_SIDE, DETAIL_SIDE), Image.Resampling.BOX)
    thumbnail = np.asarray(small, dtype=np.float32)
    fine = thumbnail - gaussian_filter(thumbnail, DETAIL_SIGMA)
    limit = max(DETAIL_CLIP * float(np.median(np.abs(fine))), 1e-3)
    return np.asarray(np.round(np.clip(fine / limit, -1, 1) * 127), dtype=np.int8).ravel()


def find_duplicates(
    signatures: Sequence[Signature],
    *,
    patients: Sequence[str],
    targets: NDArray[np.floating],
    config: DuplicateConfig,
    splits: Sequence[str | None] | None = None,
) -> DuplicateReport:
    """Compare every picture with every other.

    Equal pixels are exact duplicates. Near duplicates differ in at most
    ``config.near_distance_bits`` of the perceptual hash and correlate, in fine detail, at least
    ``config.near_correlation``. Two labels conflict where both are known and differ, on exact
    duplicates and on near duplicates of different patients; the same patient may well look alike
    before and after. Exact duplicates are judged together: where two of them conflict, with one
    another or with a near duplicate, all of them do.

    Args:
        signatures: One per picture, length N.
        patients: Patient of each picture.
        targets: (N, T), NaN where unknown.
        config: Thresholds.
        splits: The split that the source's own tables name for each picture, None where none.
    """
    exact = _exact_pairs(signatures)
    near = tuple(_near_pairs(signatures, set(exact), config))
    groups = _connected(len(signatures), exact + near)
    conflicts = _conflicts(exact, near, patients=patients, targets=targets)
    named = list(splits) if splits is not None else [None] * len(signatures)
    splits_of: dict[str, set[str]] = {}
    for patient, split in zip(patients, named, strict=True):
        if split is not None:
            splits_of.setdefault(patient, set()).add(split)
    return DuplicateReport(
        exact_pairs=exact,
        near_pairs=near,
        groups=groups,
        conflicts=tuple(sorted(conflicts)),
        shared_pictures=sum(len({patients[row] for row in group}) > 1 for group in groups),
        straddling_pictures=sum(
            len({named[row] for row in group} - {None}) > 1 for group in groups
        ),
        straddling_patients=sum(len(found) > 1 for found in splits_of.values()),
    )


def _conflicts(
    exact: Sequence[tuple[int, int]],
    near: Sequence[tuple[int, int]],
    *,
    patients: Sequence[str],
    targets: NDArray[np.floating],
) -> set[int]:
    """Return the pictures of every class of equal pixels that is in doubt.

    A class stands or falls as a whole: its pictures cannot be told apart, so what is doubtful of
    one is doubtful of all.
    """
    copies: dict[int, list[int]] = {}
    for first, copy in exact:
        copies.setdefault(first, [first]).append(copy)
    conflicts = {row for rows in copies.values() if _ambiguous(targets[rows]) for row in rows}
    for a, b in near:
        ones, others = copies.get(a, [a]), copies.get(b, [b])
        if any(
            patients[one] != patients[other] and _disagree(targets[one], targets[other])
            for one, other in product(ones, others)
        ):
            conflicts.update(ones, others)
    return conflicts


def _ambiguous(targets: NDArray[np.floating]) -> bool:
    """Say whether a column of (N, T) holds two known values."""
    missing = np.isnan(targets)
    lowest = np.where(missing, np.inf, targets).min(axis=0)
    return bool((np.where(missing, -np.inf, targets).max(axis=0) > lowest).any())


def _disagree(one: NDArray[np.floating], other: NDArray[np.floating]) -> bool:
    known = ~(np.isnan(one) | np.isnan(other))
    return bool((one[known] != other[known]).any())


def _exact_pairs(signatures: Sequence[Signature]) -> tuple[tuple[int, int], ...]:
    first: dict[bytes, int] = {}
    pairs = []
    for row, found in enumerate(signatures):
        earlier = first.setdefault(found.digest, row)
        if earlier != row:
            pairs.append((earlier, row))
    return tuple(pairs)


def _near_pairs(
    signatures: Sequence[Signature], exact: set[tuple[int, int]], config: DuplicateConfig
) -> Iterator[tuple[int, int]]:
    """Yield near duplicates among the distinct pictures, in blocks of the N x N comparison."""
    copies = {copy for _, copy in exact}
    rows = np.array([row for row in range(len(signatures)) if row not in copies], dtype=np.int64)
    if len(rows) < 2:
        return
    hashes = np.array([signatures[row].perceptual for row in rows], dtype=np.uint64)
    details = np.stack([signatures[row].detail for row in rows])
    for top in range(0, len(rows), BLOCK):
        for left in range(top, len(rows), BLOCK):
            one, other = hashes[top : top + BLOCK], hashes[left : left + BLOCK]
            close = np.bitwise_count(one[:, None] ^ other[None, :]) <= config.near_distance_bits
            a, b = np.nonzero(np.triu(close, k=1) if top == left else close)
            a, b = a + top, b + left
            for start in range(0, len(a), BLOCK):
                pair = slice(start, start + BLOCK)
                alike = _correlation(details[a[pair]], details[b[pair]]) >= config.near_correlation
                yield from zip(
                    rows[a[pair][alike]].tolist(), rows[b[pair][alike]].tolist(), strict=True
                )


def _correlation(one: NDArray[np.int8], other: NDArray[np.int8]) -> NDArray[np.float32]:
    """Return Pearson's correlation of (M, D) with (M, D), row by row; 1 where both are flat."""
    x, y = one.astype(np.float32), other.astype(np.float32)
    x -= x.mean(axis=1, keepdims=True)
    y -= y.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    # Two blank pictures have no detail in which they could differ.
    both_flat = ~x.any(axis=1) & ~y.any(axis=1)
    cosine = np.einsum("md,md->m", x, y) / np.maximum(norms, 1e-12)
    return np.where(both_flat, np.float32(1), cosine).astype(np.float32)


def _connected(number: int, pairs: Sequence[tuple[int, int]]) -> tuple[tuple[int, ...], ...]:
    if not pairs:
        return ()
    left, right = np.array(pairs, dtype=np.int64).T
    links = coo_array((np.ones(len(left)), (left, right)), shape=(number, number))
    _, component = connected_components(links, directed=False)
    members: dict[int, list[int]] = {}
    for row in np.unique(np.concatenate([left, right])).tolist():
        members.setdefault(int(component[row]), []).append(row)
    return tuple(tuple(rows) for rows in members.values())
