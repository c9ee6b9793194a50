"""The Flower ClientApp: turns a message into a call of the site's trainer, and back.

A shim that holds no data and imports no torch before the first message.
"""

import logging
import os
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path
from typing import Protocol

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from common.errors import ConfigError, DataError, FoveaError, SiteError, WireError
from common.local_site import SITES_VARIABLE, LocalSite, read_sites
from common.wire import (
    Answer,
    EvaluateRequest,
    Evaluation,
    QueryRequest,
    Refusal,
    SiteCard,
    TrainRequest,
    Update,
    decode_request,
    encode,
)

log = logging.getLogger(__name__)


class SiteTrainer(Protocol):
    """Whatever trains for a site, in this process or behind a door."""

    def describe(self) -> SiteCard:
        """Return who the site is."""
        ...

    def train(self, request: TrainRequest) -> Update | Refusal:
        """Run one round."""
        ...

    def evaluate(self, request: EvaluateRequest) -> Evaluation | Refusal:
        """Measure a model."""
        ...


TrainerFor = Callable[[Context], tuple[str, SiteTrainer]]  # the site's name and its trainer


def client_app(trainer_for: TrainerFor) -> ClientApp:
    """Return the ClientApp whose trainer this function finds."""
    app = ClientApp()

    @app.query()
    def query(message: Message, context: Context) -> Message:
        site, trainer = trainer_for(context)

        def act() -> Answer:
            decode_request(message.content, QueryRequest)
            return trainer.describe()

        return _reply(message, site, act)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        site, trainer = trainer_for(context)
        return _reply(
            message, site, lambda: trainer.train(decode_request(message.content, TrainRequest))
        )

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        site, trainer = trainer_for(context)
        return _reply(
            message,
            site,
            lambda: trainer.evaluate(decode_request(message.content, EvaluateRequest)),
        )

    return app


def _reply(message: Message, site: str, act: Callable[[], Answer]) -> Message:
    """Return the answer; what is expected to go wrong becomes a refusal with a reason.

    Anything else is a bug. It reaches the coordinator as Flower's error reply, which carries the
    exception's text, and that may quote a file or a patient: only its kind leaves the site.
    """
    try:
        answer = act()
    except FoveaError as error:
        log.exception("request failed", extra={"action": "request_failed", "site": site})
        answer = Refusal(site=site, reason=_reason(error))
    except Exception as error:
        log.exception("site failed", extra={"action": "site_failed", "site": site})
        raise SiteError(f"{type(error).__name__}; the site's log says more") from None
    return Message(encode(answer), reply_to=message)


def _reason(error: FoveaError) -> str:
    if isinstance(error, DataError):
        # Its message may name files and rows, which are the site's own affair.
        return "its shard cannot be used; the site's log says why"
    if isinstance(error, WireError):
        return f"it cannot read the request: {error}"
    return str(error)


def trainer_of_this_machine(context: Context) -> tuple[str, SiteTrainer]:
    """Return the trainer of the site that Flower calls this partition, warm from round to round.

    Raises ConfigError when this machine does not say which sites it has.
    """
    path = os.environ.get(SITES_VARIABLE)
    if path is None:
        raise ConfigError(f"{SITES_VARIABLE} is not set: it must name the file of this site.")
    sites = _sites(path)
    partition = context.node_config.get("partition-id", 0)
    if not isinstance(partition, int) or not 0 <= partition < len(sites):
        raise ConfigError(f"{path} has {len(sites)} sites, Flower asks for number {partition}.")
    site = sites[partition]
    return site.name, _warm_trainer(site)


@lru_cache(maxsize=1)
def _sites(path: str) -> tuple[LocalSite, ...]:
    return read_sites(Path(path))


@cache
def _warm_trainer(site: LocalSite) -> SiteTrainer:
    from client.trainer import Trainer  # noqa: PLC0415 - torch loads with the first message

    return Trainer(site)


app = client_app(trainer_of_this_machine)
