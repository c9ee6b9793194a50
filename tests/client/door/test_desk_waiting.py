"""Who waits at a desk, for how long, and what is counted of those who come too often."""

import errno
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import numpy as np
import pytest

from client.desk.desk import LARGE_BYTES, Desk
from client.records.audit import AuditLog
from client.records.flood import MOST_A_MINUTE
from client.trust.signed_request import verified
from common.messages.kinds import QueryRequest, RefusalCode, SiteCard, Update
from common.messages.signing import PrivateKey
from hospital import CountingTrainer, Hospital, wait_until
from tests.client.door.asking import ask, by_another_key, refusal


def test_the_same_request_waits_for_itself_and_another_is_told_to_come_again(
    hospital: Hospital, desk: Desk, trainer: CountingTrainer
) -> None:
    manifest = hospital.approved()
    first, other = hospital.train_request(1), hospital.train_request(2)
    question = QueryRequest("run-1")
    trainer.may_go_on.clear()
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(ask, desk, hospital.sealed(first, manifest)) for _ in range(2)]
        assert trainer.has_begun.wait(timeout=10)
        busy = refusal(hospital, desk, hospital.sealed(other, manifest), other)
        card = hospital.opened(ask(desk, hospital.sealed(question, manifest)), question)
        is_busy = desk.report().busy_since
        wait_until(lambda: hospital.events().count("request-received") == 4, seconds=10)
        trainer.may_go_on.set()
        answers = [future.result(timeout=10) for future in asked]

    assert (busy.code, "busy" in busy.reason) == (RefusalCode.UNAVAILABLE, True)
    assert isinstance(card, SiteCard)
    assert is_busy == hospital.now
    assert answers[0] == answers[1]
    assert len(trainer.trained) == 1
    assert hospital.events().count("answer-repeated") == 1
    assert desk.report().busy_since is None
    assert desk.report().last_round == {"run-1": 1}


def test_an_asker_that_goes_away_does_not_stop_the_work(
    hospital: Hospital, desk: Desk, trainer: CountingTrainer
) -> None:
    content = hospital.sealed(hospital.train_request(), hospital.approved())
    trainer.may_go_on.clear()
    goes = threading.Timer(0.2, trainer.may_go_on.set)

    dropped = desk.answer(content, is_wanted=lambda: False)
    goes.start()
    answer = ask(desk, content)

    assert dropped is None
    assert isinstance(hospital.opened(answer, hospital.train_request()), Update)
    assert len(trainer.trained) == 1


def test_an_asker_waits_no_longer_than_the_site_allows(
    hospital: Hospital, trainer: CountingTrainer
) -> None:
    limits = hospital.settings.limits.model_copy(update={"request_s": 0.1})
    hospital.settings = hospital.settings.model_copy(update={"limits": limits})
    desk, request, manifest = hospital.desk(trainer), hospital.train_request(), hospital.approved()
    trainer.may_go_on.clear()

    answer = refusal(hospital, desk, hospital.sealed(request, manifest), request)
    trainer.may_go_on.set()
    is_closed = desk.close(within_s=10)

    assert answer.code is RefusalCode.UNAVAILABLE
    assert "still works" in answer.reason
    assert is_closed
    assert hospital.events()[-1] == "answer-released"


def test_a_closing_desk_finishes_what_it_began_and_begins_nothing(
    hospital: Hospital, desk: Desk, trainer: CountingTrainer
) -> None:
    manifest = hospital.approved()
    first, other = hospital.train_request(1), hospital.train_request(2)
    trainer.may_go_on.clear()
    with ThreadPoolExecutor(1) as pool:
        begun = pool.submit(ask, desk, hospital.sealed(first, manifest))
        assert trainer.has_begun.wait(timeout=10)
        is_over = desk.close(within_s=0.05)
        late = refusal(hospital, desk, hospital.sealed(other, manifest), other)
        trainer.may_go_on.set()
        update = hospital.opened(begun.result(timeout=10), first)

    assert not is_over
    assert (late.code, "stopping" in late.reason) == (RefusalCode.UNAVAILABLE, True)
    assert isinstance(update, Update)
    assert desk.close(within_s=10)


def test_refusals_that_anyone_can_cause_are_counted_beyond_so_many_a_minute(
    hospital: Hospital, desk: Desk
) -> None:
    forged, _ = by_another_key(hospital)
    for _ in range(MOST_A_MINUTE):
        ask(desk, forged)
    for _ in range(4):
        ask(desk, forged)
    ask(desk, b"nonsense")
    desk.turned_away("too large")
    written = hospital.events()

    hospital.now += timedelta(minutes=1)
    desk.settle()
    desk.settle()
    ask(desk, forged)

    assert written == ["request-refused"] * MOST_A_MINUTE
    assert hospital.events()[MOST_A_MINUTE:] == ["requests-refused", "request-refused"]
    counted = hospital.records()[MOST_A_MINUTE]
    assert counted["count"] == 6
    assert counted["codes"] == {"untrusted": 4, "unreadable": 1, "turned-away": 1}


def test_what_was_counted_is_written_before_the_desk_closes(hospital: Hospital, desk: Desk) -> None:
    for _ in range(MOST_A_MINUTE + 2):
        ask(desk, b"nonsense")

    desk.close(within_s=1)

    assert hospital.records()[-1]["count"] == 2


def test_what_cannot_be_written_is_counted_on(
    hospital: Hospital, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(MOST_A_MINUTE + 2):
        ask(desk, b"nonsense")
    hospital.now += timedelta(minutes=1)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patched:
        patched.setattr(AuditLog, "append", full)
        desk.settle()
    desk.settle()

    assert hospital.records()[-1]["count"] == 2


def test_of_large_requests_one_at_a_time_is_read_before_it_is_believed(
    hospital: Hospital, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    hospital.arrays = {"trunk.weight": np.zeros(LARGE_BYTES // 4 + 1, dtype=np.float32)}
    large = hospital.sealed(hospital.train_request(), hospital.manifest(), key=PrivateKey.new())
    at_once, most = 0, []
    lock = threading.Lock()

    def slowly(*arguments: object, **named: object) -> object:
        nonlocal at_once
        with lock:
            at_once += 1
            most.append(at_once)
        time.sleep(0.05)
        with lock:
            at_once -= 1
        return verified(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr("client.desk.desk.verified", slowly)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: ask(desk, large), range(4)))

    assert max(most) == 1
