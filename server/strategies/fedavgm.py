"""FedAvgM: the server remembers past changes as momentum.

Hsu et al. 2019, Measuring the Effects of Non-Identical Data Distribution, arXiv:1909.06335, §4.3.
"""

import numpy as np
from numpy.typing import NDArray

from common.config.run import RunConfig
from common.messages.kinds import Arrays
from server.strategies.everyone import Everyone, refuse_foreign

_MOMENTUM = "momentum/"


class Momentum:
    """m ← β·m + Δ; w ← w + η·m."""

    def __init__(self, *, learning_rate: float, momentum: float) -> None:
        """Set η and β."""
        self._learning_rate = learning_rate
        self._momentum = momentum
        self._moments: dict[str, NDArray[np.float32]] = {}

    def step(self, name: str, change: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return η·m after the change joined m."""
        moment = change
        if name in self._moments:
            moment = self._momentum * self._moments[name].astype(np.float64) + change
        # Kept in float32, as a checkpoint keeps it: a continued run must have the same bits.
        self._moments[name] = np.asarray(moment, dtype=np.float32)
        return self._learning_rate * self._moments[name].astype(np.float64)

    def state(self) -> dict[str, NDArray[np.float32]]:
        """Return m."""
        return {_MOMENTUM + name: moment for name, moment in self._moments.items()}

    def restore(self, state: Arrays) -> None:
        """Take m back."""
        refuse_foreign(state, (_MOMENTUM,))
        self._moments = {name.removeprefix(_MOMENTUM): array for name, array in state.items()}


def fedavgm(config: RunConfig) -> Everyone:
    """Build FedAvgM."""
    optimiser = Momentum(
        learning_rate=config.federation.server_learning_rate,
        momentum=config.federation.server_momentum,
    )
    return Everyone(optimiser, proximal_mu=0.0)
