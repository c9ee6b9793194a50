"""What a desk says to honest requests, once or again, and where something breaks inside."""

import errno
import shutil
from dataclasses import replace

import numpy as np
import pytest

from client.desk.answers import Answers
from client.desk.desk import Desk
from client.guard.reasons import Told
from client.records.audit import verify
from common.errors import ConfigError, DataError
from common.messages.kinds import (
    Evaluation,
    QueryRequest,
    Refusal,
    RefusalCode,
    SiteCard,
    TrainRequest,
    Update,
)
from common.messages.record_bytes import from_bytes, to_bytes
from hospital import CountingTrainer, Hospital
from tests.client.door.asking import ask, refusal


def test_an_honest_round_is_trained_stored_audited_and_signed(
    hospital: Hospital, desk: Desk, trainer: CountingTrainer
) -> None:
    request = hospital.train_request()

    update = hospital.opened(ask(desk, hospital.sealed(request, hospital.approved())), request)

    assert isinstance(update, Update)
    assert update.evaluation == {"auroc": 0.75}
    assert len(trainer.trained) == 1
    assert hospital.events() == ["request-received", "request-permitted", "answer-released"]
    released = hospital.records()[-1]
    assert (released["run"], released["round"], released["arrays"]) == ("run-1", 1, 2)
    assert verify(hospital.home.audit_log).problems == ()


def test_a_question_is_answered_with_counts_and_audited(hospital: Hospital, desk: Desk) -> None:
    request = QueryRequest("run-1")

    card = hospital.opened(ask(desk, hospital.sealed(request, hospital.approved())), request)

    assert isinstance(card, SiteCard)
    assert (card.num_examples, card.num_val) == (14, 4)
    assert hospital.events() == ["request-received", "answer-released"]


def test_a_repeat_gets_the_stored_bytes_and_is_not_trained_again(
    hospital: Hospital, desk: Desk, trainer: CountingTrainer
) -> None:
    content = hospital.sealed(hospital.train_request(), hospital.approved())
    first = ask(desk, content)

    again = ask(desk, content)
    after_a_restart = ask(hospital.desk(trainer), content)

    assert first == again == after_a_restart
    assert len(trainer.trained) == 1
    assert hospital.events()[3:] == ["request-received", "answer-repeated"] * 2


def test_a_crash_before_storing_trains_again_and_after_it_does_not(
    hospital: Hospital, trainer: CountingTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    class PowerCutError(BaseException):
        pass

    def cut(*_: object, **__: object) -> None:
        raise PowerCutError

    content = hospital.sealed(hospital.train_request(), hospital.approved())
    with monkeypatch.context() as patched:
        patched.setattr(Answers, "store", cut)
        with pytest.raises(PowerCutError):
            hospital.desk(trainer).answer(content, is_wanted=lambda: True)
    first = ask(hospital.desk(trainer), content)
    again = ask(hospital.desk(trainer), content)

    assert len(trainer.trained) == 2
    assert first == again


def test_replayed_and_reordered_requests_are_out_of_order(
    hospital: Hospital, desk: Desk, trainer: CountingTrainer
) -> None:
    manifest = hospital.approved()
    rounds = {number: hospital.train_request(number) for number in (1, 2, 3)}
    ask(desk, hospital.sealed(rounds[1], manifest))
    ask(desk, hospital.sealed(rounds[3], manifest))
    another = hospital.train_request(3, proximal_mu=0.5)

    late = [
        refusal(hospital, desk, hospital.sealed(request, manifest), request)
        for request in (rounds[1], rounds[2], another)
    ]

    assert {answer.code for answer in late} == {RefusalCode.OUT_OF_ORDER}
    assert len(trainer.trained) == 2
    assert hospital.events()[-1] == "request-refused"


def test_one_model_is_measured_once(
    hospital: Hospital, desk: Desk, trainer: CountingTrainer
) -> None:
    manifest = hospital.approved()
    first, measured, after = (
        hospital.train_request(1),
        hospital.evaluate_request(1),
        hospital.train_request(2),
    )
    ask(desk, hospital.sealed(first, manifest))
    evaluation = hospital.opened(ask(desk, hospital.sealed(measured, manifest)), measured)

    update = hospital.opened(ask(desk, hospital.sealed(after, manifest)), after)

    assert isinstance(evaluation, Evaluation)
    assert isinstance(update, Update)
    assert update.evaluation == {}
    assert [request.evaluates for request in trainer.trained] == [True, False]


def test_the_last_rounds_answer_is_repeated_though_all_rounds_were_trained(
    hospital: Hospital, desk: Desk
) -> None:
    manifest = hospital.approved()
    contents = [hospital.sealed(hospital.train_request(n), manifest) for n in (1, 2, 3, 4)]
    answers = [ask(desk, content) for content in contents]

    assert ask(desk, contents[-1]) == answers[-1]


@pytest.mark.parametrize(
    ("failure", "code", "says"),
    [
        (OSError(errno.ENOSPC, "no space", "/data/patient-7.png"), "unavailable", "disk is full"),
        (MemoryError(), "unavailable", "memory is full"),
        (DataError("/data/patient-7.png: damaged"), "unable", "its log says why"),
        (ConfigError("/data/patient-7"), "unavailable", "settings"),
        (ValueError("patient-7"), "unable", "ValueError; its log says more"),
    ],
)
def test_what_breaks_inside_is_told_by_its_kind_alone_and_can_be_asked_again(
    hospital: Hospital, trainer: CountingTrainer, failure: Exception, code: str, says: str
) -> None:
    desk, manifest, request = hospital.desk(trainer), hospital.approved(), hospital.train_request()
    trainer.failure = failure

    answer = refusal(hospital, desk, hospital.sealed(request, manifest), request)

    assert (answer.code, says in answer.reason) == (code, True)
    assert "patient-7" not in answer.reason
    assert "patient-7" not in hospital.home.audit_log.read_text()
    trainer.failure = None
    assert isinstance(
        hospital.opened(ask(desk, hospital.sealed(request, manifest)), request), Update
    )


def test_an_update_with_an_array_that_was_not_asked_for_stays_at_the_site(
    hospital: Hospital, trainer: CountingTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = trainer.train

    def with_pictures(request: TrainRequest) -> Update:
        update = honest(request)
        assert isinstance(update, Update)
        arrays = {**update.arrays, "pictures": np.zeros((2, 2), dtype=np.float32)}
        return replace(update, arrays=arrays)

    monkeypatch.setattr(trainer, "train", with_pictures)
    request = hospital.train_request()

    answer = refusal(
        hospital, hospital.desk(trainer), hospital.sealed(request, hospital.approved()), request
    )

    assert answer.code is RefusalCode.UNABLE
    assert answer.reason == "an array that was not asked for"


def test_too_little_disk_is_said_before_anything_is_done(
    hospital: Hospital, trainer: CountingTrainer
) -> None:
    free_mb = shutil.disk_usage(hospital.home.trainer).free // 2**20
    limits = hospital.settings.limits.model_copy(update={"min_free_disk_mb": 2 * free_mb})
    hospital.settings = hospital.settings.model_copy(update={"limits": limits})
    desk, request = hospital.desk(trainer), hospital.train_request()

    answer = refusal(hospital, desk, hospital.sealed(request, hospital.approved()), request)

    assert answer.code is RefusalCode.UNAVAILABLE
    assert "disk has" in answer.reason
    assert trainer.trained == []
    assert any("disk has" in reason for reason in desk.report().reasons)


def test_a_damaged_audit_log_lets_nothing_leave_but_the_reason(
    hospital: Hospital, desk: Desk, trainer: CountingTrainer
) -> None:
    manifest = hospital.approved()
    ask(desk, hospital.sealed(hospital.train_request(1), manifest))
    log = hospital.home.audit_log
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:1]))
    request = hospital.train_request(2)

    answer = refusal(hospital, desk, hospital.sealed(request, manifest), request)

    assert answer.code is RefusalCode.UNAVAILABLE
    assert "audit log" in answer.reason
    assert len(trainer.trained) == 1


def test_a_site_without_keys_policy_or_shard_says_so(
    hospital: Hospital, trainer: CountingTrainer
) -> None:
    desk = hospital.desk(trainer)
    assert "shard" in desk.report().reasons[0]
    desk.warm()
    assert desk.report().able

    hospital.home.run_keys.write_text("# none\n")
    hospital.home.policy_file.unlink()
    hospital.home.pause_marker.parent.mkdir(exist_ok=True)
    hospital.home.pause_marker.touch()

    report = desk.report()
    assert not report.able
    assert report.is_paused
    assert len(report.reasons) == 3


def test_records_go_through_the_desk_like_bytes(hospital: Hospital, desk: Desk) -> None:
    request = hospital.train_request()

    answer = desk.ask(from_bytes(hospital.sealed(request, hospital.approved())))

    assert isinstance(hospital.opened(to_bytes(answer), request), Update)


def test_a_refusal_of_the_trainer_is_passed_on_signed(
    hospital: Hospital, trainer: CountingTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    no = Refusal("north", RefusalCode.UNABLE, "no training pictures")
    monkeypatch.setattr(trainer, "train", lambda _request: no)
    request = hospital.train_request()

    answer = refusal(
        hospital, hospital.desk(trainer), hospital.sealed(request, hospital.approved()), request
    )

    assert vars(answer) == vars(no)


def test_a_repeat_is_audited_like_the_release(hospital: Hospital, desk: Desk) -> None:
    content = hospital.sealed(hospital.train_request(), hospital.approved())
    ask(desk, content)
    released = hospital.records()[-1]

    ask(desk, content)

    repeated = hospital.records()[-1]
    assert repeated["event"] == "answer-repeated"
    outline = ("answer", "num_examples", "arrays_digest", "metric_names", "evaluation_names")
    assert [repeated[key] for key in outline] == [released[key] for key in outline]


def test_the_reason_that_leaves_is_the_one_in_the_log(
    hospital: Hospital, trainer: CountingTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told("\x1b[2J" + "long " * 400, depends_on_pictures=False)
    monkeypatch.setattr("client.desk.workbench.told_of", lambda _reason, *, arrays: told)
    no = Refusal("north", RefusalCode.UNABLE, "no training pictures")
    monkeypatch.setattr(trainer, "train", lambda _request: no)
    request = hospital.train_request()

    answer = refusal(
        hospital, hospital.desk(trainer), hospital.sealed(request, hospital.approved()), request
    )

    assert answer.reason == hospital.records()[-1]["reason"]
    assert answer.reason.startswith("\\x1b[2Jlong")
    assert len(answer.reason) == 500


def test_the_report_tells_the_connector_nothing_of_patients(hospital: Hospital, desk: Desk) -> None:
    desk.warm()

    assert "14" not in desk.report().model_dump_json()
