"""One seed for python, numpy and torch."""

import random

import numpy as np
import torch

from common.machine.derived_seed import derive_seed

__all__ = ["derive_seed", "generator", "seed_everything"]


def seed_everything(seed: int) -> None:
    """Seed python, numpy and torch; on a machine without CUDA also refuse undetermined kernels."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # libraries still draw from the global state
    torch.manual_seed(seed)
    # On CUDA some backward kernels have no determined form; the promise is for the CPU.
    torch.use_deterministic_algorithms(not torch.cuda.is_available())


def generator(seed: int) -> torch.Generator:
    """Return a CPU generator with its own stream, for samplers and loaders."""
    return torch.Generator().manual_seed(seed)
