"""Which device a run computes on, and in which precision."""

from contextlib import AbstractContextManager, nullcontext

import torch

from common.config.run import TrainConfig
from common.datasets.sample import Batch
from common.errors import ConfigError


def chosen_device(train: TrainConfig) -> torch.device:
    """Return the device that the configuration means on this machine.

    Raises ConfigError for ``cuda`` where there is none.
    """
    if train.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if train.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "train.device is cuda, but no GPU can be used on this machine. Set it to auto or cpu."
        )
    return torch.device(train.device)


def autocast(train: TrainConfig, device: torch.device) -> AbstractContextManager[object]:
    """Return bf16 autocast where it is asked for; ``auto`` means on a GPU only.

    bf16 has the exponent range of float32, so no loss scaling is needed.
    """
    wanted = train.mixed_precision
    if wanted == "bf16" or (wanted == "auto" and device.type == "cuda"):
        return torch.autocast(device_type=device.type, dtype=torch.bfloat16)
    return nullcontext()


def on_device(batch: Batch, device: torch.device) -> Batch:
    """Return the batch with its tensors on a device."""
    if device.type == "cpu":
        return batch
    return Batch(
        image=batch.image.to(device, non_blocking=True),
        target=batch.target.to(device, non_blocking=True),
        roi_coverage=batch.roi_coverage.to(device, non_blocking=True),
        has_roi=batch.has_roi.to(device, non_blocking=True),
        concept_target=batch.concept_target.to(device, non_blocking=True),
        concept_coverage=batch.concept_coverage.to(device, non_blocking=True),
    )
