"""What a desk says to requests that are forged, altered, or of a run that is not this site's."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from client.desk.desk import Desk
from common.config.reading import canonical_json
from common.messages.digests import text_digest
from common.messages.kinds import Refusal, RefusalCode, Request, Update
from common.messages.manifest import PURPOSE, ManifestSite, SignedManifest
from common.messages.record_bytes import from_bytes, to_bytes
from common.messages.signing import PrivateKey
from common.messages.wire import decode_answer
from hospital import CountingTrainer, Hospital
from tests.client.door.asking import ask, by_another_key, refusal

Forge = Callable[[Hospital], tuple[bytes, Request]]


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


def test_bytes_that_are_no_request_are_refused_unsigned(hospital: Hospital, desk: Desk) -> None:
    answer = decode_answer(from_bytes(ask(desk, b"\xff\xff nonsense")), Update)

    assert isinstance(answer, Refusal)
    assert answer.code is RefusalCode.UNREADABLE
    assert hospital.events() == ["request-refused"]


def test_the_run_key_can_be_renewed_without_a_restart(hospital: Hospital, desk: Desk) -> None:
    renewed = replace(hospital, run_key=PrivateKey.new())
    request, manifest = hospital.train_request(), renewed.approved()
    before = refusal(hospital, desk, renewed.sealed(request, manifest), request)
    with hospital.home.run_keys.open("a") as file:
        file.write(renewed.run_key.public.text + "\n")

    after = hospital.opened(ask(desk, renewed.sealed(request, manifest)), request)

    assert before.code is RefusalCode.UNTRUSTED
    assert isinstance(after, Update)


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


def test_a_manifest_for_another_network_than_the_site_builds_is_refused(
    hospital: Hospital, desk: Desk, trainer: CountingTrainer
) -> None:
    request = hospital.train_request()
    manifest = hospital.approved(architecture_digest="b" * 64)

    answer = refusal(hospital, desk, hospital.sealed(request, manifest), request)

    assert answer.code is RefusalCode.UNTRUSTED
    assert "same Fovea version" in answer.reason
    assert trainer.trained == []
