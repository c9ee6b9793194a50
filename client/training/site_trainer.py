"""What trains for a site and what answers for it, whatever stands behind them."""

from typing import Protocol

from common.messages.kinds import (
    EvaluateRequest,
    Evaluation,
    Keys,
    KeysRequest,
    MaskedUpdate,
    Refusal,
    Shares,
    SiteCard,
    TrainRequest,
    UnmaskRequest,
    Update,
)


class SiteTrainer(Protocol):
    """Trains and measures, in this process or behind a door."""

    def describe(self) -> SiteCard:
        """Return who the site is."""
        ...

    def train(self, request: TrainRequest) -> Update | Refusal:
        """Run one round."""
        ...

    def evaluate(self, request: EvaluateRequest) -> Evaluation | Refusal:
        """Measure a model."""
        ...


class AnsweringSite(Protocol):
    """Answers whatever a coordinator may ask of a site."""

    def describe(self) -> SiteCard:
        """Return who the site is."""
        ...

    def train(self, request: TrainRequest) -> Update | MaskedUpdate | Refusal:
        """Run one round."""
        ...

    def evaluate(self, request: EvaluateRequest) -> Evaluation | Refusal:
        """Measure a model."""
        ...

    def keys(self, request: KeysRequest) -> Keys | Refusal:
        """Give keys of the secure sum."""
        ...

    def unmask(self, request: UnmaskRequest) -> Shares | Refusal:
        """Help to open the sums of a round."""
        ...
