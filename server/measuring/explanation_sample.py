"""The pictures on which a run's maps are watched, and what one model sees in them."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from common.datasets.loader import make_batch
from common.datasets.shard import Shard
from common.learning.evaluate import positive_logits
from common.machine.seed import derive_seed
from common.model.network import Network
from common.tasks import Task

Maps = NDArray[np.float32]  # (N, T, h, w)


def choose_sample(
    shard: Shard, part: str, *, task: Task, count: int, seed: int
) -> NDArray[np.int64]:
    """Choose pictures by the seed, one per patient, positive ones first.

    The classes take turns, so that a rare one is not crowded out. The first pictures of a sample
    are the sample of a smaller ``count``.

    Args:
        shard: Where the pictures are.
        part: One of its parts.
        task: As the run restricts it.
        count: Of pictures; fewer where there are fewer patients.
        seed: Of the run.

    Returns rows of the shard, (at most ``count``,), in the order of choice.
    """
    rng = np.random.default_rng(derive_seed(seed, "explanation sample", task.name, part))
    groups: list[list[int]] = [[] for _ in range(task.num_logits)]
    negative: list[int] = []
    for index in rng.permutation(shard.indices(part)).tolist():
        positive = positive_logits(shard, index)
        for logit in positive:
            groups[logit].append(index)
        if not positive:
            negative.append(index)
    longest = max((len(group) for group in groups), default=0)
    in_turn = [group[n] for n in range(longest) for group in groups if n < len(group)]
    chosen: dict[int, int] = {}  # by patient
    for index in (*in_turn, *negative):
        if len(chosen) < count:
            chosen.setdefault(int(shard.patients[index]), index)
    return np.array(list(chosen.values()), dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Looked:
    """What one model sees in N pictures and says of them; T logits, K signs (0 without heads)."""

    maps: Maps
    logits: NDArray[np.float32]  # (N, T)
    sign_maps: NDArray[np.float32]  # (N, K, h, w)
    sign_logits: NDArray[np.float32]  # (N, K)

    @property
    def sign_probabilities(self) -> NDArray[np.float32]:
        """Return the probability of each sign, (N, K), to the bits of an evaluation."""
        probabilities: NDArray[np.float32] = torch.from_numpy(self.sign_logits).sigmoid().numpy()
        return probabilities


def maps_of(
    network: Network, shard: Shard, indices: NDArray[np.int64], *, task: Task, batch_size: int
) -> Maps:
    """Return a network's signed maps of pictures, (N, T, h, w); see :func:`look_at`."""
    return look_at(network, shard, indices, task=task, batch_size=batch_size).maps


def look_at(
    network: Network, shard: Shard, indices: NDArray[np.int64], *, task: Task, batch_size: int
) -> Looked:
    """Return what a network sees in pictures of a shard, (N,); nothing else is measured.

    The same bits as the maps of :func:`evaluate` in batches of the same pictures.
    The network is left in the mode it came in.
    """
    size_px = int(shard.images.shape[1])
    device = next(network.parameters()).device
    grid = network.grid(size_px)
    seen: list[tuple[NDArray[np.float32], ...]] = []
    was_training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            for start in range(0, len(indices), batch_size):
                rows = indices[start : start + batch_size]
                batch = make_batch(shard, rows, task=task, grid=grid)
                output = network(batch.image.to(device), task=task.name)
                parts = (output.maps, output.logits, output.concept_maps, output.concept_logits)
                seen.append(tuple(part.cpu().numpy() for part in parts))
    finally:
        network.train(was_training)
    if not seen:
        empty = np.zeros((0, task.num_logits), np.float32)
        none = np.zeros((0, 0), np.float32)
        shapes = (np.zeros((0, task.num_logits, *grid), np.float32), empty)
        return Looked(*shapes, np.zeros((0, 0, *grid), np.float32), none)
    return Looked(*(np.concatenate(part) for part in zip(*seen, strict=True)))
