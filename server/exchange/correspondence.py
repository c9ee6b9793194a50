"""Conversations with many sites at once: ask, wait with patience, ask again, take what comes.

Letters asked aside are waited for by nobody: their answers are taken up whenever somebody looks.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence

from flwr.app import Message
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from common.errors import TrustError, WireError
from common.messages.kinds import (
    Evaluation,
    Keys,
    MaskedUpdate,
    Refusal,
    Release,
    Shares,
    SiteCard,
    Update,
)
from server.exchange.awaited import Awaited, NoAnswer, Patience
from server.exchange.participation import Outcome
from server.exchange.post import Letter, Post
from server.exchange.sealing import Sealing
from server.exchange.traffic import Traffic

log = logging.getLogger(__name__)

# Flower pushes no reply: it is looked for, often at first, so that a short round stays short.
FIRST_POLL_S = 0.05
LONGEST_POLL_S = 1.0
POLL_GROWTH = 1.1
PRESENCE_S = 1.0  # how often to ask which nodes are connected
_FLOWER_SAYS = "Exception ClientAppException occurred. Message: "

Came = Release | Refusal | NoAnswer
Answered = Callable[[str], None]  # told a site's name as soon as it is waited for no longer
Enough = Callable[[Mapping[str, Came]], bool]  # what came so far → need nobody else be waited for


class Correspondence:
    """All letters of a run that are under way."""

    def __init__(self, grid: Grid, sealing: Sealing, *, stop: Callable[[], bool]) -> None:
        """Speak over a grid until ``stop``, asked between two looks for replies, says so."""
        self._post = Post(grid, sealing)
        self._sealing = sealing
        self._stop = stop
        self._connections: dict[int, str] = {}  # node → since when, as of the last look
        self._gone_since: dict[int, float] = {}
        self._look_at = 0.0
        self._aside: list[Letter] = []
        self._came_aside: list[tuple[Letter, Came]] = []

    @property
    def late_replies(self) -> int:
        """How many answers came when they were no longer wanted."""
        return self._post.late_replies

    @property
    def traffic(self) -> Traffic:
        """How much went out and came in so far."""
        return self._post.traffic

    def connections(self) -> Mapping[int, str]:
        """Look which nodes are there now, each with since when."""
        self._look_at = 0.0
        return self._look()

    def converse(
        self,
        letters: Sequence[Letter],
        patience: Patience,
        answered: Answered,
        *,
        enough: Enough | None = None,
    ) -> dict[str, Came]:
        """Send one letter per site and return what came of each; stopped, of those that answered.

        A site is asked again when its node comes back, when it says that it cannot just now, and a
        few times when its process failed; always in the same words. ``enough`` is asked whenever
        something came: once it says so the others are left out of the result.
        """
        now = time.monotonic()
        awaited = {letter: Awaited(letter.site, patience, now=now) for letter in letters}
        found: dict[str, Came] = {}

        def settle(letter: Letter, what: Came) -> None:
            del awaited[letter]
            self._post.forget(letter)
            found[letter.site] = what
            answered(letter.site)

        poll_s, is_enough = FIRST_POLL_S, False
        while awaited:
            before = len(found)
            if self._ask_those_due(awaited, patience):
                poll_s = FIRST_POLL_S
            for letter, reply in self._collect():
                if letter in awaited:
                    what = self._weigh(reply, letter, awaited[letter])
                    if what is not None:
                        settle(letter, what)
            now = time.monotonic()
            for letter in list(awaited):
                given_up = awaited[letter].given_up(now=now)
                if given_up is not None:
                    settle(letter, given_up)
            is_enough = enough is not None and len(found) > before and enough(found)
            if awaited and (is_enough or self._stopped_within(poll_s)):
                break
            poll_s = min(poll_s * POLL_GROWTH, LONGEST_POLL_S)
        for letter in awaited:
            self._post.forget(letter, as_late=not is_enough)
        return found

    def ask_aside(self, letters: Sequence[Letter], *, lasting_s: float) -> None:
        """Send letters whose answers :meth:`came_aside` gives, for as long as they last."""
        self._aside += self._post.send(letters, timeout_s=lasting_s)

    def is_asked_aside(self, site: str) -> bool:
        """Say whether an answer of this site may still come aside."""
        return any(letter.site == site for letter in self._aside)

    def came_aside(self) -> list[tuple[Letter, Came]]:
        """Return what has come for letters asked aside, each once."""
        if self._aside:
            self._look()
            self._collect()
        came, self._came_aside = self._came_aside, []
        return came

    def wait_aside(self, sites: Sequence[str], *, wait_s: float) -> None:
        """Wait until these have answered what they were asked aside, no longer than ``wait_s``."""
        until, poll_s = time.monotonic() + wait_s, FIRST_POLL_S
        while any(self.is_asked_aside(site) for site in sites) and time.monotonic() < until:
            self._look()
            self._collect()
            if self._stopped_within(poll_s):
                return
            poll_s = min(poll_s * POLL_GROWTH, LONGEST_POLL_S)

    def _look(self) -> Mapping[int, str]:
        now = time.monotonic()
        if now >= self._look_at:
            before, self._connections = self._connections, self._post.present()
            self._look_at = now + PRESENCE_S
            for node in set(before) - set(self._connections):
                self._gone_since[node] = now
            for node in self._connections:
                self._gone_since.pop(node, None)
        return self._connections

    def _ask_those_due(self, awaited: Mapping[Letter, Awaited], patience: Patience) -> bool:
        """Ask whoever is to be asked now; say whether anyone was."""
        connections, now = self._look(), time.monotonic()
        for letter, one in awaited.items():
            connection = connections.get(letter.node)
            if connection is None:
                self._gone_since.setdefault(letter.node, now)
            one.see(connection, gone_since=self._gone_since.get(letter.node), now=now)
        due = [letter for letter, one in awaited.items() if one.is_due(now=now)]
        sent = self._post.send(due, timeout_s=patience.timeout_s)
        now = time.monotonic()  # sending models takes a while
        for letter in due:
            if letter in sent:
                awaited[letter].asked(now=now)
            else:
                awaited[letter].not_reached(now=now)
        return bool(sent)

    def _collect(self) -> list[tuple[Letter, Message]]:
        """Return what came for conversations; lay aside what was asked aside."""
        came = []
        for letter, reply in self._post.collect(self._connections):
            if letter in self._aside:
                self._aside.remove(letter)
                self._came_aside.append((letter, self._read(reply, letter)))
            else:
                came.append((letter, reply))
        return came

    def _weigh(self, reply: Message, letter: Letter, one: Awaited) -> Came | None:
        """Return what a reply amounts to, None when there is reason to wait on."""
        now = time.monotonic()
        if reply.has_error():
            if self._post.awaits(letter):
                return None  # of an earlier copy; the later one is under way
            if reply.error.code == ErrorCode.NODE_UNAVAILABLE:
                self._look_at = 0.0
                one.not_reached(now=now)
                return None
            return one.failed(reply.error.code, _last_line(reply.error.reason), now=now)
        answer = self._read(reply, letter)
        return one.refused(answer, now=now) if isinstance(answer, Refusal) else answer

    def _read(self, reply: Message, letter: Letter) -> Came:
        if reply.has_error():
            return NoAnswer(letter.site, Outcome.FAILED, _last_line(reply.error.reason))
        try:
            answer = self._opened(reply, letter)
        except WireError as error:
            return NoAnswer(letter.site, Outcome.REJECTED, str(error))
        except TrustError as error:
            log.warning(
                "answer is not the site's own: %s",
                error,
                extra={"action": "untrusted_answer", "site": letter.site},
            )
            return NoAnswer(letter.site, Outcome.REJECTED, str(error))
        if letter.is_named and isinstance(answer, Refusal):
            # A site that cannot tell its name still has a reason.
            return Refusal(letter.site, answer.code, answer.reason)
        if letter.is_named and answer.site != letter.site:
            reason = f"it answered in the name of {answer.site!r}"
            return NoAnswer(letter.site, Outcome.REJECTED, reason)
        return answer

    def _opened(self, reply: Message, letter: Letter) -> Release | Refusal:
        content, request, site = reply.content, letter.request, letter.site
        if letter.kind is SiteCard:
            return self._sealing.open(content, SiteCard, request=request, site=site)
        if letter.kind is Update:
            return self._sealing.open(content, Update, request=request, site=site)
        if letter.kind is MaskedUpdate:
            return self._sealing.open(content, MaskedUpdate, request=request, site=site)
        if letter.kind is Keys:
            return self._sealing.open(content, Keys, request=request, site=site)
        if letter.kind is Shares:
            return self._sealing.open(content, Shares, request=request, site=site)
        return self._sealing.open(content, Evaluation, request=request, site=site)

    def _stopped_within(self, seconds: float) -> bool:
        if not self._stop():
            time.sleep(seconds)
        return self._stop()


def _last_line(reason: str | None) -> str:
    """Return what a traceback ends with; the rest is for the site's own log."""
    lines = [line.strip() for line in (reason or "").splitlines() if line.strip()]
    if not lines:
        return "its process gave no reason"
    return lines[-1].rstrip("'>").removeprefix(_FLOWER_SAYS)
