"""A ClientApp in which one site crashes and one sends NaN; the others behave."""

from dataclasses import replace

import numpy as np
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


class Misbehaving:
    def __init__(self, site: str, inner: AnsweringSite) -> None:
        self.site, self.inner = site, inner

    def describe(self) -> SiteCard:
        return self.inner.describe()

    def evaluate(self, request: EvaluateRequest) -> Evaluation | Refusal:
        return self.inner.evaluate(request)

    def keys(self, request: KeysRequest) -> Keys | Refusal:
        return self.inner.keys(request)

    def unmask(self, request: UnmaskRequest) -> Shares | Refusal:
        return self.inner.unmask(request)

    def train(self, request: TrainRequest) -> Update | MaskedUpdate | Refusal:
        if self.site == "north":
            raise MemoryError("the graphics card is on fire")
        answer = self.inner.train(request)
        if self.site == "harbour" and isinstance(answer, Update):
            name = "trunk.project_deep.bias"
            broken = np.full_like(answer.arrays[name], np.nan)
            return replace(answer, arrays={**answer.arrays, name: broken})
        return answer


def site_for(context: Context) -> tuple[str, AnsweringSite]:
    site, inner = site_of_this_machine(context)
    return site, Misbehaving(site, inner)


app = client_app(site_for)
