"""A secure sum across the desks of four hospitals: what leaves each, and what none gives."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from coordinator import Coordinator

from client.records.ledger import Ledger
from client.trust.peers import write_pins
from common.config.run import RunConfig
from common.messages.kinds import (
    NOT_SECURE,
    Answer,
    Keys,
    KeysRequest,
    MaskedUpdate,
    Refusal,
    RefusalCode,
    Request,
    Shares,
    TrainRequest,
    UnmaskRequest,
)
from common.messages.record_bytes import from_bytes
from common.secure_sum.layout import layouts
from common.secure_sum.statements import MaskedNote, Unmasking, as_text, parsed
from hospital import START, CountingTrainer, Hospital, make_trial

NAMES = ("harbour", "island", "north", "valley")
SECURE = ("secure_aggregation.enabled=true", "federation.rounds=4", "federation.min_sites=3")

MakeConfig = Callable[..., RunConfig]
Trial = tuple[Coordinator, dict[str, CountingTrainer]]


def a_trial(
    root: Path, config: RunConfig, trainer: CountingTrainer
) -> tuple[Coordinator, dict[str, CountingTrainer]]:
    hospitals = make_trial(root, config=config, names=NAMES)
    trainers = {name: CountingTrainer(replace(trainer.card, site=name)) for name in NAMES}
    manifest = None
    for hospital in hospitals.values():
        manifest = hospital.approved()
    assert manifest is not None
    desks = {name: hospitals[name].desk(trainers[name]) for name in NAMES}
    return Coordinator(hospitals, desks, manifest), trainers


@pytest.fixture
def trial(short_path: Path, make_config: MakeConfig, trainer: CountingTrainer) -> Trial:
    return a_trial(short_path, make_config(*SECURE), trainer)


def masked_by(coordinator: Coordinator, *sites: str, number: int = 1) -> dict[str, MaskedUpdate]:
    masked = {}
    for site in sites:
        answer = coordinator.ask(site, coordinator.train_request(site, number))
        assert isinstance(answer, MaskedUpdate), answer
        masked[site] = answer
    return masked


def shares_of(coordinator: Coordinator, masked: dict[str, MaskedUpdate]) -> dict[str, Shares]:
    request = coordinator.unmask_request(masked)
    shares = {site: coordinator.ask(site, request) for site in masked}
    assert all(isinstance(answer, Shares) for answer in shares.values()), shares
    return shares  # type: ignore[return-value]


def test_the_sum_over_four_hospitals_is_that_of_their_updates(trial: Trial) -> None:
    coordinator, _ = trial
    coordinator.gather_keys()
    masked = masked_by(coordinator, *NAMES)
    shares = shares_of(coordinator, masked)

    sums = coordinator.opened(masked, shares)

    north = coordinator.hospitals["north"]
    shapes = {name: array.shape for name, array in north.arrays.items()}
    placed = layouts(north.config, shapes, task="chestx")
    assert set(sums) == set(placed) == {"trunk", "chestx"}
    for group, layout in placed.items():
        found = layout.decode(sums[group])
        assert found.extras["weight"] == 4 * 14
        for array in found.mean().values():
            np.testing.assert_allclose(array, 0.5, atol=1e-5)
    assert layout.decode(sums["chestx"]).measures()["auroc"].mean == pytest.approx(0.75, abs=1e-5)


def test_next_rounds_keys_come_with_the_masked_update(trial: Trial) -> None:
    coordinator, _ = trial
    coordinator.gather_keys()
    masked = masked_by(coordinator, *NAMES)

    for site, answer in masked.items():
        following = parsed(answer.secure_json, MaskedNote).next
        assert following is not None
        coordinator.bundles[site] = following

    assert set(masked_by(coordinator, *NAMES, number=2)) == set(NAMES)


def test_what_was_given_is_in_audit_log_and_ledger(trial: Trial) -> None:
    coordinator, _ = trial
    coordinator.gather_keys()
    masked = masked_by(coordinator, "harbour", "island", "north")
    shares_of(coordinator, masked)

    north = coordinator.hospitals["north"]
    assert north.events() == [
        *("request-received", "keys-given", "answer-released") * 2,
        *("request-received", "request-permitted", "answer-released"),
        *("request-received", "shares-given", "answer-released"),
    ]
    given = next(record for record in north.records() if record["event"] == "shares-given")
    assert (given["survivors"], given["dropped"]) == (
        ["harbour", "island", "north"],
        ["valley"],
    )
    assert given["roster"] == coordinator.unmasking(masked).roster_digest
    entries = Ledger(north.home.ledger).entries()
    assert [entry.what for entry in entries] == ["masked update", "training metrics", "evaluation"]


def test_a_repeat_gets_the_same_masked_bytes_and_is_not_trained_again(trial: Trial) -> None:
    coordinator, trainers = trial
    coordinator.gather_keys()
    north = coordinator.hospitals["north"]
    content = north.sealed(coordinator.train_request("north", 1), coordinator.manifest)

    answers = [
        desk.answer(content, is_wanted=lambda: True)
        for desk in (coordinator.desks["north"], north.desk(trainers["north"]))
    ]

    assert answers[0] == answers[1]
    assert len(trainers["north"].trained) == 1


@pytest.mark.parametrize("kept", ["metrics", "evaluation"])
def test_a_masked_answer_is_not_repeated_once_the_policy_keeps_what_is_in_it(
    trial: Trial, kept: str
) -> None:
    coordinator, _ = trial
    coordinator.gather_keys()
    request = coordinator.train_request("north", 1)
    assert isinstance(coordinator.ask("north", request), MaskedUpdate)
    change = {"metrics": {"release__metrics": False}, "evaluation": {}}[kept]
    north = coordinator.hospitals["north"]
    north.set_policy(**change)
    if kept == "evaluation":
        north.set_policy(bounds__min_validation_patients=5)

    again = coordinator.ask("north", request)

    assert isinstance(again, Refusal)
    assert "no longer lets all of this answer leave" in again.reason


def test_a_masked_answer_without_metrics_is_repeated_where_the_policy_never_let_them_leave(
    trial: Trial,
) -> None:
    coordinator, _ = trial
    coordinator.hospitals["north"].set_policy(release__metrics=False)
    coordinator.gather_keys()
    request = coordinator.train_request("north", 1)

    answers = [coordinator.ask("north", request) for _ in range(2)]

    assert all(isinstance(answer, MaskedUpdate) for answer in answers)


def test_with_noise_the_note_says_what_was_spent(
    short_path: Path, make_config: MakeConfig, trainer: CountingTrainer
) -> None:
    private = ("privacy.enabled=true", "federation.aggregation=uniform-mean")
    config = make_config(*SECURE, *private)
    coordinator, _ = a_trial(short_path, config, trainer)
    coordinator.gather_keys()

    masked = masked_by(coordinator, "north")["north"]

    privacy = config.privacy
    ledger = Ledger(coordinator.hospitals["north"].home.ledger)
    spent = ledger.epsilon(unit=privacy.unit, delta=privacy.delta)
    assert parsed(masked.secure_json, MaskedNote).epsilon == spent > 0
    assert [e.what for e in ledger.entries()] == ["training metrics", "evaluation", "update"]


def test_a_site_that_is_paused_opens_what_it_has_added_to(trial: Trial) -> None:
    coordinator, _ = trial
    coordinator.gather_keys()
    masked = masked_by(coordinator, *NAMES)
    coordinator.hospitals["north"].home.pause_marker.touch()

    assert isinstance(coordinator.ask("north", coordinator.unmask_request(masked)), Shares)
    refused = coordinator.ask("north", coordinator.keys_request(2))
    assert isinstance(refused, Refusal)
    assert refused.code is RefusalCode.PAUSED


def test_a_round_is_opened_for_one_set_of_survivors(trial: Trial) -> None:
    coordinator, _ = trial
    coordinator.gather_keys()
    masked = masked_by(coordinator, *NAMES)
    shares_of(coordinator, masked)
    fewer = {site: masked[site] for site in ("harbour", "island", "north")}

    refused = coordinator.ask("north", coordinator.unmask_request(fewer))

    assert isinstance(refused, Refusal)
    assert refused.code is RefusalCode.OUT_OF_ORDER


# --- what is refused before anything is done -----------------------------------------------


def refusal(coordinator: Coordinator, request: Request, site: str = "north") -> Refusal:
    answer = coordinator.ask(site, request)
    assert isinstance(answer, Refusal), answer
    return answer


def test_a_plain_update_cannot_be_asked_for_in_a_secure_run(trial: Trial) -> None:
    coordinator, trainers = trial

    answer = refusal(coordinator, coordinator.hospitals["north"].train_request())

    assert answer.code is RefusalCode.UNTRUSTED
    assert "the request asks for a plain one" in answer.reason
    assert trainers["north"].trained == []


def test_no_site_measures_by_itself_in_a_secure_run(trial: Trial) -> None:
    coordinator, trainers = trial

    answer = refusal(coordinator, coordinator.hospitals["north"].evaluate_request(1))

    assert answer.code is RefusalCode.FORBIDDEN
    assert "only told in sums" in answer.reason
    assert trainers["north"].evaluated == []


def test_a_round_whose_roster_is_altered_is_not_trained(trial: Trial) -> None:
    coordinator, trainers = trial
    coordinator.gather_keys()
    request = coordinator.train_request("north", 1)
    opening = json.loads(request.secure_json)
    opening["keys"][0]["mask_key"] = "A" * 43 + "="
    altered = json.dumps(opening, sort_keys=True, separators=(",", ":"))

    answer = refusal(coordinator, replace(request, secure_json=altered))

    assert answer.code is RefusalCode.UNTRUSTED
    assert trainers["north"].trained == []
    assert "request-permitted" not in coordinator.hospitals["north"].events()


def test_a_site_that_alone_is_asked_to_measure_does_not_train(trial: Trial) -> None:
    coordinator, trainers = trial
    coordinator.gather_keys()
    request = coordinator.train_request("north", 1)  # the context says that all sites measure

    answer = refusal(coordinator, replace(request, evaluates=False))

    assert answer.code is RefusalCode.UNTRUSTED
    assert "asked alike whether they measure" in answer.reason
    assert trainers["north"].trained == []


def test_a_site_that_may_not_measure_adds_to_the_sum_without_it(trial: Trial) -> None:
    coordinator, trainers = trial
    coordinator.hospitals["north"].set_policy(bounds__min_validation_patients=50)
    coordinator.gather_keys()

    masked = masked_by(coordinator, *NAMES)
    sums = coordinator.opened(masked, shares_of(coordinator, masked))

    assert [request.evaluates for request in trainers["north"].trained] == [False]
    north = coordinator.hospitals["north"]
    shapes = {name: array.shape for name, array in north.arrays.items()}
    layout = layouts(north.config, shapes, task="chestx")["chestx"]
    assert layout.decode(sums["chestx"]).measures()["auroc"].sites == 3


def test_a_sum_with_sites_that_approved_another_manifest_is_not_trained_for(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    coordinator, trainers = trial
    north, ask = coordinator.hospitals["north"], coordinator.ask
    mine = north.approved(expires_at=START + timedelta(days=9))  # of the same run and settings

    def ask_with_each_its_own(site: str, request: Request) -> Answer:
        if site != "north":
            return ask(site, request)
        return north.asked(coordinator.desks["north"], request, mine)

    monkeypatch.setattr(coordinator, "ask", ask_with_each_its_own)
    coordinator.gather_keys()

    answer = refusal(coordinator, coordinator.train_request("north", 1))

    assert answer.code is RefusalCode.UNTRUSTED
    assert "another manifest of this run" in answer.reason
    assert trainers["north"].trained == []


def test_a_run_that_opens_sums_over_fewer_than_the_policy_asks_for_is_forbidden(
    trial: Trial,
) -> None:
    coordinator, _ = trial
    coordinator.hospitals["north"].set_policy(secure_aggregation__min_pinned_peers=3)

    answer = refusal(coordinator, coordinator.keys_request(0))

    assert answer.code is RefusalCode.FORBIDDEN
    assert "opens sums over 3 (secure_aggregation.min_group)" in answer.reason


def test_a_run_with_a_site_that_nobody_here_has_pinned_is_forbidden(trial: Trial) -> None:
    coordinator, _ = trial
    north = coordinator.hospitals["north"]
    write_pins(
        north.home.peers, {"harbour": coordinator.hospitals["harbour"].key.public.fingerprint}
    )

    answer = refusal(coordinator, coordinator.keys_request(0))

    assert answer.code is RefusalCode.FORBIDDEN
    assert "with site island, which nobody at this site has pinned" in answer.reason


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"server_round": 5}, "round 5 is none of the manifest's, 0 to 4"),
        ({"server_round": 1}, "keys for a round need the list of members"),
        ({"keys_json": '{"members":[]}'}, "a run's key is made without one"),
        ({"run": "run-2"}, "another run"),
        ({"config_json": "{}"}, "configuration is not the manifest's"),
    ],
)
def test_keys_are_given_for_what_the_manifest_promised(
    trial: Trial, changes: dict[str, object], says: str
) -> None:
    coordinator, _ = trial

    answer = refusal(coordinator, replace(coordinator.keys_request(0), **changes))  # type: ignore[arg-type]

    assert answer.code is RefusalCode.UNTRUSTED
    assert says in answer.reason


def test_no_round_before_the_first_is_opened(trial: Trial) -> None:
    coordinator, _ = trial
    nobody = Unmasking(roster_digest="0" * 64, survivors=(), dropped=(), signatures={})
    request = UnmaskRequest("run-1", 0, coordinator.config_json, as_text(nobody))

    answer = refusal(coordinator, request)

    assert answer.code is RefusalCode.UNTRUSTED
    assert "round 0 is none of the manifest's, 1 to 4" in answer.reason


def test_in_a_plain_run_there_are_no_keys_shares_or_masked_updates(
    hospital: Hospital, trainer: CountingTrainer
) -> None:
    desk, manifest = hospital.desk(trainer), hospital.approved()
    plain = hospital.train_request()
    requests: list[TrainRequest | KeysRequest | UnmaskRequest] = [
        replace(plain, secure_json='{"members":[]}'),
        KeysRequest("run-1", 0, plain.config_json, NOT_SECURE),
        UnmaskRequest("run-1", 1, plain.config_json, "{}"),
    ]

    answers = [hospital.asked(desk, request, manifest) for request in requests]

    for answer in answers:
        assert isinstance(answer, Refusal)
        assert answer.code is RefusalCode.UNTRUSTED
        assert "the run's updates are plain" in answer.reason
    assert trainer.trained == []


def test_keys_are_asked_for_again_and_stay_the_same(trial: Trial) -> None:
    coordinator, _ = trial
    coordinator.gather_keys()
    north = coordinator.hospitals["north"]
    content = north.sealed(coordinator.keys_request(1), coordinator.manifest)

    told = [coordinator.desks["north"].answer(content, is_wanted=lambda: True) for _ in range(2)]

    assert told[0] == told[1]
    answer = north.opened(told[0], coordinator.keys_request(1))
    assert isinstance(answer, Keys)
    assert told[0] is not None
    assert "arrays" not in from_bytes(told[0])
