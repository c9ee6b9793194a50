"""The trainer's process: one per site, long-lived, with the data and without the network.

Start: lock, desk, service, then warm up in the background. Stop on SIGTERM: take nothing new,
finish and store what is begun, within a bound; whatever is cut off is simply asked again, since
nothing of it was released.
"""

import logging
import os
import signal
import threading
from datetime import UTC, datetime
from types import FrameType
from typing import TYPE_CHECKING

from client.desk.desk import Desk
from client.door.service import Server, serve
from client.home.folders import SiteHome
from client.home.ownership import make_folder
from client.home.site import SiteSettings, read_site
from client.records.audit import AuditLog
from common.errors import SiteError
from common.files.lock import Lock
from common.local_site import LocalSite
from common.messages.code_digest import site_code_digest
from common.messages.kinds import (
    EvaluateRequest,
    Evaluation,
    Refusal,
    SiteCard,
    TrainRequest,
    Update,
)

if TYPE_CHECKING:
    from client.training.trainer import Trainer

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
        self._lock = threading.Lock()
        self._current: Trainer | None = None
        self._former: list[Trainer] = []  # of shards that were exchanged

    def describe(self) -> SiteCard:
        """Return who the site is."""
        return self._trainer().describe()

    def architecture_digest(self, config_json: str) -> str:
        """Return the digest of the whole network that is built for a configuration."""
        return self._trainer().architecture_digest(config_json)

    def train(self, request: TrainRequest) -> Update | Refusal:
        """Run one round."""
        return self._at_work().train(request)

    def evaluate(self, request: EvaluateRequest) -> Evaluation | Refusal:
        """Measure a model."""
        return self._at_work().evaluate(request)

    def reopen(self) -> None:
        """Open the shard anew with the next call; what is going on ends with the former."""
        with self._lock:
            if self._current is not None:
                self._former.append(self._current)
                self._current = None

    def _at_work(self) -> "Trainer":
        """Return the trainer of the shard that lies there, the former ones' processes ended.

        Only one request is worked on at a time, so none of the former is at work.
        """
        with self._lock:
            former, self._former = self._former, []
        for each in former:
            each.close()
        return self._trainer()

    def _trainer(self) -> "Trainer":
        from client.training.trainer import Trainer  # noqa: PLC0415 - torch loads here

        with self._lock:
            if self._current is None:
                self._current = Trainer(self._site)
            return self._current


def run_trainer(home: SiteHome) -> None:
    """Serve until SIGTERM or SIGINT; whoever calls has chosen where logs go.

    Raises FoveaError when the site cannot start.
    """
    stop = threading.Event()
    _stop_on_signals(stop)
    taken = "a trainer of this site runs already. Stop it first."
    with Lock(home.trainer_lock, taken, error=SiteError):
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
            desk.settle()
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
    """Return the site as client/training/trainer.py wants it."""
    return LocalSite(
        name=site.name,
        task=site.task,
        shard=home.shard,
        state=home.layers,
        num_threads=site.machine.num_threads,
        processes=site.machine.processes,
    )


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
