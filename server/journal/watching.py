"""Progress bars for the person at the terminal: reading pictures, rounds, sites."""

import threading
from collections.abc import Sequence

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from server.exchange.participation import Outcome, Reply


class PreparationBars:
    """One bar per shard that is being read."""

    def __init__(self, console: Console) -> None:
        """Show on a console; use as a context manager."""
        self._bars = bars(console)
        self._known: dict[str, TaskID] = {}

    def __enter__(self) -> "PreparationBars":
        """Start drawing."""
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the finished bars on the screen."""
        self._bars.stop()

    def __call__(self, name: str, done: int, total: int) -> None:
        """Take in how far the reading of one shard is."""
        if name not in self._known:
            self._known[name] = self._bars.add_task(f"pictures  {name}", total=total)
        self._bars.update(self._known[name], completed=done, total=total)


class RoundBars:
    """A bar over the rounds, one line on what happens now, one sentence per site that failed.

    Its methods are called from the thread that runs the rounds.
    """

    def __init__(self, console: Console, *, rounds: int) -> None:
        """Show on a console; use as a context manager."""
        self._console = console
        self._bars = bars(console)
        self._lock = threading.Lock()
        self._rounds = self._bars.add_task("rounds", total=rounds)
        self._now = self._bars.add_task("starting Flower's engine", total=None)
        self._waiting: set[str] = set()

    def __enter__(self) -> "RoundBars":
        """Start drawing."""
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Take away the line on what happens now, leave the rounds."""
        self._bars.remove_task(self._now)
        self._bars.stop()

    def waiting_for(self, sites: Sequence[str]) -> None:
        """Say which sites have not come yet."""
        self._say(f"waiting for {', '.join(sites)}", total=len(sites))

    def round_started(self, server_round: int, *, rounds: int, sites: Sequence[str]) -> None:
        """Say who trains."""
        with self._lock:
            self._waiting = set(sites)
        self._say(f"round {server_round}/{rounds}: {', '.join(sites)} train", total=len(sites))

    def site_answered(self, site: str) -> None:
        """Count an answer, and say whom the round still waits for."""
        with self._lock:
            self._waiting.discard(site)
            still = ", ".join(sorted(self._waiting))
        self._bars.advance(self._now)
        if still:
            self._bars.update(self._now, description=f"waiting for {still}")

    def evaluating(self, server_round: int, *, sites: Sequence[str]) -> None:
        """Say that the model is being measured."""
        with self._lock:
            self._waiting = set(sites)
        model = "untrained model" if server_round == 0 else f"model of round {server_round}"
        self._say(f"measuring the {model}", total=len(sites) or None)

    def round_finished(self, server_round: int, *, replies: Sequence[Reply]) -> None:
        """Count the round and name every site that brought nothing."""
        self._bars.update(self._rounds, completed=server_round)
        for reply in replies:
            if reply.outcome is not Outcome.ANSWERED:
                sentence = f"round {server_round}: {reply.site} {reply.outcome}: {reply.reason}"
                self._console.print(sentence, style="yellow", markup=False, highlight=False)

    def _say(self, text: str, *, total: int | None) -> None:
        self._bars.reset(self._now, description=text, total=total)


def bars(console: Console) -> Progress:
    """Return bars of the one look that all of Fovea's have."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )
