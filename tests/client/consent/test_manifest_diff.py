"""What is told of a run and of its differences from the last one approved."""

from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from client.consent.manifest_diff import (
    Change,
    changes_between,
    changes_table,
    difference,
    headlines,
    in_words,
)
from client.consent.policy import Policy
from client.consent.policy_file import read_policy
from common.config.reading import load_config
from common.messages.manifest import Manifest, ManifestSite

CONFIGS = Path(__file__).parents[3] / "configs"
DEMO = load_config(CONFIGS / "experiments" / "demo.yaml").run
STRICT = read_policy(CONFIGS / "policies" / "strict.yaml")
NOW = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)


def a_manifest(*overrides: str, sites: tuple[str, ...] = ("north", "south"), **changes: object):  # type: ignore[no-untyped-def]  # noqa: ANN201
    config = load_config(CONFIGS / "experiments" / "demo.yaml", list(overrides)).run
    values: dict[str, object] = {
        "version": 1,
        "federation": "trial",
        "run": "demo-1",
        "sites": tuple(ManifestSite(name=n, task="chestx", signing_key=f"key {n}") for n in sites),
        "config": config,
        "architecture_digest": "0" * 64,
        "code_digest": "1" * 64,
        "issued_at": NOW,
        "expires_at": NOW + timedelta(days=7),
    }
    return Manifest.model_validate(values | changes)


def keys(former: Manifest, manifest: Manifest) -> list[str]:
    return [change.key for change in changes_between(former, manifest)]


def test_name_and_dates_of_a_run_are_no_differences() -> None:
    later = a_manifest(run="demo-2", issued_at=NOW + timedelta(1), expires_at=NOW + timedelta(9))
    assert changes_between(a_manifest(), later) == ()
    assert "Everything else is the same." in headlines(difference(a_manifest(), later))


def test_a_changed_key_is_named_with_both_values() -> None:
    (change,) = changes_between(a_manifest(), a_manifest("train.learning_rate=0.5"))
    assert (change.key, change.kind) == ("train.learning_rate", "changed")
    assert (change.before, change.after) == (DEMO.train.learning_rate, 0.5)


def test_added_and_removed_keys_are_told_apart() -> None:
    with_weight = a_manifest("loss.class_weights={chestx: {Mass: 2.0}}")
    without = a_manifest("loss.class_weights={chestx: {Nodule: 2.0}}")
    found = {change.key: change.kind for change in changes_between(with_weight, without)}
    assert found == {
        "loss.class_weights.chestx.Mass": "removed",
        "loss.class_weights.chestx.Nodule": "added",
    }


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (a_manifest(architecture_digest="2" * 64), ["architecture_digest"]),
        (a_manifest(code_digest="2" * 64), ["code_digest"]),
        (a_manifest(federation="other"), ["manifest.federation"]),
        (
            a_manifest(sites=("north", "west")),
            [
                *("sites.south.name", "sites.south.signing_key", "sites.south.task"),
                *("sites.west.name", "sites.west.signing_key", "sites.west.task"),
            ],
        ),
    ],
)
def test_no_part_of_a_manifest_is_left_out(changed: Manifest, expected: list[str]) -> None:
    assert keys(a_manifest(), changed) == expected


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("name=other", "name"),
        ("seed=3", "seed"),
        ("tasks.chestx.labels=[Mass]", "tasks.chestx.labels"),
        ("sites.0.source.patients=9", "sites.north.config.source.patients"),
        ("reference.retina.source.patients=9", "reference.retina.source.patients"),
        ("data.augment.chestx.scale=[1.0, 1.5]", "data.augment.chestx.scale"),
        ("model.encoder.pretrained=true", "model.encoder.pretrained"),
        ("loss.lambda_sal=9", "loss.lambda_sal"),
        ("federation.local_layers=[trunk.x]", "federation.local_layers"),
        ("evaluation.federated=false", "evaluation.federated"),
        ("tracking.experiment=other", "tracking.experiment"),
        ("simulation.cpus_per_site=9", "simulation.cpus_per_site"),
    ],
)
def test_every_section_of_the_configuration_is_compared(override: str, key: str) -> None:
    assert key in keys(a_manifest(), a_manifest(override))


def test_a_dot_in_a_name_does_not_hide_a_change() -> None:
    nested = a_manifest("model.encoder.options={a: {b: 1}}")
    dotted = a_manifest("model.encoder.options={a.b: 1}")
    assert len(keys(nested, dotted)) == 2


def test_a_site_that_is_named_twice_does_not_hide_a_change() -> None:
    once = a_manifest(sites=("north", "south"))
    twice = a_manifest(sites=("north", "south", "south"))
    assert keys(once, twice) != []


def test_headlines_say_what_weighs_most() -> None:
    changed = a_manifest(
        "federation.rounds=9", run="demo-2", sites=("north", "west"), code_digest="2" * 64
    )
    told = " ".join(headlines(difference(a_manifest(), changed)))
    assert "Sites that joined: west." in told
    assert "Sites that left: south." in told
    assert "It has 9 rounds instead of 7." in told
    assert "The Fovea version of the coordinator differs." in told
    assert "network is another" not in told
    assert "another federation" not in told


def test_another_network_and_federation_are_headlines() -> None:
    changed = a_manifest(architecture_digest="2" * 64, federation="other")
    told = " ".join(headlines(difference(a_manifest(), changed)))
    assert "The network is another" in told
    assert "It is of another federation." in told


def test_the_table_shows_values_as_text_not_as_markup() -> None:
    found = changes_between(
        a_manifest(), a_manifest("model.encoder.options={x: '[red]no[/red]'}", "train.epochs=3")
    )
    console = Console(width=120, record=True, file=StringIO())
    console.print(changes_table(found))
    text = console.export_text()
    assert "[red]no[/red]" in text
    assert "train.epochs" in text


def test_the_table_cannot_be_painted_over() -> None:
    found = (
        Change(key="x\x1b[8m", kind="changed", before="a\u202eb", after="\x1b[1A\x1b[2Khidden\r"),
    )
    console = Console(width=120, record=True, file=StringIO(), force_terminal=True)
    console.print(changes_table(found))
    text = console.export_text()
    assert all(told in text for told in ("x\\x1b[8m", "a\\u202eb", "\\x1b[1A\\x1b[2Khidden\\x0d"))
    assert not {"\x1b", "\u202e", "\r"} & set(text)


def test_a_difference_survives_json() -> None:
    found = difference(a_manifest(), a_manifest("train.epochs=3"))
    assert type(found).model_validate_json(found.model_dump_json()) == found


def words(policy: Policy = STRICT, *wish: str, **of: object) -> str:
    settings: dict[str, object] = {"site": "north", "code_digest": "1" * 64}
    return " ".join(in_words(a_manifest(*wish), policy=policy, **(settings | of)))  # type: ignore[arg-type]


def test_the_summary_says_what_the_run_does_and_what_leaves() -> None:
    told = words()
    for fact in (
        "demo-1",
        "task chestx",
        "north, south",
        "7 rounds of 2 local epochs",
        "2026-03-11",
    ):
        assert fact in told
    assert "the change of the network's trunk" in told
    assert "means of the loss" in told
    assert "noise" not in told
    assert "masks" not in told
    assert "Never leaves: pictures, outlines of lesions" in told
    assert "has the same Fovea code" in told


def test_the_summary_follows_the_policy() -> None:
    release = {"update": False, "metrics": False, "data_card": False}
    changed = STRICT.release.model_copy(update=release)
    told = words(STRICT.model_copy(update={"release": changed}))
    assert "Leaves this site in a round: nothing but refusals." in told
    assert "how many pictures and patients it holds" in told


NOISE, MASKS = "privacy.enabled=true", "secure_aggregation.enabled=true"


def test_of_a_run_with_noise_the_summary_tells_of_noise_and_epsilon_and_of_no_loss() -> None:
    told = words(STRICT, NOISE, "privacy.steps_per_round=9")
    assert "7 rounds of 9 steps" in told
    assert "local epochs" not in told
    assert "head of this site's task, with noise; how many pictures" in told
    assert "ε of all runs here; no training loss" in told
    assert "means of the loss" not in told


def test_of_a_masked_run_the_summary_tells_what_is_readable_in_a_sum_only() -> None:
    told = words(STRICT, MASKS, "secure_aggregation.min_group=4", 'federation.local_layers=["a."]')
    leaves = told.split("Leaves this site in a round: ")[1].split(" Leaves this site at the")[0]
    assert leaves == (
        "under masks, readable only in a sum of at least 4 sites: its update, without a., number "
        "of pictures, loss and measurements on the validation part, if that has at least 20 "
        "patients; keys and shares of secrets."
    )


def test_of_a_run_with_both_the_summary_tells_both() -> None:
    told = words(STRICT, NOISE, MASKS)
    assert "its update, with noise, number of pictures and measurements" in told
    assert "ε of all runs here; no training loss" in told


def test_a_masked_run_tells_no_measurement_where_no_update_may_leave() -> None:
    release = STRICT.release.model_copy(update={"update": False})
    told = words(STRICT.model_copy(update={"release": release}), MASKS)
    assert "Leaves this site in a round: nothing but refusals." in told


def test_the_summary_warns_of_another_version_and_of_a_site_that_is_not_named() -> None:
    assert "The Fovea version of the coordinator differs" in words(code_digest="2" * 64)
    assert "this site is not named in it" in words(site="east")
