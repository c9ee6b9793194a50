"""The plan of strategies that ask every site in every round; they differ in the server's step."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from common.errors import ConfigError
from common.messages.kinds import Arrays, SiteCard
from server.strategies import TrainPlan


class ServerOptimiser(Protocol):
    """Turns a merged change into the step that the model takes. Holds its own moments."""

    def step(self, name: str, change: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return what to add to the array of this name."""
        ...

    def state(self) -> dict[str, NDArray[np.float32]]:
        """Return the moments, by a name of their own."""
        ...

    def restore(self, state: Arrays) -> None:
        """Take the moments back."""
        ...


class Everyone:
    """Asks every site that has training pictures; the optimiser moves the model."""

    def __init__(self, optimiser: ServerOptimiser, *, proximal_mu: float) -> None:
        """Compose a server optimiser with the sites' proximal weight (0: none)."""
        self._optimiser = optimiser
        self._proximal_mu = proximal_mu

    def configure_train(
        self, server_round: int, cards: Mapping[str, SiteCard]
    ) -> dict[str, TrainPlan]:
        """Ask every site, also an empty one: it refuses by name, which the report shows."""
        del server_round
        return {site: TrainPlan(proximal_mu=self._proximal_mu) for site in cards}

    def aggregate_train(
        self, model: Arrays, change: Mapping[str, NDArray[np.float64]]
    ) -> dict[str, NDArray[np.float32]]:
        """Return the model after the server's step; arrays without a change stay as they are."""
        following = {}
        for name, array in model.items():
            if name in change:
                moved = array.astype(np.float64) + self._optimiser.step(name, change[name])
                following[name] = np.asarray(moved, dtype=np.float32)
            else:
                following[name] = array
        return following

    def configure_evaluate(
        self, server_round: int, cards: Mapping[str, SiteCard]
    ) -> tuple[str, ...]:
        """Ask every site that has a validation split."""
        del server_round
        return tuple(site for site, card in cards.items() if card.num_val > 0)

    def state(self) -> dict[str, NDArray[np.float32]]:
        """Return the optimiser's moments."""
        return self._optimiser.state()

    def restore(self, state: Arrays) -> None:
        """Take the optimiser's moments back."""
        self._optimiser.restore(state)


def refuse_foreign(state: Arrays, prefixes: tuple[str, ...]) -> None:
    """Raise ConfigError when a checkpoint's moments are those of another strategy."""
    for name in state:
        if not name.startswith(prefixes):
            raise ConfigError(
                f"the checkpoint holds {name!r}, which federation.strategy does not know. "
                "Continue with the strategy that wrote it."
            )
