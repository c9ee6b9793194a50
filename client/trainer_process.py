"""The trainer's process: one per site, long-lived, with the data and without the network.

Start: lock, desk, service, then warm up in the background. Stop on SIGTERM: take nothing new,
finish and store what is begun, within a bound; whatever is cut off is simply asked again, since
nothing of it was released.
"""

import fcntl
import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from types import FrameType
from typing import TYPE_CHECKING

from client.audit import AuditLog
from client.desk import Desk
from client.home import SiteHome
from client.ownership import make_folder
from client.service import Server, serve
from client.site import SiteSettings, read_site
from common.code_digest import site_code_digest
from common.errors import SiteError
from common.local_site import LocalSite
from common.wire import EvaluateRequest, Evaluation, Refusal, SiteCard, TrainRequest, Update

if TYPE_CHECKING:
    from client.trainer import Trainer

log = logging.getLogger(__name__)

DRAIN_S = 300.0  # at most, for the running request; the service unit's stop time must be longer
HEALTH_EVERY_S = 2.0
WARM_AGAIN_S = 30.0

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class LazyTrainer:
    """The site's trainer; torch is loaded with the first call."""

    def __init__(self, site: LocalSite) -> None:
        """Take what the hospital says of itself."""
        self._site = site

    def describe(self) -> SiteCard:
        """Return who the site is."""
        return self._trainer.describe()

    def train(self, request: TrainRequest) -> Update | Refusal:
        """Run one round."""
        return self._trainer.train(request)

    def evaluate(self, request: EvaluateRequest) -> Evaluation | Refusal:
        """Measure a model."""
        return self._trainer.evaluate(request)

    @cached_property
    def _trainer(self) -> "Trainer":
        from client.trainer import Trainer  # noqa: PLC0415 - torch loads here

        return Trainer(self._site)


def run_trainer(home: SiteHome) -> None:
    """Serve until SIGTERM or SIGINT; whoever calls has chosen where logs go.

    Raises FoveaError when the site cannot start.
    """
    stop = threading.Event()
    _stop_on_signals(stop)
    with _only_one(home):
        site = read_site(home.site_file)
        if site.machine.device == "cpu":
            # Before torch loads: what a run asks for cannot reach a GPU that the site keeps back.
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        desk = Desk(home, site, LazyTrainer(local_site(home, site)), now=_now)
        audit = AuditLog(home.audit_log)
        audit.append("trainer-started", _now(), site=site.name, code=site_code_digest())
        make_folder(home.run)
        server = serve(desk, home.socket, site.limits)
        log.info("trainer started", extra={"action": "trainer_started", "site": site.name})
        threading.Thread(target=_warm, args=(desk, server, stop), name="warm", daemon=True).start()
        while not stop.wait(HEALTH_EVERY_S):
            server.refresh()
        server.drain()
        is_drained = desk.close(within_s=min(site.limits.request_s, DRAIN_S))
        server.stop(grace_s=5.0)  # for answers on their way out
        audit.append("trainer-stopped", _now(), site=site.name, drained=is_drained)
        log.info("trainer stopped", extra={"action": "trainer_stopped", "drained": is_drained})
    if not is_drained:
        # A step cannot be stopped from outside, and Python would wait for its thread for ever.
        logging.shutdown()
        os._exit(0)


def local_site(home: SiteHome, site: SiteSettings) -> LocalSite:
    """Return the site as client/trainer.py wants it."""
    return LocalSite(
        name=site.name,
        task=site.task,
        shard=home.shard,
        state=home.state / "layers",
        num_threads=site.machine.num_threads,
        processes=site.machine.processes,
    )


@contextmanager
def _only_one(home: SiteHome) -> Iterator[None]:
    """Hold the home's lock. Raises SiteError when another trainer does."""
    path = home.trainer / "trainer.lock"
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SiteError(f"{path}: {error.strerror}. Make a site with `fovea-site init`.") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise SiteError(
            f"{home.root}: a trainer of this site runs already. Stop it first."
        ) from error
    try:
        yield
    finally:
        os.close(handle)  # and with it the lock


def _warm(desk: Desk, server: Server, stop: threading.Event) -> None:
    """Open the shard, trying again where it is not there yet: the site is reachable meanwhile."""
    is_warm = False
    while not is_warm and not stop.is_set():
        try:
            desk.warm()
            server.refresh()
            is_warm = True
        except Exception:
            log.exception("the shard cannot be opened", extra={"action": "warm_failed"})
            stop.wait(WARM_AGAIN_S)


def _stop_on_signals(stop: threading.Event) -> None:
    def ask_to_stop(number: int, frame: FrameType | None) -> None:
        del frame
        log.info("stopping", extra={"action": "stopping", "signal": signal.Signals(number).name})
        stop.set()

    for number in _STOP_SIGNALS:
        signal.signal(number, ask_to_stop)


def _now() -> datetime:
    return datetime.now(UTC)
