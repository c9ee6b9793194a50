"""One seed for python, numpy and torch."""

import hashlib
import random

import numpy as np
import torch


def derive_seed(seed: int, *names: str | int) -> int:
    """Return a seed in [0, 2^32) for one named use, the same on every machine.

    Two uses of one seed (a head's weights, a site's shuffling) must not share random numbers.
    """
    text = "\x1f".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


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
