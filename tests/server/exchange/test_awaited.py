"""How long a site is waited for: pure, so that minutes pass in no time."""

import pytest
from flwr.common.constant import ErrorCode

from common.messages.kinds import Refusal, RefusalCode
from server.exchange.awaited import Awaited, NoAnswer, Patience
from server.exchange.participation import Outcome

PATIENCE = Patience(timeout_s=3600.0, grace_s=180.0, passing=frozenset({RefusalCode.UNAVAILABLE}))
AWAY = Refusal("valley", RefusalCode.UNAVAILABLE, "its trainer is away")


@pytest.fixture
def valley() -> Awaited:
    """A site that was asked at second 0 over its first connection."""
    made = Awaited("valley", PATIENCE, now=0.0)
    made.see("first", gone_since=None, now=0.0)
    assert made.is_due(now=0.0)
    made.asked(now=0.0)
    return made


def missing(reason: str) -> NoAnswer:
    return NoAnswer("valley", Outcome.MISSING, reason)


def test_a_silent_site_is_waited_for_until_the_round_s_time_is_over(valley: Awaited) -> None:
    assert valley.given_up(now=3599.0) is None
    assert valley.given_up(now=3600.0) == missing("no answer within 3600 s")


def test_a_node_that_left_has_its_grace_and_is_then_named(valley: Awaited) -> None:
    valley.see(None, gone_since=100.0, now=101.0)

    assert valley.given_up(now=279.0) is None
    assert valley.given_up(now=280.0) == missing("its node left and did not come back within 180 s")


def test_a_node_that_left_shortly_before_the_end_is_given_up_with_the_round(
    valley: Awaited,
) -> None:
    valley.see(None, gone_since=3590.0, now=3590.0)

    assert valley.given_up(now=3600.0) == missing("its node left and was not back in time")


def test_a_node_that_comes_back_is_asked_again_once(valley: Awaited) -> None:
    valley.see(None, gone_since=100.0, now=100.0)
    assert not valley.is_due(now=150.0)

    valley.see("second", gone_since=None, now=160.0)

    assert valley.is_due(now=160.0)
    valley.asked(now=160.0)
    valley.see("second", gone_since=None, now=161.0)
    assert not valley.is_due(now=161.0)
    assert valley.given_up(now=300.0) is None


def test_a_node_that_was_away_between_two_looks_is_asked_again(valley: Awaited) -> None:
    valley.see("second", gone_since=None, now=1.0)

    assert valley.is_due(now=1.0)


def test_a_site_that_was_away_for_long_before_it_is_asked_holds_nothing_up() -> None:
    made = Awaited("valley", PATIENCE, now=1000.0)
    made.see(None, gone_since=500.0, now=1000.0)

    assert not made.is_due(now=1000.0)
    assert made.given_up(now=1000.0) == missing("its node was not connected")


def test_a_refusal_that_may_pass_is_asked_again_with_growing_pauses(valley: Awaited) -> None:
    now, pauses = 0.0, []
    for _ in range(6):
        assert valley.refused(AWAY, now=now) is None
        begun = now
        while not valley.is_due(now=now):
            now += 0.5
        pauses.append(now - begun)
        valley.asked(now=now)

    assert pauses == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_a_refusal_that_does_not_pass_within_the_grace_is_the_answer(valley: Awaited) -> None:
    assert valley.refused(AWAY, now=10.0) is None
    valley.asked(now=11.0)
    assert valley.refused(AWAY, now=189.0) is None
    valley.asked(now=189.5)
    assert valley.refused(AWAY, now=190.0) is AWAY


def test_a_site_that_had_taken_the_request_up_has_a_grace_of_its_own_when_it_then_cannot(
    valley: Awaited,
) -> None:
    assert valley.refused(AWAY, now=0.5) is None
    valley.asked(now=1.5)

    assert valley.refused(AWAY, now=1800.0) is None  # its trainer restarted after half an hour

    assert valley.is_due(now=1801.0)
    valley.asked(now=1801.0)
    assert valley.refused(AWAY, now=1979.0) is None
    valley.asked(now=1979.5)
    assert valley.refused(AWAY, now=1980.0) is AWAY


def test_a_site_that_says_again_and_again_that_it_still_works_is_waited_for(
    valley: Awaited,
) -> None:
    working = Refusal("valley", RefusalCode.UNAVAILABLE, "still works on this request")

    for now in (900.0, 1800.0, 2700.0):
        assert valley.refused(working, now=now) is None
        assert valley.is_due(now=now + 1.0)
        valley.asked(now=now + 1.0)

    assert valley.given_up(now=3599.0) is None
    assert valley.given_up(now=3600.0) is working


@pytest.mark.parametrize(
    "code", [code for code in RefusalCode if code is not RefusalCode.UNAVAILABLE]
)
def test_every_other_refusal_is_final_within_a_round(valley: Awaited, code: RefusalCode) -> None:
    refusal = Refusal("valley", code, "no")

    assert valley.refused(refusal, now=1.0) is refusal


def test_at_the_end_the_last_refusal_is_what_is_said() -> None:
    patience = Patience(60.0, 60.0, frozenset({RefusalCode.NOT_APPROVED}))
    made = Awaited("valley", patience, now=0.0)
    made.see("first", gone_since=None, now=0.0)
    waiting = Refusal("valley", RefusalCode.NOT_APPROVED, "waits for approval")

    made.asked(now=0.0)
    made.refused(waiting, now=1.0)

    assert made.given_up(now=60.0) is waiting


def test_a_process_that_fails_is_tried_three_times(valley: Awaited) -> None:
    crash = ErrorCode.CLIENT_APP_CRASHED

    assert valley.failed(crash, "it died", now=0.0) is None
    assert not valley.is_due(now=0.5)
    assert valley.is_due(now=1.0)
    assert valley.failed(crash, "it died", now=2.0) is None
    assert valley.failed(crash, "it died", now=5.0) == NoAnswer(
        "valley", Outcome.FAILED, "it died (asked 3 times)"
    )


@pytest.mark.parametrize("code", [ErrorCode.CLIENT_APP_RAISED_EXCEPTION, ErrorCode.INVALID_FAB])
def test_code_that_ran_and_failed_is_not_tried_again(valley: Awaited, code: int) -> None:
    assert valley.failed(code, "MemoryError", now=0.0) == NoAnswer(
        "valley", Outcome.FAILED, "MemoryError"
    )
