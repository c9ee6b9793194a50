"""A ClientApp in which one site gives its keys and then crashes; the others behave."""

from flwr.app import Context

from client.app import client_app, site_of_this_machine
from client.training.site_trainer import AnsweringSite
from common.wire import (
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


class Crashing:
    def __init__(self, inner: AnsweringSite) -> None:
        self.inner = inner

    def describe(self) -> SiteCard:
        return self.inner.describe()

    def evaluate(self, request: EvaluateRequest) -> Evaluation | Refusal:
        return self.inner.evaluate(request)

    def keys(self, request: KeysRequest) -> Keys | Refusal:
        return self.inner.keys(request)

    def unmask(self, request: UnmaskRequest) -> Shares | Refusal:
        return self.inner.unmask(request)

    def train(self, request: TrainRequest) -> Update | MaskedUpdate | Refusal:
        raise MemoryError("the graphics card is on fire")


def site_for(context: Context) -> tuple[str, AnsweringSite]:
    site, inner = site_of_this_machine(context)
    return site, Crashing(inner) if site == "north" else inner


app = client_app(site_for)
