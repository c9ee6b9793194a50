"""Nine sites of three tasks add up under masks, whoever drops out when; numpy is the judge."""

import json
import math
import stat
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pytest
from members import RUN, SHAPES, TASKS, Federation, config_of

from client.secure.memory import MAX_RUNS, SecureMemory
from common.errors import AggregationError
from common.messages.kinds import MaskedUpdate, Refusal, RefusalCode
from common.secure_sum.layout import PEAK, GroupSum
from common.secure_sum.statements import Bundle, MaskedNote, parsed, shares_digest


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return Federation(tmp_path)


def clipped(federation: Federation, site: str, server_round: int) -> tuple[dict, bool, int]:
    """A site's update as it must be after clipping, whether it was, and its weight."""
    update = federation.update(site, server_round=server_round)
    arrays = {name: array.astype(np.float64) for name, array in update.arrays.items()}
    norm = math.sqrt(sum(float((array**2).sum()) for array in arrays.values()))
    assert math.sqrt(max(math.prod(shape) for shape in SHAPES.values())) < PEAK
    factor = min(1.0, 3.0 / norm)
    weight = min(update.num_examples, 500)
    if federation.config.federation.aggregation == "uniform-mean":
        weight = 1
    return {name: array * factor for name, array in arrays.items()}, factor < 1, weight


def assert_sum(
    found: GroupSum, federation: Federation, sites: Collection[str], *, server_round: int = 1
) -> None:
    parts = {site: clipped(federation, site, server_round) for site in sites}
    weights = sum(weight for _, _, weight in parts.values())
    assert found.extras["weight"] == weights
    assert found.arrays
    for name, mean in found.mean().items():
        expected = sum(weight * arrays[name] for arrays, _, weight in parts.values()) / weights
        np.testing.assert_allclose(mean, expected, rtol=0, atol=2e-7)
    updates = [federation.update(site, server_round=server_round) for site in sites]
    if "pictures" in found.extras:
        assert found.extras["pictures"] == sum(update.num_examples for update in updates)
        assert found.extras["clipped"] == sum(is_clipped for _, is_clipped, _ in parts.values())
        judged = [u.evaluation["auroc"] for u in updates if "auroc" in u.evaluation]
        assert found.extras["floor_judged"] == len(judged)
        assert found.extras["floor_met"] == sum(value >= 0.6 for value in judged)
        losses = found.measures()["train_total"]
        assert losses.sites == len(updates)
        mean_loss = np.mean([u.metrics["total"] for u in updates])
        assert losses.mean == pytest.approx(mean_loss, abs=1e-5)
        return
    measures = found.measures()
    for metric in {name for update in updates for name in update.evaluation}:
        values = [u.evaluation[metric] for u in updates if metric in u.evaluation]
        assert measures[metric].sites == len(values)
        assert measures[metric].mean == pytest.approx(np.mean(values), abs=1e-5)


def of_task(task: str) -> list[str]:
    return [site for site, held in TASKS.items() if held == task]


@pytest.mark.parametrize("aggregation", ["weighted-mean", "uniform-mean"])
def test_nine_sites_and_three_tasks_add_up_as_numpy_says(tmp_path: Path, aggregation: str) -> None:
    federation = Federation(tmp_path, config_of(aggregation=aggregation))
    members = federation.member_list()
    bundles = federation.bundles(members)
    masked = federation.masked_by(members, bundles)
    sums = federation.opened(federation.opening("amber", members, bundles), masked)
    assert set(sums) == {"trunk", "chestx", "retina", "pathoscan"}
    assert_sum(sums["trunk"], federation, TASKS)
    for task in ("chestx", "retina", "pathoscan"):
        assert_sum(sums[task], federation, of_task(task))


def test_the_next_round_goes_by_the_bundles_that_came_with_the_updates(
    federation: Federation,
) -> None:
    members = federation.member_list()
    bundles = federation.bundles(members)
    for server_round in range(1, federation.config.federation.rounds + 1):
        masked = federation.masked_by(members, bundles, server_round=server_round)
        sums = federation.opened(
            federation.opening("amber", members, bundles), masked, server_round=server_round
        )
        assert_sum(sums["trunk"], federation, TASKS, server_round=server_round)
        notes = {site: parsed(a.secure_json, MaskedNote) for site, a in masked.items()}
        bundles = {site: note.next for site, note in notes.items() if note.next is not None}
    assert not bundles  # none after the last round
    assert all(note.next is None for note in notes.values())


def test_sites_that_drop_out_at_any_point_do_not_spoil_the_sum(federation: Federation) -> None:
    members = federation.member_list()
    # inlet sends no keys, heath no update; grove's update comes, and no shares of it.
    bundles = federation.bundles(members, without=["inlet"])
    masked = federation.masked_by(members, bundles, without=["heath"])
    opening = federation.opening("amber", members, bundles)
    sums = federation.opened(opening, masked, silent=["grove"])
    left = set(TASKS) - {"inlet", "heath"}
    assert set(sums) == {"trunk", "chestx"}
    assert_sum(sums["trunk"], federation, left)
    assert_sum(sums["chestx"], federation, of_task("chestx"))
    assert set(masked["cedar"].masked) == {"trunk"}  # two sites of its task were in the round
    assert set(masked["birch"].masked) == {"trunk", "retina"}  # the third dropped out later


def test_an_update_that_came_late_stays_closed(federation: Federation) -> None:
    members = federation.member_list()
    bundles = federation.bundles(members)
    everyone = federation.masked_by(members, bundles)
    in_time = {site: answer for site, answer in everyone.items() if site != "fjord"}
    opening = federation.opening("amber", members, bundles)
    sums = federation.opened(opening, in_time)
    assert_sum(sums["trunk"], federation, set(TASKS) - {"fjord"})
    given = federation.ask_shares("amber", federation.unmasking(opening, in_time))
    assert set(given.mask_keys) == {"fjord"}
    assert "fjord" not in given.self_seeds  # what would take off the mask it has beside
    assert "pathoscan" not in given.self_seeds["cedar"]  # of two sites only: not opened


def test_too_few_shares_open_nothing(federation: Federation) -> None:
    members = federation.member_list()
    bundles = federation.bundles(members)
    masked = federation.masked_by(members, bundles)
    opening = federation.opening("amber", members, bundles)
    silent = ["amber", "birch", "cedar", "delta"]  # five of the six that are needed are left
    with pytest.raises(AggregationError, match="shares of 6 sites, 5 came"):
        federation.opened(opening, masked, silent=silent)


def test_the_same_question_gets_the_same_keys_also_after_a_restart(federation: Federation) -> None:
    members = federation.member_list()
    first = federation.ask_bundle("amber", 1, members)
    federation.members["amber"] = federation.restarted("amber")
    assert federation.member_key("amber") == members.members[0]
    assert federation.ask_bundle("amber", 1, members) == first
    assert isinstance(first, Bundle)
    assert first.key.shares_digest == shares_digest(first.shares)
    smaller = federation.member_list(sorted(TASKS)[:8])
    other = federation.ask_bundle("amber", 1, smaller)
    assert isinstance(other, Bundle)
    assert other.key.mask_key != first.key.mask_key
    assert federation.ask_bundle("amber", 1, members) != first  # those secrets are gone


def test_keys_differ_from_run_to_run_and_round_to_round(federation: Federation) -> None:
    assert (
        federation.member_key("amber").letter_key != federation.member_key("amber", "b").letter_key
    )
    members = federation.member_list()
    keys = {federation.ask_bundle("amber", number, members).key.mask_key for number in (1, 2, 3)}
    assert len(keys) == 3


def test_secrets_lie_safely_are_used_once_and_go(federation: Federation) -> None:
    members = federation.member_list()
    bundles = federation.bundles(members)
    folder = federation.folder / "amber" / RUN
    before = (folder / "round-000001.json").read_text()
    assert '"secrets":{' in before
    for server_round in (1, 2, 3):
        masked = federation.masked_by(members, bundles, server_round=server_round)
        bundles = {s: parsed(a.secure_json, MaskedNote).next for s, a in masked.items()}
    kept = sorted(path.name for path in folder.iterdir())
    assert kept == ["round-000002.json", "round-000003.json", "round-000004.json", "run.json"]
    assert '"secrets":null' in (folder / "round-000003.json").read_text()
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_of_many_runs_only_how_far_they_came_is_kept(federation: Federation) -> None:
    members = federation.member_list()
    federation.masked_by(members, federation.bundles(members))
    for number in range(20):
        federation.member_key("amber", f"later-{number}")
    folder = federation.folder / "amber" / RUN
    assert [path.name for path in folder.iterdir()] == ["run.json"]
    assert json.loads((folder / "run.json").read_text()) | {"last_use": 0} == {
        "letter_key": None,
        "masked_round": 1,
        "last_use": 0,
    }
    again = federation.member_key("amber")
    assert again.letter_key != members.members[0].letter_key
    fresh = federation.member_list()
    refused = federation.ask_bundle("amber", 1, fresh)
    assert isinstance(refused, Refusal)
    assert refused.code == RefusalCode.OUT_OF_ORDER


def test_the_latest_runs_keep_their_keys_however_many_have_lost_theirs(
    federation: Federation,
) -> None:
    runs = [f"run-{number}" for number in range(MAX_RUNS + 6)]
    first = {run: federation.member_key("amber", run) for run in runs}
    federation.member_key("amber", runs[0])  # it had lost its key, and comes back
    memory = SecureMemory(federation.folder / "amber")
    live = [run for run in runs if (kept := memory.run(run)) and kept.letter_key is not None]
    assert live == [runs[0], *runs[-(MAX_RUNS - 1) :]]
    for run in runs[-(MAX_RUNS - 1) :]:
        assert federation.member_key("amber", run) == first[run]


def test_what_leaves_shows_nothing_of_the_update(federation: Federation) -> None:
    members = federation.member_list()
    bundles = federation.bundles(members)
    answer = federation.mask("amber", federation.opening("amber", members, bundles))
    assert isinstance(answer, MaskedUpdate)
    assert {array.dtype for array in answer.masked.values()} == {np.dtype(np.uint32)}
    octets = np.bincount(answer.masked["trunk"].view(np.uint8), minlength=256)
    assert octets.max() < 20  # 900 octets, 3.5 of each kind; the plain one has hundreds of one kind
