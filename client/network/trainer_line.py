"""The way from connector to trainer: patient while the trainer restarts, and never in the way."""

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from client.door.service import TrainerStub
from client.network.fleet import MAX_CONTENT_BYTES
from common.errors import FoveaError, SiteError

log = logging.getLogger(__name__)

PATIENCE_S = 45.0  # a trainer that restarts loads torch and its data first
LOOK_EVERY_S = 0.5
TRIES = 2  # a request during which the trainer died is asked once more


class AskAbandonedError(SiteError):
    """This process was asked to end while the trainer works: it is asked again after the start."""


class TrainerLine:
    """Asks the trainer over its socket."""

    def __init__(
        self, socket: Path, stop: threading.Event, *, patience_s: float = PATIENCE_S
    ) -> None:
        """Take the socket's place; whether anybody listens shows when asked."""
        self._patience_s = patience_s
        self._stub = TrainerStub(socket, request_mb=MAX_CONTENT_BYTES // 2**20)
        self._stop = stop

    def ask(self, content: bytes, *, expires_at: float) -> bytes:
        """Return the trainer's answer.

        Args:
            content: The request's records.
            expires_at: Seconds of the epoch after which nobody takes an answer.

        Raises:
            SiteError: The trainer is away, or went away over this request.
            WireError: The trainer does not take a request like this, or so large a one.
            AskAbandonedError: This process was asked to end.
        """
        problem = SiteError("the trainer was not asked.")
        for _ in range(TRIES):
            self._wait_for_trainer()
            seconds_left = expires_at - datetime.now(UTC).timestamp()
            if seconds_left <= 0:
                raise SiteError("the request expired before the trainer could take it.")
            try:
                return self._interruptibly(partial(self._stub.ask, content, seconds_left))
            except AskAbandonedError:
                raise
            except SiteError as error:
                problem = error
                log.warning(
                    "the trainer did not answer: %s", error, extra={"action": "trainer_lost"}
                )
        raise problem

    def _wait_for_trainer(self) -> None:
        end = time.monotonic() + self._patience_s
        while not self._stub.is_listening(LOOK_EVERY_S):
            if self._stop.wait(LOOK_EVERY_S):
                raise AskAbandonedError("the connector was asked to end.")
            if time.monotonic() > end:
                raise SiteError("the site's trainer is not running.")

    def _interruptibly(self, ask: Callable[[], bytes]) -> bytes:
        """Ask in a thread that this process does not wait for when it ends."""
        answers: list[bytes] = []
        problems: list[FoveaError] = []
        done = threading.Event()

        def run() -> None:
            try:
                answers.append(ask())
            except FoveaError as error:
                problems.append(error)
            finally:
                done.set()

        threading.Thread(target=run, name="ask", daemon=True).start()
        while not done.wait(0.2):
            if self._stop.is_set():
                raise AskAbandonedError("the connector was asked to end.")
        if problems:
            raise problems[0]
        if not answers:
            raise SiteError("the trainer's answer was lost. See the log.")
        return answers[0]
