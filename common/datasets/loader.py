"""From a shard to batches: pictures as the network sees them, regions on its token grid."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from common.config.run import AugmentConfig
from common.datasets.sample import Batch
from common.datasets.shard import Shard, concept_masks, lesion_masks
from common.datasets.transforms import EVERY_ROW, Augmentation, Warp, jitter, normalise, random_warp
from common.errors import DataError
from common.tasks import Task


def batches(
    shard: Shard,
    part: str,
    *,
    task: Task,
    batch_size: int,
    grid: tuple[int, int],
    augment: AugmentConfig | None,
    seed: int,
    shuffle: bool = True,
    rows_of: Callable[[int], slice] | None = None,
) -> Iterator[Batch]:
    """Yield one epoch of a part. The last batch may be smaller; equal seeds give equal epochs.

    Args:
        shard: Where the pictures are.
        part: Which of them.
        task: The task as the run restricts it, with the labels of the shard.
        batch_size: Pictures per batch.
        grid: (h, w) of the network's tokens.
        augment: What to do at random; None: nothing.
        seed: Of order and augmentation; give every epoch its own.
        shuffle: Whether to draw the order.
        rows_of: From a batch's size to the rows of it that are made, as several processes share
            one epoch; None: all.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = shard.indices(part)
    if shuffle:
        chosen = chosen[torch.randperm(len(chosen), generator=generator).numpy()]
    for start in range(0, len(chosen), batch_size):
        whole = chosen[start : start + batch_size]
        yield make_batch(
            shard,
            whole,
            task=task,
            grid=grid,
            augmentation=None if augment is None else Augmentation(augment, generator),
            rows=EVERY_ROW if rows_of is None else rows_of(len(whole)),
        )


def eval_batches(
    shard: Shard, part: str, *, task: Task, batch_size: int, grid: tuple[int, int]
) -> Iterator[tuple[Batch, NDArray[np.int64]]]:
    """Yield a part in order and unchanged, each batch with the indices of its pictures."""
    chosen = shard.indices(part)
    for start in range(0, len(chosen), batch_size):
        rows = chosen[start : start + batch_size]
        yield make_batch(shard, rows, task=task, grid=grid), rows


def make_batch(
    shard: Shard,
    indices: NDArray[np.int64],
    *,
    task: Task,
    grid: tuple[int, int],
    augmentation: Augmentation | None = None,
    rows: slice = EVERY_ROW,
) -> Batch:
    """Return these pictures as a batch; there may be none, as Poisson sampling asks for.

    A picture has an ROI for a logit where the logit is positive, a lesion region explains it, and
    the augmentation has left some of it in view.

    Args:
        shard: Where the pictures are.
        indices: Which of them, (B,).
        task: The task as the run restricts it, with the labels of the shard.
        grid: (h, w) of the network's tokens.
        augmentation: What to do at random; None: nothing.
        rows: Which rows of the batch to make, at least one if it has any. Random numbers are
            drawn for all of it, so that a picture is augmented alike whoever makes it.

    Raises:
        DataError: The shard was prepared for another task or other labels.
    """
    fits = shard.concept_names in ((), task.concepts)
    if (shard.task, shard.labels) != (task.name, task.labels) or not fits:
        raise DataError(
            f"the shard was prepared for {shard.task} {shard.labels} with the concepts "
            f"{shard.concept_names}, the run asks for {task.name} {task.labels} with "
            f"{task.concepts}; prepare it again with this configuration."
        )
    batch, indices = len(indices), indices[rows]
    pixels = torch.from_numpy(shard.images[indices])  # (B, S, S, C) uint8
    picture = pixels.permute(0, 3, 1, 2).float() / 255
    warp = None
    if augmentation is not None and batch:
        warp = random_warp(batch, shard.images.shape[1], augmentation, rows=rows)
        picture = jitter(warp(picture), augmentation, batch=batch, rows=rows)
    lesions = [lesion_masks(shard, index, task) for index in indices.tolist()]
    coverage = _coverage(lesions, count=task.num_logits, grid=grid, warp=warp)
    signs = [concept_masks(shard, index, task) for index in indices.tolist()]
    return Batch(
        image=normalise(picture),
        target=torch.from_numpy(shard.targets[indices]),
        roi_coverage=coverage,
        has_roi=coverage.flatten(start_dim=2).amax(dim=2) > 0,
        concept_target=_concept_targets(shard, indices),
        concept_coverage=_coverage(signs, count=len(shard.concept_names), grid=grid, warp=warp),
    )


def _concept_targets(shard: Shard, indices: NDArray[np.int64]) -> Tensor:
    if not shard.concept_names:
        return torch.zeros(len(indices), 0)
    return torch.from_numpy(shard.concepts[indices])


def _coverage(
    masks_of: Sequence[Mapping[int, NDArray[np.bool_]]],
    *,
    count: int,
    grid: tuple[int, int],
    warp: Warp | None,
) -> Tensor:
    """Return (B, count, h, w): the share of each token's cell that a mask covers.

    Args:
        masks_of: For each of the B pictures its masks (S, S), by logit or concept.
        count: Of logits or concepts.
        grid: (h, w) of the network's tokens.
        warp: What was done to the pictures.
    """
    coverage = torch.zeros(len(masks_of), count, *grid)
    found = [
        (row, logit, mask) for row, masks in enumerate(masks_of) for logit, mask in masks.items()
    ]
    if not found:
        return coverage
    rows = torch.tensor([row for row, _, _ in found])
    logits = torch.tensor([logit for _, logit, _ in found])
    masks = torch.from_numpy(np.stack([mask for _, _, mask in found]))[:, None].float()
    moved = masks if warp is None else warp(masks, rows)
    coverage[rows, logits] = functional.adaptive_avg_pool2d(moved, grid)[:, 0]
    return coverage
