"""A ClientApp in which one site crashes and one sends NaN; the others behave."""

from dataclasses import replace

import numpy as np
from flwr.app import Context
from wrapped_site import CrashingSite, WrappedSite

from client.app import client_app, site_of_this_machine
from client.training.site_trainer import AnsweringSite
from common.messages.kinds import MaskedUpdate, Refusal, TrainRequest, Update


class NanSite(WrappedSite):
    def train(self, request: TrainRequest) -> Update | MaskedUpdate | Refusal:
        answer = self.inner.train(request)
        if not isinstance(answer, Update):
            return answer
        name = "trunk.project_deep.bias"
        broken = np.full_like(answer.arrays[name], np.nan)
        return replace(answer, arrays={**answer.arrays, name: broken})


def site_for(context: Context) -> tuple[str, AnsweringSite]:
    site, inner = site_of_this_machine(context)
    misbehaving = {"north": CrashingSite, "harbour": NanSite}.get(site)
    return site, inner if misbehaving is None else misbehaving(inner)


app = client_app(site_for)
