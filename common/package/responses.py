"""What a network says to the pictures of one part of a shard: what calibration starts from."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from common.datasets.loader import eval_batches
from common.datasets.shard import Shard
from common.model.network import Network, Output
from common.tasks import Task


@dataclass(frozen=True, eq=False)
class Responses:
    """N pictures; C class names, T logits, K concepts (0 without a concept head), d features."""

    class_logits: NDArray[np.float32]  # (N, C) as the network gives them, without any shift
    logits: NDArray[np.float32]  # (N, T)
    concept_logits: NDArray[np.float32]  # (N, K)
    features: NDArray[np.float32]  # (N, d) mean local tokens
    targets: NDArray[np.float32]  # (N, T), NaN where unknown
    patients: NDArray[np.int32]  # (N,)

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.patients)

    @property
    def num_patients(self) -> int:
        """Return the number of patients."""
        return len(np.unique(self.patients))

    def is_finite(self) -> bool:
        """Say whether the network has not diverged."""
        return all(
            bool(np.isfinite(values).all())
            for values in (self.class_logits, self.logits, self.features)
        )


def respond(network: Network, shard: Shard, part: str, *, task: Task, batch_size: int) -> Responses:
    """Look at every picture of a part once, without augmentation, in float32.

    The network is left in the mode it came in. A part may be empty.

    Raises DataError for a part that the shard has not, or a shard of another task or labels.
    """
    indices = shard.indices(part)
    device = next(network.parameters()).device
    outputs: list[Output] = []
    was_training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            for batch, _ in eval_batches(
                shard,
                part,
                task=task,
                batch_size=batch_size,
                grid=network.grid(int(shard.images.shape[1])),
            ):
                outputs.append(network(batch.image.to(device), task=task.name))
    finally:
        network.train(was_training)

    def joined(name: str, width: int) -> NDArray[np.float32]:
        parts = [getattr(output, name).float().cpu().numpy() for output in outputs]
        return np.concatenate(parts) if parts else np.zeros((0, width), np.float32)

    return Responses(
        class_logits=joined("class_logits", len(task.class_names)),
        logits=joined("logits", task.num_logits),
        concept_logits=joined("concept_logits", 0),
        features=joined("pooled", network.config.width),
        targets=shard.targets[indices],
        patients=shard.patients[indices],
    )
