"""What the person at the terminal reads while a run goes on."""

import io

import pytest
from rich.console import Console

from server.exchange.participation import Outcome, Reply
from server.journal.watching import PreparationBars, RoundBars

ROUNDS = 3


@pytest.fixture
def screen() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def console(screen: io.StringIO) -> Console:
    return Console(file=screen, force_terminal=True, no_color=True, width=120)


def last_frame(screen: io.StringIO) -> str:
    """What is on the screen now: the text after the last time rich went back to redraw."""
    return screen.getvalue().rpartition("\x1b[2K")[2]


class Frames:
    """A terminal whose screen can be read after each step."""

    def __init__(self, console: Console, screen: io.StringIO) -> None:
        self.console, self._screen = console, screen

    def now(self, bars: PreparationBars | RoundBars) -> str:
        bars._bars.refresh()
        return last_frame(self._screen)


@pytest.fixture
def frames(console: Console, screen: io.StringIO) -> Frames:
    return Frames(console, screen)


def test_every_shard_has_a_bar_of_its_own(frames: Frames) -> None:
    with PreparationBars(frames.console) as bars:
        bars("north", 3, 20)
        bars("reference-chestx", 1, 8)
        bars("north", 20, 20)
        shown = frames.now(bars)

    assert [line.split()[1] for line in shown.splitlines()] == ["north", "reference-chestx"]
    assert "20/20" in shown.splitlines()[0]
    assert "1/8" in shown.splitlines()[1]


def test_finished_shards_stay_on_the_screen(console: Console, screen: io.StringIO) -> None:
    with PreparationBars(console) as bars:
        bars("north", 20, 20)

    assert "20/20" in last_frame(screen)


def test_sites_that_have_not_come_are_named(frames: Frames) -> None:
    with RoundBars(frames.console, rounds=ROUNDS) as bars:
        bars.waiting_for(["north", "valley"])
        assert "waiting for north, valley" in frames.now(bars)


def test_round_counts_answers_and_names_whom_it_still_waits_for(frames: Frames) -> None:
    with RoundBars(frames.console, rounds=ROUNDS) as bars:
        bars.round_started(2, rounds=ROUNDS, sites=["north", "valley", "coast"])
        assert "round 2/3: north, valley, coast train" in frames.now(bars)
        bars.site_answered("valley")
        shown = frames.now(bars)

    assert "waiting for coast, north" in shown
    assert "1/3" in shown.splitlines()[-1]


@pytest.mark.parametrize(
    ("server_round", "sentence"),
    [(0, "measuring the untrained model"), (2, "measuring the model of round 2")],
)
def test_measuring_is_said(frames: Frames, server_round: int, sentence: str) -> None:
    with RoundBars(frames.console, rounds=ROUNDS) as bars:
        bars.evaluating(server_round, sites=[])
        assert sentence in frames.now(bars)


def test_every_site_without_an_update_gets_a_sentence_with_its_reason(
    console: Console, screen: io.StringIO
) -> None:
    replies = [
        Reply("north", Outcome.ANSWERED, ""),
        Reply("valley", Outcome.REFUSED, "not on a Sunday"),
        Reply("coast", Outcome.MISSING, "no answer in 60 s"),
        Reply("lakeside", Outcome.FAILED, "[Errno 28] No space left on device"),
    ]
    with RoundBars(console, rounds=ROUNDS) as bars:
        bars.round_finished(1, replies=replies)

    shown = screen.getvalue()
    assert "round 1: valley refused: not on a Sunday" in shown
    assert "round 1: coast missing: no answer in 60 s" in shown
    # Brackets are the site's words, not markup.
    assert "round 1: lakeside failed: [Errno 28] No space left on device" in shown
    assert "north" not in shown


def test_finished_rounds_stay_and_the_line_on_what_happens_now_goes(
    console: Console, screen: io.StringIO
) -> None:
    with RoundBars(console, rounds=ROUNDS) as bars:
        bars.round_finished(3, replies=[])

    assert "3/3" in last_frame(screen)
    assert "starting" not in last_frame(screen)


def test_without_a_terminal_the_sentences_are_whole_lines() -> None:
    pipe = io.StringIO()
    reason = "its shard cannot be used; the site's log says why"
    with RoundBars(Console(file=pipe, width=200), rounds=ROUNDS) as bars:
        bars.round_finished(1, replies=[Reply("valley", Outcome.REFUSED, reason)])

    assert f"round 1: valley refused: {reason}" in pipe.getvalue().splitlines()
