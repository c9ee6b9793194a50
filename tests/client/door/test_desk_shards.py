"""A shard that is prepared anew or taken away while its trainer runs."""

import json
import shutil
from dataclasses import replace

from client.desk.desk import Desk
from common.messages.kinds import Refusal, RefusalCode, SiteCard, Update
from common.messages.manifest import SignedManifest
from hospital import CountingTrainer, Hospital
from tests.client.door.asking import ask, meanwhile, refusal


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
