"""A site that passes everything on to the real one; tests let it misbehave in one place."""

from client.training.site_trainer import AnsweringSite
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


class WrappedSite:
    def __init__(self, inner: AnsweringSite) -> None:
        self.inner = inner

    def describe(self) -> SiteCard:
        return self.inner.describe()

    def train(self, request: TrainRequest) -> Update | MaskedUpdate | Refusal:
        return self.inner.train(request)

    def evaluate(self, request: EvaluateRequest) -> Evaluation | Refusal:
        return self.inner.evaluate(request)

    def keys(self, request: KeysRequest) -> Keys | Refusal:
        return self.inner.keys(request)

    def unmask(self, request: UnmaskRequest) -> Shares | Refusal:
        return self.inner.unmask(request)


class CrashingSite(WrappedSite):
    """Gives its keys and its counts; training ends in an error of the machine."""

    def train(self, request: TrainRequest) -> Update | MaskedUpdate | Refusal:
        raise MemoryError("the graphics card is on fire")
