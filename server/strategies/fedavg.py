"""FedAvg: the model takes the merged change.

McMahan et al. 2017, arXiv:1602.05629; with a server learning rate η as in Reddi et al. 2021,
arXiv:2003.00295, algorithm 1 (η = 1 is the original).
"""

import numpy as np
from numpy.typing import NDArray

from common.config.run import RunConfig
from common.messages.kinds import Arrays
from server.strategies.everyone import Everyone, refuse_foreign


class GradientDescent:
    """w ← w + η·Δ. Remembers nothing."""

    def __init__(self, *, learning_rate: float) -> None:
        """Set η."""
        self._learning_rate = learning_rate

    def step(self, name: str, change: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return η·Δ."""
        del name
        return self._learning_rate * change

    def state(self) -> dict[str, NDArray[np.float32]]:
        """Return nothing: there are no moments."""
        return {}

    def restore(self, state: Arrays) -> None:
        """Accept an empty state only."""
        refuse_foreign(state, ())


def fedavg(config: RunConfig) -> Everyone:
    """Build FedAvg."""
    optimiser = GradientDescent(learning_rate=config.federation.server_learning_rate)
    return Everyone(optimiser, proximal_mu=0.0)
