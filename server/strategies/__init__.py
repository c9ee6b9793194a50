"""Who trains with what, and how a merged change moves the global model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from common.config.run import RunConfig
from common.messages.kinds import Arrays, SiteCard
from common.registry import Registry


@dataclass(frozen=True)
class TrainPlan:
    """What one site is asked for in one round, beyond the run's configuration."""

    proximal_mu: float


class Strategy(Protocol):
    """One side of the federation's two axes; the other is the aggregation."""

    def configure_train(
        self, server_round: int, cards: Mapping[str, SiteCard]
    ) -> dict[str, TrainPlan]:
        """Return the sites that train in this round, each with its plan."""
        ...

    def aggregate_train(
        self, model: Arrays, change: Mapping[str, NDArray[np.float64]]
    ) -> dict[str, NDArray[np.float32]]:
        """Return the next global model from the merged change; what has no change stays."""
        ...

    def configure_evaluate(self, server_round: int, cards: Mapping[str, SiteCard]) -> Sequence[str]:
        """Return the sites that evaluate in this round."""
        ...

    def state(self) -> dict[str, NDArray[np.float32]]:
        """Return what must last between rounds, for a checkpoint."""
        ...

    def restore(self, state: Arrays) -> None:
        """Continue from a checkpoint's state."""
        ...


class StrategyFactory(Protocol):
    """Builds a strategy from a run's configuration."""

    def __call__(self, config: RunConfig) -> Strategy:
        """Return the strategy in its first state."""
        ...


STRATEGIES: Registry[StrategyFactory] = Registry(
    "strategy",
    {
        "fedavg": "server.strategies.fedavg:fedavg",
        "fedprox": "server.strategies.fedprox:fedprox",
        "fedavgm": "server.strategies.fedavgm:fedavgm",
        "fedadam": "server.strategies.fedadam:fedadam",
    },
)
