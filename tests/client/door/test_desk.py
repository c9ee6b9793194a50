"""What the desk says to honest requests, and to forged, altered, replayed and late ones."""

import errno
import json
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from client.consent.approvals import Approvals
from client.desk.answers import Answers
from client.desk.desk import LARGE_BYTES, Desk
from client.guard.reasons import Told
from client.records.audit import AuditLog, verify
from client.records.flood import MOST_A_MINUTE
from client.trust.signed_request import verified
from common.config_file import canonical_json
from common.digests import text_digest
from common.errors import ConfigError, DataError
from common.manifest import PURPOSE, ManifestSite, SignedManifest
from common.record_bytes import from_bytes, to_bytes
from common.signing import PrivateKey
from common.wire import (
    Evaluation,
    QueryRequest,
    Refusal,
    RefusalCode,
    Request,
    SiteCard,
    TrainRequest,
    Update,
    decode_answer,
)
from hospital import CountingTrainer, Hospital, wait_until


@pytest.fixture
def desk(hospital: Hospital, trainer: CountingTrainer) -> Desk:
    return hospital.desk(trainer)


def ask(desk: Desk, content: bytes) -> bytes:
    answer = desk.answer(content, is_wanted=lambda: True)
    assert answer is not None
    return answer


def refusal(hospital: Hospital, desk: Desk, content: bytes, request: Request) -> Refusal:
    answer = hospital.opened(ask(desk, content), request)
    assert isinstance(answer, Refusal), answer
    return answer


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


Forge = Callable[[Hospital], tuple[bytes, Request]]


def by_another_key(hospital: Hospital) -> tuple[bytes, Request]:
    request = hospital.train_request()
    return hospital.sealed(request, hospital.approved(), key=PrivateKey.new()), request


def with_anothers_manifest(hospital: Hospital) -> tuple[bytes, Request]:
    stranger = replace(hospital, run_key=PrivateKey.new())
    request = hospital.train_request()
    return hospital.sealed(request, stranger.approved()), request


def altered_on_the_way(hospital: Hospital) -> tuple[bytes, Request]:
    request = hospital.train_request()
    content = from_bytes(hospital.sealed(request, hospital.approved()))
    content.config_records["fovea"]["proximal-mu"] = 0.5
    return to_bytes(content), replace(request, proximal_mu=0.5)


def with_another_model(hospital: Hospital) -> tuple[bytes, Request]:
    manifest = hospital.approved()
    request = hospital.train_request()
    changed = {name: array + 1 for name, array in hospital.arrays.items()}
    other = hospital.train_request(arrays=changed)
    content = from_bytes(hospital.sealed(request, manifest))
    content["arrays"] = from_bytes(hospital.sealed(other, manifest))["arrays"]
    return to_bytes(content), other


def of_an_expired_run(hospital: Hospital) -> tuple[bytes, Request]:
    request = hospital.train_request()
    content = hospital.sealed(request, hospital.approved())
    hospital.now += timedelta(days=7)
    return content, request


def for_another_site(hospital: Hospital) -> tuple[bytes, Request]:
    request = hospital.train_request()
    return hospital.sealed(request, hospital.approved(), site="harbour"), request


def of_other_code(hospital: Hospital) -> tuple[bytes, Request]:
    request = hospital.train_request()
    return hospital.sealed(request, hospital.approved(code_digest="f" * 64)), request


def of_another_federation(hospital: Hospital) -> tuple[bytes, Request]:
    request = hospital.train_request()
    return hospital.sealed(request, hospital.approved(federation="elsewhere")), request


def of_another_run(hospital: Hospital) -> tuple[bytes, Request]:
    request = hospital.train_request(run="run-2")
    return hospital.sealed(request, hospital.approved()), request


def with_another_configuration(hospital: Hospital) -> tuple[bytes, Request]:
    config = hospital.config.model_copy(update={"seed": 1})
    request = hospital.train_request(config_json=canonical_json(config))
    return hospital.sealed(request, hospital.approved()), request


def beyond_the_last_round(hospital: Hospital) -> tuple[bytes, Request]:
    request = hospital.train_request(5)
    return hospital.sealed(request, hospital.approved()), request


def before_the_first_round(hospital: Hospital) -> tuple[bytes, Request]:
    request = hospital.train_request(0)
    return hospital.sealed(request, hospital.approved()), request


def where_it_is_not_named(hospital: Hospital) -> tuple[bytes, Request]:
    others = (ManifestSite(name="harbour", task="chestx", signing_key=hospital.key.public.text),)
    request = hospital.train_request()
    return hospital.sealed(request, hospital.approved(sites=others)), request


def for_another_task(hospital: Hospital) -> tuple[bytes, Request]:
    entry = ManifestSite(name="north", task="retina", signing_key=hospital.key.public.text)
    request = hospital.train_request()
    return hospital.sealed(request, hospital.approved(sites=(entry,))), request


def with_anothers_answer_key(hospital: Hospital) -> tuple[bytes, Request]:
    entry = ManifestSite(name="north", task="chestx", signing_key=PrivateKey.new().public.text)
    request = hospital.train_request()
    return hospital.sealed(request, hospital.approved(sites=(entry,))), request


@pytest.mark.parametrize(
    ("forge", "says"),
    [
        (by_another_key, "request is not signed by the run key"),
        (with_anothers_manifest, "manifest is not signed by the run key"),
        (altered_on_the_way, "request is not signed by the run key"),
        (with_another_model, "request is not signed by the run key"),
        (of_an_expired_run, "expired at 2026-01-08"),
        (for_another_site, "another site than north"),
        (of_other_code, "same Fovea version"),
        (of_another_federation, "another federation"),
        (of_another_run, "another run"),
        (with_another_configuration, "configuration is not the manifest's"),
        (beyond_the_last_round, "round 5 is none of the manifest's, 1 to 4"),
        (before_the_first_round, "round 0 is none of the manifest's, 1 to 4"),
        (where_it_is_not_named, "does not name north"),
        (for_another_task, "the task retina"),
        (with_anothers_answer_key, "another signing key"),
    ],
)
def test_what_the_run_key_did_not_sign_for_this_site_is_refused_and_audited(
    hospital: Hospital, desk: Desk, trainer: CountingTrainer, forge: Forge, says: str
) -> None:
    content, request = forge(hospital)

    answer = refusal(hospital, desk, content, request)

    assert answer.code is RefusalCode.UNTRUSTED
    assert says in answer.reason
    assert trainer.trained == []
    assert hospital.events() == ["request-refused"]
    assert hospital.records()[-1]["code"] == "untrusted"


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


def test_a_run_that_nobody_approved_waits_and_is_kept_to_be_seen(
    hospital: Hospital, desk: Desk, trainer: CountingTrainer
) -> None:
    request, manifest = hospital.train_request(), hospital.manifest()

    answer = refusal(hospital, desk, hospital.sealed(request, manifest), request)

    assert answer.code is RefusalCode.NOT_APPROVED
    assert desk.report().waiting == (manifest.digest,)
    Approvals(hospital.home.approvals).approve(manifest.digest, hospital.now, by="a test")
    assert isinstance(
        hospital.opened(ask(desk, hospital.sealed(request, manifest)), request), Update
    )
    assert len(trainer.trained) == 1


def test_a_question_needs_approval_too(hospital: Hospital, desk: Desk) -> None:
    request = QueryRequest("run-1")

    answer = refusal(hospital, desk, hospital.sealed(request, hospital.manifest()), request)

    assert answer.code is RefusalCode.NOT_APPROVED


def revoke(hospital: Hospital, manifest: SignedManifest) -> None:
    Approvals(hospital.home.approvals).revoke(manifest.digest, hospital.now, by="a test")


def pause(hospital: Hospital, manifest: SignedManifest) -> None:
    del manifest
    hospital.home.pause_marker.touch()


def forbid(hospital: Hospital, manifest: SignedManifest) -> None:
    del manifest
    hospital.set_policy(bounds__max_rounds=2)


@pytest.mark.parametrize(
    ("decide", "code"),
    [
        (revoke, RefusalCode.FORBIDDEN),
        (pause, RefusalCode.PAUSED),
        (forbid, RefusalCode.FORBIDDEN),
    ],
)
def test_what_a_person_decides_counts_at_once_even_for_a_stored_answer(
    hospital: Hospital,
    desk: Desk,
    decide: Callable[[Hospital, SignedManifest], None],
    code: RefusalCode,
) -> None:
    manifest, request = hospital.approved(), hospital.train_request()
    ask(desk, hospital.sealed(request, manifest))
    decide(hospital, manifest)

    answer = refusal(hospital, desk, hospital.sealed(request, manifest), request)

    assert answer.code is code


def test_the_last_rounds_answer_is_repeated_though_all_rounds_were_trained(
    hospital: Hospital, desk: Desk
) -> None:
    manifest = hospital.approved()
    contents = [hospital.sealed(hospital.train_request(n), manifest) for n in (1, 2, 3, 4)]
    answers = [ask(desk, content) for content in contents]

    assert ask(desk, contents[-1]) == answers[-1]


def test_too_few_validation_patients_keep_the_evaluation_at_the_site(
    hospital: Hospital, desk: Desk, trainer: CountingTrainer
) -> None:
    hospital.set_policy(bounds__min_validation_patients=5)
    request = hospital.train_request()

    update = hospital.opened(ask(desk, hospital.sealed(request, hospital.approved())), request)

    assert isinstance(update, Update)
    assert update.evaluation == {}
    assert [asked.evaluates for asked in trainer.trained] == [False]


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


def test_bytes_that_are_no_request_are_refused_unsigned(hospital: Hospital, desk: Desk) -> None:
    answer = decode_answer(from_bytes(ask(desk, b"\xff\xff nonsense")), Update)

    assert isinstance(answer, Refusal)
    assert answer.code is RefusalCode.UNREADABLE
    assert hospital.events() == ["request-refused"]


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


def test_the_run_key_can_be_renewed_without_a_restart(hospital: Hospital, desk: Desk) -> None:
    renewed = replace(hospital, run_key=PrivateKey.new())
    request, manifest = hospital.train_request(), renewed.approved()
    before = refusal(hospital, desk, renewed.sealed(request, manifest), request)
    with hospital.home.run_keys.open("a") as file:
        file.write(renewed.run_key.public.text + "\n")

    after = hospital.opened(ask(desk, renewed.sealed(request, manifest)), request)

    assert before.code is RefusalCode.UNTRUSTED
    assert isinstance(after, Update)


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


def test_a_manifest_of_another_version_is_unreadable(hospital: Hospital, desk: Desk) -> None:
    text = '{"version":9}'
    signature = hospital.run_key.sign(PURPOSE, {"digest": text_digest(text)})
    request, manifest = hospital.train_request(), SignedManifest(text, signature)

    answer = refusal(hospital, desk, hospital.sealed(request, manifest), request)

    assert answer.code is RefusalCode.UNREADABLE


def test_without_run_keys_nothing_is_believed(hospital: Hospital, desk: Desk) -> None:
    request, manifest = hospital.train_request(), hospital.approved()
    hospital.home.run_keys.unlink()

    answer = refusal(hospital, desk, hospital.sealed(request, manifest), request)

    assert (answer.code, answer.reason) == (
        RefusalCode.UNAVAILABLE,
        "its own keys cannot be used; its log says why",
    )


def test_the_standing_rule_approves_a_like_run_and_is_audited(
    hospital: Hospital, desk: Desk, trainer: CountingTrainer
) -> None:
    hospital.approved()
    approval = {"mode": "standing", "may_differ": ["seed"], "standing_days": 30}
    approval["max_standing_runs"] = 1
    hospital.set_policy(approval=approval)
    hospital.config = hospital.config.model_copy(update={"seed": 1})
    request = hospital.train_request(run="run-2")

    answer = hospital.opened(
        ask(desk, hospital.sealed(request, hospital.manifest(run="run-2"))), request
    )

    assert isinstance(answer, Update)
    assert len(trainer.trained) == 1
    assert hospital.events()[1] == "run-approved"
    assert hospital.records()[1]["by"] == "standing rule"


# --- what people decide while a round is trained ---------------------------------------------


def end_consent(hospital: Hospital, manifest: SignedManifest) -> None:
    del manifest
    hospital.set_policy(consent_expires="2025-01-01")


def keep_updates(hospital: Hospital, manifest: SignedManifest) -> None:
    del manifest
    hospital.set_policy(release__update=False)


def unpin(hospital: Hospital, manifest: SignedManifest) -> None:
    del manifest
    hospital.home.run_keys.write_text(PrivateKey.new().public.text + "\n")


def meanwhile(
    hospital: Hospital,
    desk: Desk,
    trainer: CountingTrainer,
    decide: Callable[[Hospital, SignedManifest], None],
) -> tuple[TrainRequest, SignedManifest, object]:
    """Ask for a round, decide while it is trained, and return what came."""
    request, manifest = hospital.train_request(), hospital.approved()
    trainer.may_go_on.clear()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask, desk, hospital.sealed(request, manifest))
        assert trainer.has_begun.wait(timeout=10)
        decide(hospital, manifest)
        trainer.may_go_on.set()
        return request, manifest, hospital.opened(asked.result(timeout=10), request)


@pytest.mark.parametrize(
    ("decide", "told"),
    [
        (revoke, (RefusalCode.FORBIDDEN, "revoked the run")),
        (end_consent, (RefusalCode.FORBIDDEN, "consent to take part ended")),
        (keep_updates, (RefusalCode.FORBIDDEN, "lets no update leave")),
        (unpin, (RefusalCode.UNTRUSTED, "run key")),
    ],
)
def test_what_is_withdrawn_while_a_round_is_trained_keeps_its_update(
    hospital: Hospital,
    desk: Desk,
    trainer: CountingTrainer,
    decide: Callable[[Hospital, SignedManifest], None],
    told: tuple[RefusalCode, str],
) -> None:
    _, _, answer = meanwhile(hospital, desk, trainer, decide)

    assert isinstance(answer, Refusal), answer
    assert (answer.code, told[1] in answer.reason) == (told[0], True)
    assert hospital.events()[-1] == "request-refused"
    assert Answers(hospital.home.answers).record_of("run-1") is None


def test_a_pause_lets_the_running_round_finish(
    hospital: Hospital, desk: Desk, trainer: CountingTrainer
) -> None:
    _, _, answer = meanwhile(hospital, desk, trainer, pause)

    assert isinstance(answer, Update)


def test_metrics_that_were_withdrawn_while_a_round_was_trained_stay(
    hospital: Hospital, desk: Desk, trainer: CountingTrainer
) -> None:
    def keep_metrics(hospital: Hospital, _manifest: SignedManifest) -> None:
        hospital.set_policy(release__metrics=False)

    _, _, answer = meanwhile(hospital, desk, trainer, keep_metrics)

    assert isinstance(answer, Update)
    assert (answer.metrics, answer.evaluation) == ({}, {})


# --- a shard that is prepared anew -----------------------------------------------------------


def put_shard(hospital: Hospital, _manifest: SignedManifest | None = None) -> None:
    """Put a shard in the place of the former, as `fovea-site prepare` does."""
    fresh = hospital.home.shard.with_name("fresh")
    fresh.mkdir()
    (fresh / "meta.json").write_text("{}")
    if hospital.home.shard.exists():
        hospital.home.shard.rename(hospital.home.shard.with_name(f"old-{fresh.stat().st_ino}"))
    fresh.rename(hospital.home.shard)


def with_fewer_patients(card: SiteCard) -> SiteCard:
    values = json.loads(card.data_card_json)
    values["parts"][0]["patients"] = 3  # of at least 4
    return replace(card, num_examples=3, data_card_json=json.dumps(values))


def test_a_shard_that_was_prepared_anew_is_opened_before_the_next_request(
    hospital: Hospital, desk: Desk, trainer: CountingTrainer
) -> None:
    put_shard(hospital)
    manifest, request = hospital.approved(), hospital.train_request()
    desk.warm()
    put_shard(hospital)
    trainer.card = with_fewer_patients(trainer.card)

    answer = refusal(hospital, desk, hospital.sealed(request, manifest), request)
    again = refusal(hospital, desk, hospital.sealed(request, manifest), request)

    assert "at least 4 patients" in answer.reason
    assert again.code is answer.code
    assert trainer.reopened == 1
    assert hospital.events().count("shard-reopened") == 1
    assert trainer.trained == []


def test_what_was_made_from_a_former_shard_stays(
    hospital: Hospital, desk: Desk, trainer: CountingTrainer
) -> None:
    put_shard(hospital)

    request, manifest, answer = meanwhile(hospital, desk, trainer, put_shard)
    after = hospital.opened(ask(desk, hospital.sealed(request, manifest)), request)

    assert isinstance(answer, Refusal)
    assert (answer.code, "prepared anew" in answer.reason) == (RefusalCode.UNAVAILABLE, True)
    assert isinstance(after, Update)
    assert len(trainer.trained) == 2


def test_a_shard_that_was_taken_away_is_not_trained_on(
    hospital: Hospital, desk: Desk, trainer: CountingTrainer
) -> None:
    put_shard(hospital)
    desk.warm()
    shutil.rmtree(hospital.home.shard)
    request = hospital.train_request()

    answer = refusal(hospital, desk, hospital.sealed(request, hospital.approved()), request)

    assert answer.code is RefusalCode.UNAVAILABLE
    assert trainer.trained == []
    put_shard(hospital)
    assert isinstance(
        hospital.opened(ask(desk, hospital.sealed(request, hospital.approved())), request), Update
    )


# --- repeats, the network, reasons -----------------------------------------------------------


def test_a_stored_answer_that_the_policy_would_not_release_whole_stays(
    hospital: Hospital, desk: Desk
) -> None:
    manifest, request = hospital.approved(), hospital.train_request()
    ask(desk, hospital.sealed(request, manifest))
    hospital.set_policy(release__metrics=False)

    answer = refusal(hospital, desk, hospital.sealed(request, manifest), request)

    assert answer.code is RefusalCode.FORBIDDEN
    assert "no longer lets all of this answer leave" in answer.reason


def test_a_repeat_is_audited_like_the_release(hospital: Hospital, desk: Desk) -> None:
    content = hospital.sealed(hospital.train_request(), hospital.approved())
    ask(desk, content)
    released = hospital.records()[-1]

    ask(desk, content)

    repeated = hospital.records()[-1]
    assert repeated["event"] == "answer-repeated"
    outline = ("answer", "num_examples", "arrays_digest", "metric_names", "evaluation_names")
    assert [repeated[key] for key in outline] == [released[key] for key in outline]


def test_a_manifest_for_another_network_than_the_site_builds_is_refused(
    hospital: Hospital, desk: Desk, trainer: CountingTrainer
) -> None:
    request = hospital.train_request()
    manifest = hospital.approved(architecture_digest="b" * 64)

    answer = refusal(hospital, desk, hospital.sealed(request, manifest), request)

    assert answer.code is RefusalCode.UNTRUSTED
    assert "same Fovea version" in answer.reason
    assert trainer.trained == []


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


# --- the door under a flood ------------------------------------------------------------------


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
