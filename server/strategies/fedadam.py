"""FedAdam: the server takes Adam steps along the merged change.

Reddi et al. 2021, Adaptive Federated Optimization, arXiv:2003.00295, algorithm 2, with the bias
correction of Kingma & Ba 2015, arXiv:1412.6980, end of section 2.
"""

import numpy as np
from numpy.typing import NDArray

from common.config.run import RunConfig
from common.messages.kinds import Arrays
from server.strategies.everyone import Everyone, refuse_foreign

SECOND_MOMENT_DECAY = 0.99  # β2 of the paper's experiments
ADAPTIVITY = 1e-3  # τ of the paper's experiments: smaller adapts more

_FIRST, _SECOND, _STEPS = "first/", "second/", "steps/"


class Adam:
    """m ← β1·m + (1-β1)·Δ; v ← β2·v + (1-β2)·Δ²; w ← w + η_t·m / (√v + τ)."""

    def __init__(self, *, learning_rate: float, momentum: float) -> None:
        """Set η and β1."""
        self._learning_rate = learning_rate
        self._momentum = momentum
        self._first: dict[str, NDArray[np.float32]] = {}
        self._second: dict[str, NDArray[np.float32]] = {}
        # Per array: a head whose sites are away for a round takes no step then.
        self._steps: dict[str, int] = {}

    def step(self, name: str, change: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the Adam step for one array."""
        first = self._first.get(name, np.zeros(change.shape, dtype=np.float32)).astype(np.float64)
        second = self._second.get(name, np.zeros(change.shape, dtype=np.float32)).astype(np.float64)
        beta_1, beta_2 = self._momentum, SECOND_MOMENT_DECAY
        # Kept in float32, as a checkpoint keeps them: a continued run must have the same bits.
        self._first[name] = np.asarray(beta_1 * first + (1 - beta_1) * change, np.float32)
        self._second[name] = np.asarray(beta_2 * second + (1 - beta_2) * change**2, np.float32)
        self._steps[name] = steps = self._steps.get(name, 0) + 1
        rate = self._learning_rate * np.sqrt(1 - beta_2**steps) / (1 - beta_1**steps)
        root = np.sqrt(self._second[name].astype(np.float64))
        return np.asarray(rate * self._first[name].astype(np.float64) / (root + ADAPTIVITY))

    def state(self) -> dict[str, NDArray[np.float32]]:
        """Return m, v and the number of steps of each array."""
        steps = {name: np.float32(count).reshape(1) for name, count in self._steps.items()}
        return {
            **{_FIRST + name: array for name, array in self._first.items()},
            **{_SECOND + name: array for name, array in self._second.items()},
            **{_STEPS + name: array for name, array in steps.items()},
        }

    def restore(self, state: Arrays) -> None:
        """Take m, v and the numbers of steps back."""
        refuse_foreign(state, (_FIRST, _SECOND, _STEPS))
        self._first = _under(_FIRST, state)
        self._second = _under(_SECOND, state)
        self._steps = {name: int(array[0]) for name, array in _under(_STEPS, state).items()}


def _under(prefix: str, state: Arrays) -> dict[str, NDArray[np.float32]]:
    return {
        name.removeprefix(prefix): array for name, array in state.items() if name.startswith(prefix)
    }


def fedadam(config: RunConfig) -> Everyone:
    """Build FedAdam; federation.server_momentum is β1."""
    optimiser = Adam(
        learning_rate=config.federation.server_learning_rate,
        momentum=config.federation.server_momentum,
    )
    return Everyone(optimiser, proximal_mu=0.0)
