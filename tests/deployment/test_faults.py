"""What hospitals' machines and networks do to a run, and how each ends: named, nothing lost."""

import signal
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from harness.federation import Federation, wait_until
from harness.start import TASKS, start_federation

pytestmark = [pytest.mark.deployment, pytest.mark.timeout(900)]

ALL = tuple(TASKS)
LONG = "train.epochs=8"  # a round that lasts long enough to break something in it


@pytest.fixture(scope="module")
def federation() -> Iterator[Federation]:
    made = start_federation()
    yield made
    made.close()


def started(federation: Federation, *overrides: str, sites: tuple[str, ...] = ALL) -> str:
    run = federation.launch(*overrides, sites=sites)
    federation.approve(run, sites)
    return run


def trained(federation: Federation, site: str, run: str) -> list[int]:
    """Return the rounds a site has trained (not repeated) in a run, in order."""
    return [
        int(record["round"])
        for record in federation.sites[site].events("answer-released")
        if record["run"] == run and record["kind"] == "train-request"
    ]


def waits_in(federation: Federation, run: str, number: int) -> None:
    """Wait until every site has a round's request and works on it."""
    federation.reaches_round(run, number, within_s=120)
    for site in ALL:
        wait_until(
            f"{site} was asked for round {number}",
            lambda site=site: any(
                record["run"] == run and record.get("round") == number
                for record in federation.sites[site].events("request-received")
            ),
            within_s=60,
        )


def said_of(summary: dict[str, Any], site: str) -> str:
    return " ".join(reason for reason in summary["reasons"] if site in reason)


def test_a_site_killed_while_training_is_named_and_the_others_go_on(
    federation: Federation,
) -> None:
    run = started(federation, LONG, "federation.return_grace_s=10")
    waits_in(federation, run, 2)
    federation.sites["valley"].kill()

    summary = federation.finished(run, within_s=300)

    assert summary["verdict"] == "PARTIAL"
    assert "round" in said_of(summary, "valley")
    assert "left" in said_of(summary, "valley")
    assert not said_of(summary, "north")
    assert trained(federation, "north", run) == [1, 2, 3]
    federation.sites["valley"].start()


def test_a_site_killed_and_restarted_at_once_loses_nothing(federation: Federation) -> None:
    run = started(federation, LONG)
    waits_in(federation, run, 2)
    federation.sites["valley"].kill()
    federation.sites["valley"].start()

    summary = federation.finished(run, within_s=400)

    assert summary["verdict"] == "COMPLETE", summary["reasons"]
    assert trained(federation, "valley", run) == [1, 2, 3]


def test_a_trainer_killed_under_a_living_connector_costs_no_round(
    federation: Federation,
) -> None:
    run = started(federation, LONG)
    waits_in(federation, run, 2)
    trainer = federation.sites["lakeside"].trainer
    trainer.kill()
    trainer.start()

    summary = federation.finished(run, within_s=300)

    assert summary["verdict"] == "COMPLETE", summary["reasons"]
    assert trained(federation, "lakeside", run) == [1, 2, 3]


def test_a_site_slower_than_the_deadline_is_named_and_its_late_reply_changes_nothing(
    federation: Federation,
) -> None:
    run = started(federation, "federation.round_timeout_s=40", "federation.return_grace_s=5", LONG)
    waits_in(federation, run, 1)
    trainer = federation.sites["north"].trainer
    trainer.signal(signal.SIGSTOP)
    federation.reaches_round(run, 2, within_s=90)
    trainer.signal(signal.SIGCONT)

    summary = federation.finished(run, within_s=300)

    assert summary["verdict"] == "PARTIAL"
    assert "no answer within 40 s" in said_of(summary, "north")
    first = next(entry for entry in summary["rounds"] if entry["round"] == 1)
    assert summary["late_replies"] == 1
    outcomes = {site["site"]: site["outcome"] for site in first["sites"]}
    assert outcomes == {"north": "missing", "valley": "answered", "lakeside": "answered"}


def test_a_site_that_never_connects_is_named(federation: Federation) -> None:
    federation.sites["lakeside"].connector.stop()
    run = federation.launch("federation.wait_for_sites_s=30", sites=ALL)
    federation.approve(run, ("north", "valley"))

    summary = federation.finished(run, within_s=200)

    assert summary["verdict"] == "PARTIAL"
    assert "lakeside did not answer in rounds 1, 2, 3" in said_of(summary, "lakeside")
    federation.sites["lakeside"].connector.start()


def test_a_killed_coordinator_goes_on_to_the_same_model(federation: Federation) -> None:
    undisturbed = started(federation, LONG, "seed=5")
    assert federation.finished(undisturbed, within_s=300)["verdict"] == "COMPLETE"
    run = started(federation, LONG, "seed=5")
    waits_in(federation, run, 2)
    assert federation.server is not None
    federation.server.kill()
    time.sleep(2)
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
    assert [entry["round"] for entry in summary["rounds"]] == [0, 1, 2, 3]
    for which in ("last", "best"):
        expected, found = federation.model(undisturbed, which), federation.model(run, which)
        assert expected.keys() == found.keys()
        for name, array in expected.items():
            np.testing.assert_array_equal(found[name], array, err_msg=name)
    for site in ALL:
        assert trained(federation, site, run) == [1, 2, 3]


def test_a_run_that_the_policy_forbids_is_refused_with_the_reason(federation: Federation) -> None:
    federation.edit_policy("north", max_rounds=2)
    run = federation.launch("federation.wait_for_sites_s=20", sites=ALL)
    federation.approve(run, ("valley", "lakeside"))

    summary = federation.finished(run, within_s=200)

    assert summary["verdict"] == "PARTIAL"
    assert "at most 2 rounds" in said_of(summary, "north")
    refusals = [r for r in federation.sites["north"].events("request-refused") if r["run"] == run]
    assert {record["code"] for record in refusals} == {"forbidden"}
    federation.edit_policy("north", max_rounds=100)


def test_a_run_that_nobody_approves_is_refused_with_the_reason(federation: Federation) -> None:
    run = federation.launch("federation.wait_for_sites_s=20", sites=ALL)
    federation.approve(run, ("valley", "lakeside"))

    summary = federation.finished(run, within_s=200)

    assert summary["verdict"] == "PARTIAL"
    assert "approv" in said_of(summary, "north")
    assert trained(federation, "north", run) == []


def test_a_run_revoked_at_a_site_stops_there(federation: Federation) -> None:
    """Of the round that it trains when a person says no, nothing leaves any more."""
    run = started(federation, LONG)
    waits_in(federation, run, 2)
    federation.fovea_site("valley", "revoke", run)

    summary = federation.finished(run, within_s=300)

    assert summary["verdict"] == "PARTIAL"
    assert "revoked" in said_of(summary, "valley")
    assert trained(federation, "valley", run) == [1]


def test_a_site_that_the_coordinator_retires_gets_nothing_more(federation: Federation) -> None:
    federation.fovea("retire", "lakeside")
    said = federation.fovea("launch", str(federation.recipe), "--sites", ",".join(ALL), fails=True)
    assert "lakeside" in said
    before = len(federation.sites["lakeside"].audit())

    run = started(federation, sites=("north", "valley"))
    summary = federation.finished(run, within_s=200)

    assert summary["verdict"] == "COMPLETE", summary["reasons"]
    assert len(federation.sites["lakeside"].audit()) == before
    wait_until(
        "lakeside says that it is not admitted",
        lambda: "admitted" in federation.fovea_site("lakeside", "status", fails=True),
        within_s=120,
        every_s=2,
    )


def test_every_audit_log_still_verifies(federation: Federation) -> None:
    for site in ALL:
        federation.fovea_site(site, "audit", "verify")
