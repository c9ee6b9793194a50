"""One logit of one picture, as every method and measure asks for it."""

from dataclasses import dataclass

from torch import Tensor

from common.explain import EXPLAINERS
from common.explain.score import Score, score_of
from common.model.network import Network
from common.tasks import Task


@dataclass(frozen=True, eq=False)
class Question:
    """One logit of one picture."""

    network: Network  # in eval mode
    image: Tensor  # (1, 3, S, S)
    sha256: str  # of the picture's file, which tells it from others
    task: Task
    logit: int
    threshold: float  # of the finding; subtracted before a logit becomes a probability
    seed: int  # of noise and random orders

    @property
    def score(self) -> Score:
        """Return the logit as a function of pictures."""
        return score_of(self.network, task=self.task.name, logit=self.logit)

    def probability(self, pictures: Tensor) -> Tensor:
        """Return the finding's uncalibrated probability in pictures (B, 3, S, S) -> (B,)."""
        return (self.score(pictures) - self.threshold).sigmoid()

    def saliency(self, method: str, pictures: Tensor | None = None) -> Tensor:
        """Return a method's maps of pictures (B, 3, S, S) -> (B, S, S), by default of its own.

        Raises ExplanationError where the method has none, and whatever else it raises.
        """
        return EXPLAINERS.get(method)(
            self.network,
            self.image if pictures is None else pictures,
            task=self.task.name,
            logit=self.logit,
        )
