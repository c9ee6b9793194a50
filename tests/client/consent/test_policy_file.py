"""policy.yaml: the shipped ones are valid and documented; a mistake is named with its remedy."""

import re
from datetime import date
from pathlib import Path

import pytest
from pydantic import BaseModel

from client.consent.policy import Policy
from client.consent.policy_file import read_policy
from common.config.reading import models_in
from common.errors import ConfigError

POLICIES = Path(__file__).parents[3] / "configs" / "policies"
STRICT = (POLICIES / "strict.yaml").read_text()


def read(tmp_path: Path, text: str) -> Policy:
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    return read_policy(path)


def changed(old: str, new: str) -> str:
    assert STRICT.count(old) == 1
    return STRICT.replace(old, new)


def keys_of(model: type[BaseModel]) -> set[str]:
    below = [m for field in model.model_fields.values() for m in models_in(field.annotation)]
    return set(model.model_fields).union(*(keys_of(part) for part in below))


def test_every_key_is_explained_in_the_template() -> None:
    explained = set(re.findall(r"\b([a-z_]+):(?= |$)", STRICT, re.MULTILINE))
    assert sorted(keys_of(Policy) - explained) == []


def test_the_template_is_strict() -> None:
    policy = read_policy(POLICIES / "strict.yaml")
    assert policy.approval.mode == "by-hand"
    assert policy.approval.may_differ == ()
    assert not policy.release.pictures
    assert not policy.release.saliency_maps
    assert policy.bounds.min_training_patients == 50
    assert policy.bounds.min_validation_patients == 20
    assert policy.bounds.min_sites == 3
    assert (policy.privacy.unit, policy.privacy.epsilon) == ("patient", 8.0)
    assert policy.secure_aggregation.min_pinned_peers == 2


def test_the_standing_example_is_valid() -> None:
    assert read_policy(POLICIES / "standing.yaml").approval.mode == "standing"


def test_hours_and_date_as_the_template_shows_them_are_valid(tmp_path: Path) -> None:
    shown = [line.removeprefix("#").strip() for line in re.findall(r"# +- \{days.*", STRICT)]
    text = changed("hours: null", "hours:\n  " + "\n  ".join(shown) + "\n#")
    policy = read(tmp_path, text.replace("consent_expires: null", "consent_expires: 2027-12-31"))
    assert policy.hours is not None
    assert [(window.start, window.end) for window in policy.hours] == [
        ("20:00", "06:00"),
        ("00:00", "24:00"),
    ]
    assert policy.consent_expires == date(2027, 12, 31)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "max_rounds: 100",
            "max_rounds: 1\n  max_round: 1",
            "unknown key 'max_round'. Did you mean 'max_rounds'",
        ),
        ("max_rounds: 100", "", "bounds.max_rounds: is missing. Add it; configs/policies/strict.y"),
        ("min_sites: 3", "min_sites: 0", "expected a whole number of at least 1, got 0"),
        ("update: true", "update: often", "release.update: expected true or false, got 'often'"),
        ("by-hand    ", "by_hand ", "expected one of by-hand, standing, got 'by_hand'"),
        ("[chestx, retina, ", "[chest, ", "tasks.0: unknown task 'chest'. Did you mean 'chestx'?"),
        ("tasks: [chestx, retina, pathoscan]", "tasks: []", "tasks: expected a list of at least 1"),
        ("pictures: false", "pictures: true", "expected false, for no message of this version"),
        ("saliency_maps: false", "saliency_maps: true", "release.saliency_maps: expected false"),
        ("zone: UTC", "zone: Europe/Berln", "unknown time zone 'Europe/Berln'; expected UTC or a"),
        ("zone: UTC", "zone: ../etc/passwd", "unknown time zone"),
        ("may_differ: []", "may_differ: [federation.round]", "Did you mean 'rounds'?"),
        ("may_differ: []", "may_differ: [site]", "unknown key of a run 'site'. Did you mean 'site"),
        ("may_differ: []", "may_differ: [seed.x]", "unknown key of a run 'x'"),
        (
            "consent_expires: null",
            "consent_expires: soon",
            "expected a date, e.g. 2027-12-31, or n",
        ),
        (
            "hours: null",
            "hours: [{days: [mon], start: 20:00, end: '06:00'}]",  # YAML reads 1200
            'hours.0.start: expected a time of day in quotes, e.g. "20:00", got 1200',
        ),
        (
            "hours: null",
            "hours: [{days: [monday], start: '20:00', end: '06:00'}]",
            "hours.0.days.0: expected one of mon, tue, wed, thu, fri, sat, sun, got 'monday'",
        ),
        (
            "hours: null",
            "hours: [{days: [mon], start: '20:00', end: '20:00'}]",
            "leave no time between them",
        ),
        ("hours: null", "hours: []", "hours: expected a list of at least 1 or null"),
        ("unit: patient", "unit: person", "privacy.unit: expected one of patient, image"),
        ("epsilon: 8.0", "epsilon: 0", "privacy.epsilon: expected a number above 0 or null, got 0"),
        (
            "delta: 1.0e-5",
            "delta: 1",
            "privacy.delta: expected a number above 0 and below 1, got 1",
        ),
        ("max_update_norm: null", "max_update_norm: -1", "above 0 or null, got -1"),
    ],
)
def test_a_mistake_is_named_with_its_key(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read(tmp_path, changed(old, new))
    assert message in str(raised.value)
    assert "policy.yaml: " in str(raised.value)
    assert "problems" not in str(raised.value)  # one mistake, one sentence


def test_every_mistake_is_named_at_once(tmp_path: Path) -> None:
    text = changed("max_rounds: 100", "max_rounds: 0").replace("update: true", "update: 7")
    with pytest.raises(
        ConfigError, match=r"2 problems\n  - bounds.max_rounds.*\n  - release.updat"
    ):
        read(tmp_path, text)


@pytest.mark.parametrize("key", ["sites", "code_digest", "data.augment.chestx.scale", "train"])
def test_a_standing_approval_may_name_any_key_of_a_run(tmp_path: Path, key: str) -> None:
    policy = read(tmp_path, changed("may_differ: []", f"may_differ: [{key}]"))
    assert policy.approval.may_differ == (key,)


def test_a_missing_policy_says_where_to_take_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Copy configs/policies/strict"):
        read_policy(tmp_path / "policy.yaml")
