"""What a policy allows and what not: every rule from both sides."""

import json
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from pydantic import ValidationError

from client.consent.hours import Window, is_open, next_opening, zone_named
from client.consent.policy import Ask, Policy, PolicyRefusal, Standing, may_stand_too, permit
from client.consent.policy_file import read_policy
from client.desk.release import as_released, is_released_whole, may_release_evaluation
from common.config.reading import load_config
from common.config.run import RunConfig
from common.datasets.card import DuplicateCount, PixelRange, card_from_dict
from common.messages.kinds import Evaluation, RefusalCode, SiteCard, Update
from common.messages.manifest import Manifest, ManifestSite

CONFIGS = Path(__file__).parents[3] / "configs"
NOW = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)  # a Wednesday
DEMO = load_config(CONFIGS / "experiments" / "demo.yaml").run
STRICT = read_policy(CONFIGS / "policies" / "strict.yaml")


def a_policy(**changes: object) -> Policy:
    """The strict policy with some values changed: bounds and release by their own keys."""
    values = STRICT.model_dump()
    for key, value in changes.items():
        part = next((p for p in ("bounds", "release", "approval") if key in values[p]), None)
        (values if part is None else values[part])[key] = value
    return Policy.model_validate(values)


def a_config(**changes: object) -> RunConfig:
    values = DEMO.model_dump()
    for key, value in changes.items():
        section, _, name = key.partition("__")
        values[section][name] = value
    return RunConfig.model_validate(values)


def a_manifest(config: RunConfig = DEMO, **changes: object) -> Manifest:
    values: dict[str, object] = {
        "version": 1,
        "federation": "trial",
        "run": "demo-1",
        "sites": tuple(
            ManifestSite(name=name, task="chestx", signing_key="ed25519:x")
            for name in ("north", "south", "west")
        ),
        "config": config,
        "architecture_digest": "0" * 64,
        "code_digest": "1" * 64,
        "issued_at": NOW - timedelta(days=1),
        "expires_at": NOW + timedelta(days=6),
    }
    return Manifest.model_validate(values | changes)


TRAIN = Ask("train", 1, "north", a_manifest(), "ab" * 32, size_mb=20.0)
STANDING = Standing(
    decision="approved",
    is_paused=False,
    rounds_trained=0,
    training_patients=80,
    validation_patients=30,
    training_pictures=100,
    epsilon_after=None,
    pinned={},
)


def answer(
    ask: Ask = TRAIN,
    policy: Policy = STRICT,
    standing: Standing = STANDING,
    now: datetime = NOW,
) -> PolicyRefusal | None:
    return permit(ask, policy, standing, now=now)


def forbidden(refusal: PolicyRefusal | None) -> str:
    assert refusal is not None
    assert refusal.code is RefusalCode.FORBIDDEN
    return refusal.reason


@pytest.mark.parametrize("kind", ["query", "train", "evaluate", "keys", "unmask"])
def test_an_approved_run_within_all_bounds_is_permitted(kind: str) -> None:
    ask = replace(TRAIN, kind=kind, server_round=0 if kind == "query" else 1)
    assert answer(ask) is None


@pytest.mark.parametrize("kind", ["query", "train", "evaluate", "keys", "unmask"])
def test_nothing_is_answered_before_a_person_has_approved(kind: str) -> None:
    refusal = answer(replace(TRAIN, kind=kind), standing=replace(STANDING, decision="waiting"))
    assert refusal is not None
    assert refusal.code is RefusalCode.NOT_APPROVED
    assert "abababababab" in refusal.reason


def test_a_revoked_run_is_forbidden() -> None:
    reason = forbidden(answer(standing=replace(STANDING, decision="revoked")))
    assert reason == "a person at the site has revoked the run"


def test_a_paused_site_says_so_and_may_say_yes_later() -> None:
    refusal = answer(standing=replace(STANDING, is_paused=True))
    assert refusal == PolicyRefusal(RefusalCode.PAUSED, "a person at the site has paused it")


def test_a_pause_or_hours_that_end_let_a_round_end_whose_update_has_left() -> None:
    closed = a_policy(hours=[NIGHTS])
    for policy, standing in [(STRICT, replace(STANDING, is_paused=True)), (closed, STANDING)]:
        assert answer(replace(TRAIN, kind="keys"), policy, standing) is not None
        assert answer(replace(TRAIN, kind="unmask"), policy, standing) is None
    revoked = replace(STANDING, decision="revoked")
    assert "revoked" in forbidden(answer(replace(TRAIN, kind="unmask"), standing=revoked))


def test_what_is_forbidden_is_not_put_to_a_person() -> None:
    asked = replace(STANDING, decision="waiting", is_paused=True)
    assert "at most 3 rounds" in forbidden(answer(policy=a_policy(max_rounds=3), standing=asked))


def test_consent_holds_through_its_last_day_in_the_sites_own_time() -> None:
    policy = a_policy(consent_expires=date(2026, 3, 4), time_zone="Europe/Berlin")
    last_minute = datetime(2026, 3, 4, 22, 59, tzinfo=UTC)  # 23:59 in Berlin
    assert answer(policy=policy, now=last_minute) is None
    over = forbidden(answer(policy=policy, now=last_minute + timedelta(minutes=1)))
    assert over == "its consent to take part ended on 2026-03-04"


@pytest.mark.parametrize(
    ("value", "bound", "config", "words"),
    [
        (8, "max_rounds", "federation__rounds", "at most 8 rounds, the run has 9"),
        (2, "max_local_epochs", "train__epochs", "at most 2 local epochs a round, the run has 3"),
    ],
)
def test_sizes_of_a_run_are_allowed_up_to_the_bound(
    value: int, bound: str, config: str, words: str
) -> None:
    policy = a_policy(**{bound: value})
    at_the_bound = replace(TRAIN, manifest=a_manifest(a_config(**{config: value})))
    beyond = replace(TRAIN, manifest=a_manifest(a_config(**{config: value + 1})))
    assert answer(at_the_bound, policy) is None
    assert words in forbidden(answer(beyond, policy))


def test_pictures_are_allowed_up_to_a_size() -> None:
    side = DEMO.data.image_size_px
    assert answer(policy=a_policy(max_image_size_px=side)) is None
    reason = forbidden(answer(policy=a_policy(max_image_size_px=side - 1)))
    assert f"at most {side - 1} pixels as a picture's side, the run has {side}" in reason


def test_every_task_of_the_run_must_be_allowed() -> None:
    assert set(DEMO.tasks) == {"chestx", "retina", "pathoscan"}
    reason = forbidden(answer(policy=a_policy(tasks=("chestx", "retina"))))
    assert reason == "its policy takes part for chestx, retina only, not for pathoscan"


def test_a_manifest_is_allowed_up_to_so_many_days() -> None:
    assert answer(policy=a_policy(max_run_days=7)) is None
    assert "at most 6 days" in forbidden(answer(policy=a_policy(max_run_days=6)))


def test_a_manifest_that_is_dated_ahead_is_allowed_no_longer_than_others() -> None:
    ahead = a_manifest(issued_at=NOW + timedelta(days=100), expires_at=NOW + timedelta(days=105))
    reason = forbidden(answer(replace(TRAIN, manifest=ahead), a_policy(max_run_days=30)))
    assert "at most 30 days" in reason


def test_a_run_needs_so_many_different_sites() -> None:
    assert answer(policy=a_policy(min_sites=3)) is None
    assert "at least 4 sites" in forbidden(answer(policy=a_policy(min_sites=4)))
    twice = a_manifest(sites=(*TRAIN.manifest.sites[:2], TRAIN.manifest.sites[0]))
    assert "this has 2" in forbidden(answer(replace(TRAIN, manifest=twice)))


def test_examples_of_a_run_are_allowed_up_to_the_bound() -> None:
    drawn = 100 * DEMO.train.epochs * DEMO.federation.rounds
    assert answer(policy=a_policy(max_examples=drawn)) is None
    assert "examples" in forbidden(answer(policy=a_policy(max_examples=drawn - 1)))


def test_a_round_with_noise_goes_over_the_pictures_as_often_as_it_draws_them() -> None:
    wish = {"privacy__enabled": True, "privacy__sample_rate": 0.25, "privacy__steps_per_round": 12}
    wish |= {"federation__aggregation": "uniform-mean"}
    ask = replace(TRAIN, manifest=a_manifest(a_config(**wish, train__epochs=1)))
    assert answer(ask, a_policy(max_local_epochs=3)) is None
    reason = forbidden(answer(ask, a_policy(max_local_epochs=2)))
    assert "at most 2 local epochs a round, the run has 3" in reason
    drawn = 100 * 3 * DEMO.federation.rounds
    assert answer(ask, a_policy(max_examples=drawn)) is None
    assert "examples" in forbidden(answer(ask, a_policy(max_examples=drawn - 1)))


def test_a_refusal_does_not_tell_how_much_the_site_holds() -> None:
    poor = replace(STANDING, training_patients=37, validation_patients=13, training_pictures=9973)
    reasons = [
        forbidden(answer(standing=poor)),
        forbidden(answer(replace(TRAIN, kind="evaluate"), standing=poor)),
        forbidden(answer(policy=a_policy(max_examples=10), standing=poor)),
    ]
    assert not any(number in " ".join(reasons) for number in ("37", "13", "9973"))


def test_a_request_is_allowed_up_to_a_size() -> None:
    assert answer(policy=a_policy(max_model_mb=20)) is None
    assert "at most 19.5 MB, this has 20.0" in forbidden(answer(policy=a_policy(max_model_mb=19.5)))


def test_no_round_beyond_those_of_the_manifest() -> None:
    last = DEMO.federation.rounds
    assert answer(replace(TRAIN, server_round=last)) is None
    assert f"this is round {last + 1}" in forbidden(answer(replace(TRAIN, server_round=last + 1)))
    done = replace(STANDING, rounds_trained=last)
    assert "has trained as many" in forbidden(answer(standing=done))
    assert answer(replace(TRAIN, kind="unmask", server_round=last), standing=done) is None
    assert answer(replace(TRAIN, kind="evaluate"), standing=done) is None


def test_a_site_that_releases_no_update_still_measures() -> None:
    only_measures = a_policy(update=False)
    for kind in ("train", "keys", "unmask"):
        refusal = answer(replace(TRAIN, kind=kind), only_measures)
        assert forbidden(refusal) == "its policy lets no update leave"
    assert answer(replace(TRAIN, kind="evaluate"), only_measures) is None


def test_a_site_that_releases_no_metrics_still_trains() -> None:
    only_trains = a_policy(metrics=False)
    assert answer(policy=only_trains) is None
    refusal = answer(replace(TRAIN, kind="evaluate"), only_trains)
    assert forbidden(refusal) == "its policy lets no metrics leave"


@pytest.mark.parametrize("kind", ["query", "train", "keys"])
def test_training_and_data_card_need_enough_patients(kind: str) -> None:
    ask = replace(TRAIN, kind=kind)
    assert answer(ask, standing=replace(STANDING, training_patients=50)) is None
    reason = forbidden(answer(ask, standing=replace(STANDING, training_patients=49)))
    assert "at least 50 patients to train on" in reason


def test_measuring_needs_enough_patients() -> None:
    ask = replace(TRAIN, kind="evaluate")
    enough = replace(STANDING, validation_patients=20, training_patients=0)
    assert answer(ask, standing=enough) is None
    few = replace(enough, validation_patients=19)
    assert "at least 20 patients to measure on" in forbidden(answer(ask, standing=few))


def test_measurements_beside_an_update_leave_only_with_enough_patients_and_leave() -> None:
    enough, few = STANDING, replace(STANDING, validation_patients=19)
    assert may_release_evaluation(STRICT, enough)
    assert not may_release_evaluation(STRICT, few)
    assert not may_release_evaluation(a_policy(metrics=False), enough)


# --- what is taken out of answers ----------------------------------------------------------

UPDATE = Update(
    *("demo-1", 1, "north", "chestx", 8, 2),
    metrics={"total": 0.5},
    evaluation={"auroc": 0.75},
    arrays={"trunk.weight": np.ones(2, dtype=np.float32)},
)
EVALUATION = Evaluation("demo-1", 1, "north", "chestx", 8, {"auroc": 0.75})
CARD = {
    "task": "chestx",
    "image_size_px": 64,
    "pictures": 100,
    "patients": 80,
    "parts": [
        {
            "name": "train",
            "pictures": 70,
            "patients": 56,
            "classes": [{"name": "Mass", "pictures": 2, "patients": 1}],
            "lesion_pictures": 3,
            "signs": [
                {
                    "name": "nodule",
                    **{"known_pictures": 9, "known_patients": 8},
                    **{"shown_pictures": 1, "shown_patients": 1},
                }
            ],
        }
    ],
    "regions": [{"kind": "box", "regions": 3, "pictures": 3, "mean_area": 0.1}],
    "width_px": {"smallest": 1, "median": 2, "largest": 3},
    "height_px": {"smallest": 1, "median": 2, "largest": 3},
    "exclusions": {"no label": 3},
    "duplicates": dict.fromkeys(
        (
            *("exact", "near", "shared_pictures", "straddling_pictures"),
            *("straddling_patients", "conflicts"),
        ),
        2,
    ),
    "notes": ["from 2019"],
}


def test_a_data_card_that_is_kept_back_still_has_its_totals() -> None:
    card = SiteCard("north", "chestx", 70, 20, json.dumps(CARD))
    assert as_released(card, STRICT, STANDING) is card
    kept_back = as_released(card, a_policy(data_card=False), STANDING)
    assert isinstance(kept_back, SiteCard)
    left = card_from_dict(json.loads(kept_back.data_card_json))
    assert (left.pictures, left.patients, left.task) == (100, 80, "chestx")
    assert (left.parts, left.regions, dict(left.exclusions), left.notes) == ((), (), {}, ())
    assert "nodule" not in kept_back.data_card_json
    # Sizes and copies of pictures are more than how many there are.
    assert left.width_px == left.height_px == PixelRange(0, 0, 0)
    assert left.duplicates == DuplicateCount(0, 0, 0, 0, 0, 0)


def test_metrics_are_taken_out_of_an_update() -> None:
    both = as_released(UPDATE, STRICT, STANDING)
    no_evaluation = as_released(UPDATE, STRICT, replace(STANDING, validation_patients=1))
    none = as_released(UPDATE, a_policy(metrics=False), STANDING)
    told = [(dict(u.metrics), dict(u.evaluation)) for u in (both, no_evaluation, none)]  # type: ignore[union-attr]
    assert told == [({"total": 0.5}, {"auroc": 0.75}), ({"total": 0.5}, {}), ({}, {})]


def test_an_evaluation_that_was_permitted_leaves_as_it_is() -> None:
    assert as_released(EVALUATION, STRICT, STANDING) is EVALUATION


# --- hours ---------------------------------------------------------------------------------

NIGHTS = {"days": ["mon", "tue", "wed", "thu", "fri"], "start": "20:00", "end": "06:00"}
WEEKEND = {"days": ["sat", "sun"], "start": "00:00", "end": "24:00"}


def test_outside_its_hours_a_site_is_as_if_paused_and_says_when_it_opens() -> None:
    policy = a_policy(hours=[NIGHTS], time_zone="Europe/Berlin")
    refusal = answer(policy=policy)
    assert refusal == PolicyRefusal(
        RefusalCode.PAUSED,
        "its policy keeps hours for the federation; they begin next at "
        "2026-03-04 20:00 Europe/Berlin",
    )
    assert answer(policy=policy, now=datetime(2026, 3, 4, 19, 0, tzinfo=UTC)) is None


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        ("2026-03-04 19:59", False),  # Wednesday
        ("2026-03-04 20:00", True),
        ("2026-03-05 05:59", True),
        ("2026-03-05 06:00", False),
        ("2026-03-07 05:59", True),  # Friday's night, on Saturday
        ("2026-03-08 06:00", False),  # no window begins on Saturday
        ("2026-03-09 05:00", False),  # nor on Sunday, for Monday's small hours
        ("2026-03-02 20:00", True),  # Monday
    ],
)
def test_a_window_past_midnight_belongs_to_the_day_it_begins_on(
    moment: str, expected: bool
) -> None:
    assert is_open([Window.model_validate(NIGHTS)], datetime.fromisoformat(moment)) is expected


def test_a_whole_day_has_no_gap() -> None:
    minutes = [datetime(2026, 3, 7) + timedelta(minutes=m) for m in range(2 * 24 * 60)]
    assert all(is_open([Window.model_validate(WEEKEND)], minute) for minute in minutes)


@pytest.mark.parametrize(("start", "end"), [("08:00", "08:00"), ("24:00", "06:00")])
def test_a_window_without_time_is_refused(start: str, end: str) -> None:
    with pytest.raises(ValidationError, match="leave no time between them"):
        Window(days=("mon",), start=start, end=end)


minutes_of_a_day = some.builds("{:02d}:{:02d}".format, some.integers(0, 23), some.integers(0, 59))
windows = some.builds(
    Window,
    days=some.lists(some.sampled_from(["mon", "wed", "sun"]), min_size=1).map(tuple),
    start=some.just("07:30") | some.just("22:15"),
    end=minutes_of_a_day.filter(lambda end: end not in ("07:30", "22:15")),
)
moments = some.datetimes(datetime(2025, 1, 1), datetime(2027, 1, 1))


@given(hours=some.lists(windows, min_size=1, max_size=3), moment=moments)
def test_the_next_opening_is_later_open_and_none_is_before_it(
    hours: list[Window], moment: datetime
) -> None:
    opening = next_opening(hours, moment)
    assert opening > moment
    assert is_open(hours, opening)
    if not is_open(hours, moment):
        hour = timedelta(hours=1)
        between = [moment + n * hour for n in range(1, 200) if moment + n * hour < opening]
        assert not any(is_open(hours, moment) for moment in between)


def test_a_time_zone_is_named() -> None:
    assert zone_named("UTC") is UTC
    with pytest.raises(KeyError):
        zone_named("Europe/Atlantis")


# --- properties ----------------------------------------------------------------------------

standings = some.builds(
    Standing,
    decision=some.sampled_from(["approved", "revoked", "waiting"]),
    is_paused=some.booleans(),
    rounds_trained=some.integers(0, 60),
    training_patients=some.integers(0, 100),
    validation_patients=some.integers(0, 100),
    training_pictures=some.integers(0, 1000),
)
asks = some.builds(
    Ask,
    kind=some.sampled_from(["query", "train", "evaluate", "keys"]),
    server_round=some.integers(0, 60),
    manifest=some.just(TRAIN.manifest),
    manifest_digest=some.just("ab" * 32),
    size_mb=some.floats(0, 1000),
)


@given(ask=asks, standing=standings)
def test_nothing_is_permitted_without_approval_or_while_paused(
    ask: Ask, standing: Standing
) -> None:
    if permit(ask, STRICT, standing, now=NOW) is None:
        assert standing.decision == "approved"
        assert not standing.is_paused


@given(ask=asks, standing=standings, patients=some.integers(1, 100), rounds=some.integers(1, 60))
def test_a_stricter_policy_permits_nothing_that_the_looser_one_refuses(
    ask: Ask, standing: Standing, patients: int, rounds: int
) -> None:
    loose = a_policy(min_training_patients=1, min_validation_patients=1)
    strict = a_policy(
        min_training_patients=patients, min_validation_patients=patients, max_rounds=rounds
    )
    if permit(ask, strict, standing, now=NOW) is None:
        assert permit(ask, loose, standing, now=NOW) is None


def test_an_answer_is_released_whole_only_where_nothing_is_taken_out() -> None:
    assert is_released_whole(UPDATE, STRICT, STANDING, tells=())
    assert not is_released_whole(UPDATE, a_policy(metrics=False), STANDING, tells=())
    few = replace(STANDING, validation_patients=1)
    assert not is_released_whole(UPDATE, STRICT, few, tells=())


def test_so_many_runs_stand_on_one_approval() -> None:
    policy = a_policy(max_standing_runs=2)
    assert may_stand_too(policy, 1)
    assert not may_stand_too(policy, 2)
    with pytest.raises(ValidationError):
        a_policy(max_standing_runs=0)
