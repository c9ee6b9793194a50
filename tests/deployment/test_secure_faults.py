"""What breaks a run with noise or under masks, and how it ends: named, nothing spent unseen."""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from common.messages.kinds import Update
from harness.federation import Federation, wait_until
from harness.protected import PRIVATE, SECURE
from harness.start import start_federation
from harness.tap import Tap

FOUR = ("north", "harbour", "island", "moor")  # three of them can open a sum
# Rounds that last long enough to break something in them.
LONG = "train.epochs=8"
LONG_PRIVATE = "privacy.steps_per_round=24"

pytestmark = [
    pytest.mark.deployment,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # inside Flower's protobuf code
]


@pytest.fixture(scope="module")
def federation() -> Iterator[Federation]:
    made = start_federation(dict.fromkeys(FOUR, "chestx"))
    try:
        made.pin_peers(*FOUR)
        for name in FOUR:
            edit_budget(made, name, None)
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def tap(federation: Federation) -> Tap:
    return Tap(federation.home / "superlink" / "state.db")


def edit_budget(federation: Federation, site: str, epsilon: float | None) -> None:
    federation.edit_policy(site, "privacy", epsilon=epsilon)


def started(
    federation: Federation, *overrides: str, rounds: int = 2, refusing: tuple[str, ...] = ()
) -> str:
    run = federation.launch(*overrides, f"federation.rounds={rounds}", sites=FOUR)
    federation.approve(run, [name for name in FOUR if name not in refusing])
    return run


def released(federation: Federation, site: str, run: str, kind: str) -> list[int]:
    """Return the rounds for which a site has given an answer of a kind, in order."""
    return [
        int(record["round"])
        for record in federation.sites[site].events("answer-released")
        if record["run"] == run and record["kind"] == kind
    ]


def works_on(federation: Federation, site: str, run: str, number: int) -> None:
    """Wait until a site trains a round."""
    wait_until(
        f"{site} trains round {number}",
        lambda: any(
            (record["run"], record["kind"], record["round"]) == (run, "train-request", number)
            for record in federation.sites[site].events("request-permitted")
        ),
        within_s=200,
        every_s=0.05,
    )


def spent(federation: Federation, site: str, run: str) -> list[int]:
    """Return the rounds that a site's ledger says it has spent on, in order."""
    entries = federation.ledger(site, run)
    return [int(entry["server_round"]) for entry in entries if entry["kind"] == "spending"]


def spendings(ledger: Path) -> set[tuple[str, int]]:
    """Return the runs and rounds that a ledger's file names, as far as whole lines go."""
    lines = ledger.read_text().split("\n")[:-1] if ledger.exists() else []
    entries = [json.loads(line) for line in lines]
    return {(e["run"], e["round"]) for e in entries if e["event"] == "spending"}


def came(federation: Federation, run: str, site: str, number: int) -> bool:
    """Say whether the coordinator has a site's update of a round."""
    status = federation.status(run)["status"]
    standing = {each["name"]: each for each in status["sites"]}[site]
    is_current = status["server_round"] == number and status["phase"] == "training"
    return is_current and site not in status["waiting_for"] and standing["server_round"] == number


@contextmanager
def held(federation: Federation, *sites: str) -> Iterator[None]:
    """Let the trainers of these sites stand still for a while."""
    trainers = [federation.sites[name].trainer for name in sites]
    for trainer in trainers:
        trainer.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for trainer in trainers:
            trainer.signal(signal.SIGCONT)


def all_but_last_came(federation: Federation, run: str, number: int, *, last: str) -> None:
    """Wait until only one site's update of a round is missing."""
    for site in FOUR:
        if site != last:
            wait_until(
                f"the update of {site} in round {number}",
                lambda site=site: came(federation, run, site, number),
                within_s=150,
                every_s=0.5,
            )


def said_of(summary: dict[str, Any], site: str) -> str:
    return " ".join(reason for reason in summary["reasons"] if site in reason)


def sites_summed(summary: dict[str, Any]) -> dict[int, int]:
    """Return how many sites the trunk's sum of each round was over."""
    return {
        entry["round"]: entry["summed"]["groups"]["trunk"]["sites"]
        for entry in summary["rounds"][1:]
    }


def test_a_site_lost_between_its_update_and_the_opening_is_still_in_the_sum(
    federation: Federation,
) -> None:
    run = started(federation, *SECURE, LONG, "federation.return_grace_s=10")
    works_on(federation, "north", run, 2)
    with held(federation, "north"):
        all_but_last_came(federation, run, 2, last="north")
        federation.sites["island"].kill()

    summary = federation.finished(run, within_s=300)

    assert sites_summed(summary) == {1: 4, 2: 4}
    assert summary["verdict"] == "COMPLETE", summary["reasons"]
    assert released(federation, "island", run, "unmask-request") == [1]
    assert released(federation, "north", run, "unmask-request") == [1, 2]
    federation.sites["island"].start()


def test_a_site_lost_before_its_update_is_taken_out_and_the_others_are_summed(
    federation: Federation,
) -> None:
    run = started(federation, *SECURE, LONG, "federation.return_grace_s=10")
    works_on(federation, "island", run, 2)
    trainer = federation.sites["island"].trainer
    trainer.signal(signal.SIGSTOP)
    for site in ("north", "harbour", "moor"):
        wait_until(
            f"the update of {site} in round 2",
            lambda site=site: came(federation, run, site, 2),
            within_s=150,
            every_s=0.5,
        )
    federation.sites["island"].kill()

    summary = federation.finished(run, within_s=300)

    assert summary["verdict"] == "PARTIAL"
    assert "island" in said_of(summary, "island")
    assert sites_summed(summary) == {1: 4, 2: 3}
    federation.sites["island"].start()


def test_a_coordinator_lost_between_updates_and_opening_goes_on_and_no_site_spends_twice(
    federation: Federation,
) -> None:
    run = started(federation, *PRIVATE, *SECURE, LONG_PRIVATE, rounds=3)
    works_on(federation, "north", run, 2)
    opened = federation.home / "runs" / run / "out" / "model" / "secure_round.json"
    others = [name for name in FOUR if name != "north"]
    with held(federation, "north"):
        all_but_last_came(federation, run, 2, last="north")
        for name in others:
            federation.sites[name].trainer.signal(signal.SIGSTOP)
    wait_until(
        "the opening of round 2 begins",
        lambda: is_being_opened(json.loads(opened.read_text()), 2),
        within_s=90,
    )
    assert federation.server is not None
    federation.server.kill()
    for name in others:
        federation.sites[name].trainer.signal(signal.SIGCONT)
    federation.serve()
    wait_until(
        "the run is seen to be interrupted",
        lambda: federation.status(run)["state"] == "interrupted",
        within_s=90,
        every_s=1,
    )

    federation.fovea("resume", run)
    summary = federation.finished(run, within_s=400)

    assert summary["verdict"] == "COMPLETE", summary["reasons"]
    assert sites_summed(summary) == {1: 4, 2: 4, 3: 4}
    for site in FOUR:
        assert spent(federation, site, run) == [1, 2, 3]
        assert set(released(federation, site, run, "unmask-request")) == {1, 2, 3}


def is_being_opened(kept: dict[str, Any], number: int) -> bool:
    return kept["server_round"] == number and kept["unmasking"] is not None


def test_a_trainer_killed_whenever_it_has_spent_never_lets_go_more_than_its_ledger_says(
    federation: Federation, tap: Tap
) -> None:
    ledger = federation.sites["north"].home / "trainer" / "ledger" / "ledger.jsonl"
    run = started(federation, *PRIVATE, rounds=3)
    trainer = federation.sites["north"].trainer
    for number in (1, 2, 3):
        wait_until(
            f"north spends on round {number}",
            lambda number=number: (run, number) in spendings(ledger),
            within_s=300,
            every_s=0.005,
        )
        trainer.signal(signal.SIGKILL)  # what watches over it starts it again

    summary = federation.finished(run, within_s=300)

    assert summary["verdict"] == "COMPLETE", summary["reasons"]
    updates = [m for m in tap.messages() if isinstance(m, Update) and m.run == run]
    left = sorted(update.server_round for update in updates if update.site == "north")
    counted = spent(federation, "north", run)
    assert set(left) == {1, 2, 3}
    assert all(counted.count(number) >= left.count(number) for number in left)
    assert len(counted) > 3  # at least once it was lost on the way, and spent all the same
    assert spent(federation, "harbour", run) == [1, 2, 3]
    federation.fovea_site("north", "audit", "verify")


def test_a_site_that_knows_another_by_a_wrong_fingerprint_takes_no_part_and_says_so(
    federation: Federation,
) -> None:
    shown = json.loads(federation.fovea_site("moor", "peers", "show", "--json"))
    federation.fovea_site("north", "peers", "remove", "moor")
    federation.fovea_site("north", "peers", "add", "moor", "00" * 16)

    run = started(federation, *SECURE, "federation.wait_for_sites_s=20", refusing=("north",))
    summary = federation.finished(run, within_s=200)

    assert summary["verdict"] == "PARTIAL"
    assert "another key for site moor" in said_of(summary, "north")
    refusals = [r for r in federation.sites["north"].events("request-refused") if r["run"] == run]
    assert {record["code"] for record in refusals} == {"forbidden"}
    assert released(federation, "north", run, "train-request") == []
    assert sites_summed(summary) == {1: 3, 2: 3}
    federation.fovea_site("north", "peers", "remove", "moor")
    federation.fovea_site("north", "peers", "add", "moor", shown["fingerprint"])


def test_a_round_beyond_the_budget_is_refused_before_it_is_trained(
    federation: Federation,
) -> None:
    run = started(federation, *PRIVATE, *SECURE, LONG_PRIVATE)
    works_on(federation, "north", run, 1)
    with held(federation, "north"):
        all_but_last_came(federation, run, 1, last="north")
        after = json.loads(federation.fovea_site("moor", "ledger", "show", "--json"))
        edit_budget(federation, "moor", after["epsilon"] * 1.0001)

    summary = federation.finished(run, within_s=300)

    assert summary["verdict"] == "PARTIAL"
    assert "privacy budget would be exceeded" in said_of(summary, "moor")
    assert spent(federation, "moor", run) == [1]
    permitted = [r for r in federation.sites["moor"].events("request-permitted") if r["run"] == run]
    assert [r["round"] for r in permitted if r["kind"] == "train-request"] == [1]
    assert sites_summed(summary) == {1: 4, 2: 3}
    edit_budget(federation, "moor", None)


def test_every_ledger_and_audit_log_is_whole(federation: Federation) -> None:
    for site in FOUR:
        federation.fovea_site(site, "audit", "verify")
        told = json.loads(federation.fovea_site(site, "ledger", "show", "--json"))
        assert told["epsilon"] > 0
