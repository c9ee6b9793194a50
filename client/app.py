"""The Flower ClientApp: turns a message into a call of a simulated site, and back.

A shim that holds no data and imports no torch before the first message.
"""

import logging
import os
import sys
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path
from typing import TextIO

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.simulated_site import SimulatedSite
from client.training.site_trainer import AnsweringSite
from common.errors import (
    ConfigError,
    DataError,
    FoveaError,
    LedgerError,
    SiteError,
    WireError,
)
from common.local_site import SITES_VARIABLE, LocalSite, read_sites
from common.machine.log import configure
from common.messages.kinds import (
    Answer,
    EvaluateRequest,
    KeysRequest,
    QueryRequest,
    Refusal,
    RefusalCode,
    TrainRequest,
    UnmaskRequest,
)
from common.messages.wire import decode_any_request, decode_request, encode

log = logging.getLogger(__name__)


UNNAMED_SITE = "unnamed-site"  # who answers while this machine cannot tell which site it is

SiteFor = Callable[[Context], tuple[str, AnsweringSite]]  # with the site's name


def client_app(site_for: SiteFor) -> ClientApp:
    """Return the ClientApp that answers for the site which this function finds."""
    app = ClientApp()

    @app.query()
    def query(message: Message, context: Context) -> Message:
        def act(site: AnsweringSite) -> Answer:
            request = decode_any_request(message.content)
            if isinstance(request, QueryRequest):
                return site.describe()
            if isinstance(request, KeysRequest):
                return site.keys(request)
            if isinstance(request, UnmaskRequest):
                return site.unmask(request)
            raise WireError(f"a {type(request).__name__} does not come as a query.")

        return _reply(message, lambda: site_for(context), act)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return _reply(
            message,
            lambda: site_for(context),
            lambda site: site.train(decode_request(message.content, TrainRequest)),
        )

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return _reply(
            message,
            lambda: site_for(context),
            lambda site: site.evaluate(decode_request(message.content, EvaluateRequest)),
        )

    return app


def _reply(
    message: Message,
    find: Callable[[], tuple[str, AnsweringSite]],
    act: Callable[[AnsweringSite], Answer],
) -> Message:
    """Return the answer; what is expected to go wrong becomes a refusal with a reason.

    Anything else is a bug. It reaches the coordinator as Flower's error reply, which carries the
    exception's text, and that may quote a file or a patient: only its kind leaves the site.
    """
    site = UNNAMED_SITE
    try:
        site, answering = find()
        answer = act(answering)
    except FoveaError as error:
        log.exception("request failed", extra={"action": "request_failed", "site": site})
        unread = isinstance(error, WireError)
        code = RefusalCode.UNREADABLE if unread else RefusalCode.UNABLE
        answer = Refusal(site=site, code=code, reason=_reason(error, site))
    except Exception as error:
        log.exception("site failed", extra={"action": "site_failed", "site": site})
        raise SiteError(f"{type(error).__name__}; the site's log says more") from None
    return Message(encode(answer), reply_to=message)


def _reason(error: FoveaError, site: str) -> str:
    if site == UNNAMED_SITE:
        # Its message names a file of this machine.
        return "its own list of sites cannot be used; its process says why"
    if isinstance(error, DataError):
        # Its message may name files and rows, which are the site's own affair.
        return "its shard cannot be used; the site's log says why"
    if isinstance(error, LedgerError):
        return "its ledger cannot be used, and nothing leaves without it; the site's log says why"
    if isinstance(error, WireError):
        return f"it cannot read the request: {error}"
    return str(error)


def site_of_this_machine(context: Context) -> tuple[str, AnsweringSite]:
    """Return the site that Flower calls this partition, its trainer warm from round to round.

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
    if site.log is not None:
        # With every message: an engine may let one process serve several sites in turn.
        configure(level=logging.INFO, as_json=False, stream=_log_file(site.log))
    return site.name, _warm_site(site)


@lru_cache(maxsize=1)
def _sites(path: str) -> tuple[LocalSite, ...]:
    return read_sites(Path(path))


@cache
def _log_file(path: Path) -> TextIO:
    """Open a site's log for as long as the process lives; standard error where that fails."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a", encoding="utf-8")
    except OSError as error:
        # Without its log a site must still answer in its own name.
        log.warning(
            "site's log cannot be written, events go to standard error",
            extra={"action": "log_unwritable", "error": type(error).__name__},
        )
        return sys.stderr


@cache
def _warm_site(site: LocalSite) -> AnsweringSite:
    from client.training.trainer import Trainer  # noqa: PLC0415 - torch loads with the first message

    return SimulatedSite(site, Trainer(site))


app = client_app(site_of_this_machine)
