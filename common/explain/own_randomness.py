"""Random numbers of an explanation's own: captum draws from the global state, others must not see.

The same numbers for every picture, so that a map does not depend on its neighbours in a batch, nor
on how often one has asked.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from common.machine.seed import derive_seed


@contextmanager
def own_randomness(name: str, *, device: torch.device) -> Iterator[None]:
    """Seed numpy's and torch's global states for one named use; put both back at the end.

    Not for threads that draw from the global states at the same time.
    """
    seed = derive_seed(0, "explain", name)
    # manual_seed reaches every GPU, so every one is put back.
    devices = list(range(torch.cuda.device_count())) if device.type == "cuda" else []
    numpy_state = np.random.get_state()
    try:
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            np.random.seed(seed)
            yield
    finally:
        np.random.set_state(numpy_state)
