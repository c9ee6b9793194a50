"""What people decide counts at once: approval, revocation, a pause, the policy, the peers."""

from collections.abc import Callable

import pytest

from client.consent.approvals import Approvals
from client.desk.answers import Answers
from client.desk.desk import Desk
from common.messages.kinds import QueryRequest, Refusal, RefusalCode, Update
from common.messages.manifest import SignedManifest
from common.messages.signing import PrivateKey
from hospital import CountingTrainer, Hospital
from tests.client.door.asking import ask, meanwhile, refusal


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


def test_too_few_validation_patients_keep_the_evaluation_at_the_site(
    hospital: Hospital, desk: Desk, trainer: CountingTrainer
) -> None:
    hospital.set_policy(bounds__min_validation_patients=5)
    request = hospital.train_request()

    update = hospital.opened(ask(desk, hospital.sealed(request, hospital.approved())), request)

    assert isinstance(update, Update)
    assert update.evaluation == {}
    assert [asked.evaluates for asked in trainer.trained] == [False]


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


def end_consent(hospital: Hospital, manifest: SignedManifest) -> None:
    del manifest
    hospital.set_policy(consent_expires="2025-01-01")


def keep_updates(hospital: Hospital, manifest: SignedManifest) -> None:
    del manifest
    hospital.set_policy(release__update=False)


def unpin(hospital: Hospital, manifest: SignedManifest) -> None:
    del manifest
    hospital.home.run_keys.write_text(PrivateKey.new().public.text + "\n")


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


def test_a_stored_answer_that_the_policy_would_not_release_whole_stays(
    hospital: Hospital, desk: Desk
) -> None:
    manifest, request = hospital.approved(), hospital.train_request()
    ask(desk, hospital.sealed(request, manifest))
    hospital.set_policy(release__metrics=False)

    answer = refusal(hospital, desk, hospital.sealed(request, manifest), request)

    assert answer.code is RefusalCode.FORBIDDEN
    assert "no longer lets all of this answer leave" in answer.reason
