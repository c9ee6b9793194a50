"""What a hospital asks of noise, budget and sums: every rule from both sides."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from client.consent.policy import Ask, Policy, PolicyRefusal, Standing, permit
from client.consent.policy_file import read_policy
from client.records.accountant import shown
from common.config.reading import load_config
from common.config.run import RunConfig
from common.errors import ConfigError
from common.messages.kinds import RefusalCode
from common.messages.manifest import Manifest, ManifestSite
from common.messages.signing import PrivateKey

CONFIGS = Path(__file__).parents[3] / "configs"
NOW = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)
DEMO = load_config(CONFIGS / "experiments" / "demo.yaml").run
STRICT = read_policy(CONFIGS / "policies" / "strict.yaml")
KEYS = {name: PrivateKey.new().public for name in ("north", "south", "west", "east")}
PINS = {name: key.fingerprint for name, key in KEYS.items() if name != "north"}
STANDING = Standing(
    decision="approved",
    is_paused=False,
    rounds_trained=0,
    training_patients=80,
    validation_patients=30,
    training_pictures=100,
    epsilon_after=None,
    pinned=PINS,
)


def a_policy(section: str, **rules: object) -> Policy:
    values = STRICT.model_dump()
    values[section] |= rules
    return Policy.model_validate(values)


def a_run(section: str | None = None, names: tuple[str, ...] = tuple(KEYS), **wish: object) -> Ask:
    """A run in which one section is enabled, with what it wishes."""
    values = DEMO.model_dump()
    if section is not None:
        values[section] |= {"enabled": True} | wish
        values["federation"]["aggregation"] = "uniform-mean"
    manifest = Manifest(
        version=1,
        federation="trial",
        run="demo-1",
        sites=tuple(
            ManifestSite(name=name, task="chestx", signing_key=KEYS[name].text) for name in names
        ),
        config=RunConfig.model_validate(values),
        architecture_digest="0" * 64,
        code_digest="1" * 64,
        issued_at=NOW,
        expires_at=NOW + timedelta(days=6),
    )
    return Ask("train", 1, "north", manifest, "ab" * 32, size_mb=20.0)


def answer(
    ask: Ask, policy: Policy = STRICT, standing: Standing = STANDING
) -> PolicyRefusal | None:
    return permit(ask, policy, standing, now=NOW)


def reason(ask: Ask, policy: Policy = STRICT, standing: Standing = STANDING) -> str:
    refusal = answer(ask, policy, standing)
    assert refusal is not None
    assert refusal.code is RefusalCode.FORBIDDEN
    return refusal.reason


# --- noise ---------------------------------------------------------------------------------


def test_the_shipped_policies_take_part_in_runs_with_and_without_noise_and_masks() -> None:
    standing = read_policy(CONFIGS / "policies" / "standing.yaml")
    wide = standing.model_copy(update={"hours": None})
    for policy in (STRICT, wide):
        for section in (None, "privacy", "secure_aggregation"):
            assert answer(a_run(section), policy) is None


@pytest.mark.parametrize("kind", ["query", "train", "evaluate"])
def test_a_site_that_asks_for_noise_refuses_a_run_without(kind: str) -> None:
    policy = a_policy("privacy", required=True)
    assert answer(replace(a_run("privacy"), kind=kind), policy) is None
    assert "no update leave without noise" in reason(replace(a_run(), kind=kind), policy)


@pytest.mark.parametrize(
    ("rule", "bound", "wish", "beyond", "words"),
    [
        ("min_noise_multiplier", 0.8, "noise_multiplier", 0.79, "at least 0.8, the run has 0.79"),
        ("max_clip_norm", 1.5, "clip_norm", 1.6, "at most 1.5, the run has 1.6"),
        ("max_sample_rate", 0.1, "sample_rate", 0.11, "at most 0.1, the run has 0.11"),
    ],
)
def test_noise_is_bounded_by_the_policy_and_not_by_the_wish(
    rule: str, bound: float, wish: str, beyond: float, words: str
) -> None:
    policy = a_policy("privacy", **{rule: bound})
    assert answer(a_run("privacy", **{wish: bound}), policy) is None
    assert words in reason(a_run("privacy", **{wish: beyond}), policy)
    assert answer(a_run(), policy) is None  # no noise is another rule's


def test_noise_for_images_is_too_little_where_patients_are_to_be_protected() -> None:
    for_patients, for_images = a_policy("privacy"), a_policy("privacy", unit="image")
    assert "protects single pictures" in reason(a_run("privacy", unit="image"), for_patients)
    assert answer(a_run("privacy", unit="image"), for_images) is None
    assert answer(a_run("privacy", unit="patient"), for_images) is None


def test_private_updates_are_not_weighed_by_exact_numbers_of_pictures() -> None:
    ask = a_run("privacy")
    federation = ask.manifest.config.federation.model_copy(update={"aggregation": "weighted-mean"})

    def of(ask: Ask) -> Ask:
        config = ask.manifest.config.model_copy(update={"federation": federation})
        return replace(ask, manifest=ask.manifest.model_copy(update={"config": config}))

    assert answer(ask) is None
    assert "exact numbers of pictures" in reason(of(ask))
    assert answer(of(a_run())) is None  # without noise they are told anyway


# --- budget --------------------------------------------------------------------------------


def test_a_round_is_permitted_up_to_the_budget_and_the_reason_says_both() -> None:
    policy, ask = a_policy("privacy", epsilon=8.0), a_run("privacy")
    assert answer(ask, policy, replace(STANDING, epsilon_after=8.0)) is None
    over = reason(ask, policy, replace(STANDING, epsilon_after=8.0001))
    assert over == (
        "its privacy budget would be exceeded: epsilon 8.01 after this round, its policy allows 8 "
        "at delta 1e-05 over all runs"
    )


def test_only_training_is_bounded_by_the_budget_and_only_where_there_is_one() -> None:
    spent = replace(STANDING, epsilon_after=1e9)
    assert answer(a_run("privacy"), a_policy("privacy", epsilon=None), spent) is None
    for kind in ("query", "evaluate", "keys", "unmask"):
        assert answer(replace(a_run("privacy"), kind=kind), standing=spent) is None


@pytest.mark.parametrize(
    ("epsilon", "text"), [(0.0, "0.00"), (7.991, "8.00"), (8.0, "8.00"), (float("inf"), "infinite")]
)
def test_an_epsilon_is_shown_rounded_up(epsilon: float, text: str) -> None:
    assert shown(epsilon) == text


# --- sums ----------------------------------------------------------------------------------


def test_a_site_that_asks_for_masks_refuses_a_run_without() -> None:
    policy = a_policy("secure_aggregation", required=True)
    assert answer(a_run("secure_aggregation"), policy) is None
    assert "no update leave but under masks" in reason(a_run(), policy)


@pytest.mark.parametrize("kind", ["query", "train", "keys", "unmask"])
def test_every_other_site_of_a_sum_must_be_pinned(kind: str) -> None:
    lacking = {name: PINS[name] for name in ("south", "east")}
    ask = replace(a_run("secure_aggregation"), kind=kind)
    assert "with site west, which nobody" in reason(ask, standing=replace(STANDING, pinned=lacking))
    assert answer(a_run(), standing=replace(STANDING, pinned={})) is None


def test_a_site_of_a_sum_must_have_the_key_that_was_compared() -> None:
    other = PINS | {"west": PrivateKey.new().public.fingerprint}
    told = reason(a_run("secure_aggregation"), standing=replace(STANDING, pinned=other))
    assert "another key for site west than the one that is pinned here" in told


def test_a_site_whose_key_is_none_is_not_summed_with() -> None:
    ask = a_run("secure_aggregation")
    none = ManifestSite(name="west", task="chestx", signing_key="key")
    sites = (*(site for site in ask.manifest.sites if site.name != "west"), none)
    ask = replace(ask, manifest=ask.manifest.model_copy(update={"sites": sites}))
    assert "another key for site west" in reason(ask)


def test_a_name_that_stands_twice_does_not_bring_in_a_second_site() -> None:
    ask = a_run("secure_aggregation")
    for name in ("west", "north"):
        again = ManifestSite(name=name, task="chestx", signing_key=PrivateKey.new().public.text)
        sites = (*ask.manifest.sites, again)
        twice = replace(ask, manifest=ask.manifest.model_copy(update={"sites": sites}))
        assert "names a site twice" in reason(twice)


def test_a_sum_needs_so_many_pinned_sites() -> None:
    three, policy = ("north", "south", "west"), a_policy("secure_aggregation", min_pinned_peers=3)
    assert answer(a_run("secure_aggregation", min_group=4), policy) is None
    assert "the run opens sums over 3" in reason(a_run("secure_aggregation"), policy)
    told = reason(a_run("secure_aggregation", three), policy)
    assert "at least 3 other sites, the run has 2" in told
    assert answer(a_run("secure_aggregation", three)) is None


def test_a_sum_with_one_other_site_cannot_be_allowed(tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        a_policy("secure_aggregation", min_pinned_peers=1)
    path = tmp_path / "policy.yaml"
    text = (CONFIGS / "policies" / "strict.yaml").read_text()
    path.write_text(text.replace("min_pinned_peers: 2", "min_pinned_peers: 1"))
    with pytest.raises(
        ConfigError, match="min_pinned_peers: expected a whole number of at least 2"
    ):
        read_policy(path)
