"""A ClientApp in which one site crashes and one sends NaN; the others behave."""

from dataclasses import replace

import numpy as np
from flwr.app import Context

from client.app import SiteTrainer, client_app, trainer_of_this_machine
from common.wire import (
    EvaluateRequest,
    Evaluation,
    Refusal,
    SiteCard,
    TrainRequest,
    Update,
)


class Misbehaving:
    def __init__(self, site: str, inner: SiteTrainer) -> None:
        self.site, self.inner = site, inner

    def describe(self) -> SiteCard:
        return self.inner.describe()

    def evaluate(self, request: EvaluateRequest) -> Evaluation | Refusal:
        return self.inner.evaluate(request)

    def train(self, request: TrainRequest) -> Update | Refusal:
        if self.site == "north":
            raise MemoryError("the graphics card is on fire")
        answer = self.inner.train(request)
        if self.site == "harbour" and isinstance(answer, Update):
            name = "trunk.project_deep.bias"
            broken = np.full_like(answer.arrays[name], np.nan)
            return replace(answer, arrays={**answer.arrays, name: broken})
        return answer


def trainer_for(context: Context) -> tuple[str, SiteTrainer]:
    site, trainer = trainer_of_this_machine(context)
    return site, Misbehaving(site, trainer)


app = client_app(trainer_for)
