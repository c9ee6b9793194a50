"""A run with noise and under masks over real processes: what is spent, and what can be read."""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from common.config.run import RunConfig
from common.messages.envelope import SignedRequest
from common.messages.kinds import Evaluation, MaskedUpdate, Shares, TrainRequest, Update
from common.secure_sum.groups import groups_of
from common.secure_sum.layout import layouts
from common.secure_sum.opening import open_sums
from common.secure_sum.statements import OpenedShares, RoundOpening, parsed
from harness.federation import Federation
from harness.protected import NOISE_MULTIPLIER, PRIVATE, SAMPLE_RATE, SECURE, STEPS
from harness.start import start_federation
from harness.tap import Tap

SITES = ("north", "harbour", "island")
ROUNDS = (1, 2)
UNIFORM = 255 + 8 * np.sqrt(2 * 255)  # chi-squared of a byte's 256 values, eight deviations up

MessageT = TypeVar("MessageT")

pytestmark = [
    pytest.mark.deployment,
    pytest.mark.timeout(240),
    pytest.mark.xdist_group("deployment"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # inside Flower's protobuf code
]


@dataclass
class Ended:
    """A run that is over."""

    federation: Federation
    tap: Tap
    run: str
    summary: dict[str, Any]

    @cached_property
    def messages(self) -> list[object]:
        return list(self.tap.messages())

    def seen(self, kind: type[MessageT]) -> list[MessageT]:
        return [message for message in self.messages if isinstance(message, kind)]

    def asked(self, server_round: int) -> dict[str, TrainRequest]:
        """Return what each site was asked to train, as the coordinator's machine saw it."""
        return {
            signed.site: signed.request
            for signed in self.seen(SignedRequest)
            if isinstance(signed.request, TrainRequest)
            and signed.request.server_round == server_round
        }

    def sums(self, server_round: int) -> dict[str, NDArray[np.uint32]]:
        """Open a round with what went over the wire and nothing else."""
        asked = self.asked(server_round)["north"]
        came = [m for m in self.seen(MaskedUpdate) if m.server_round == server_round]
        given = [m for m in self.seen(Shares) if m.server_round == server_round]
        return open_sums(
            parsed(asked.secure_json, RoundOpening),
            {update.site: update.masked for update in came},
            {shares.site: parsed(shares.shares_json, OpenedShares) for shares in given},
            groups=groups_of(RunConfig.model_validate_json(asked.config_json)),
            sites=len(SITES),
            run=self.run,
            server_round=server_round,
        )


@pytest.fixture(scope="module")
def ended() -> Iterator[Ended]:
    federation = start_federation(dict.fromkeys(SITES, "chestx"))
    try:
        tap = Tap(federation.home / "superlink" / "state.db")
        federation.pin_peers(*SITES)
        run = federation.launch(*PRIVATE, *SECURE, "federation.rounds=2", sites=SITES)
        federation.approve(run, SITES)
        yield Ended(federation, tap, run, federation.finished(run, within_s=150))
    finally:
        federation.close()


def test_the_run_is_complete(ended: Ended) -> None:
    assert ended.summary["verdict"] == "COMPLETE", ended.summary["reasons"]
    assert [entry["round"] for entry in ended.summary["rounds"]] == [0, *ROUNDS]
    for entry in ended.summary["rounds"][1:]:
        assert {group: told["sites"] for group, told in entry["summed"]["groups"].items()} == {
            "trunk": 3,
            "chestx": 3,
        }


def test_each_ledger_holds_one_spending_a_round_and_the_coordinator_tells_its_epsilon(
    ended: Ended,
) -> None:
    told = {site["site"]: site["epsilon"] for site in ended.summary["rounds"][-1]["sites"]}
    assert set(told) == set(SITES)
    for name in SITES:
        spent = [e for e in ended.federation.ledger(name, ended.run) if e["kind"] == "spending"]
        assert [entry["server_round"] for entry in spent] == list(ROUNDS)
        assert {(e["noise_multiplier"], e["sample_rate"], e["steps"]) for e in spent} == {
            (NOISE_MULTIPLIER, SAMPLE_RATE, STEPS)
        }
        shown = json.loads(ended.federation.fovea_site(name, "ledger", "show", "--json"))
        assert told[name] == pytest.approx(shown["epsilon"], rel=1e-9)
        assert 0 < shown["epsilon"] < shown["budget"] == 8.0
        assert [account["rounds"] for account in shown["runs"]] == [2]
    assert ended.summary["rounds"][-1]["epsilon"] == max(told.values())


def test_the_ledger_is_exported_as_a_table_too(ended: Ended) -> None:
    table = ended.federation.fovea_site("north", "ledger", "export", "--format", "csv")
    rows = [row for row in csv.DictReader(io.StringIO(table)) if row["kind"] == "spending"]
    assert [row["server_round"] for row in rows] == ["1", "2"]


def test_no_site_sent_anything_but_what_looks_like_chance(ended: Ended) -> None:
    assert not ended.seen(Update)
    assert not ended.seen(Evaluation)
    came = ended.seen(MaskedUpdate)
    assert {(m.site, m.server_round) for m in came} == {(s, r) for s in SITES for r in ROUNDS}
    for update in came:
        assert set(update.masked) == {"trunk", "chestx"}
        for vector in update.masked.values():
            assert unevenness(vector) < UNIFORM
    # The same measure tells that what the masks were taken off is no chance.
    assert unevenness(ended.sums(1)["trunk"]) > 10 * UNIFORM


def test_what_the_coordinator_could_open_is_the_change_it_applied(ended: Ended) -> None:
    first, second = ended.asked(1)["north"], ended.asked(2)["north"]
    shapes = {name: array.shape for name, array in first.arrays.items()}
    made = layouts(RunConfig.model_validate_json(first.config_json), shapes, task="chestx")
    opened = ended.sums(1)
    applied = 0
    for group, layout in made.items():
        for name, change in layout.decode(opened[group]).mean().items():
            moved = first.arrays[name] + change
            np.testing.assert_allclose(second.arrays[name], moved, rtol=1e-6, atol=1e-7)
            applied += not np.array_equal(first.arrays[name], second.arrays[name])
    assert applied > 10


def test_the_coordinators_folder_keeps_models_only(ended: Ended) -> None:
    folder = ended.federation.home / "runs" / ended.run
    names = set(ended.asked(1)["north"].arrays)
    holders = {path.stem for path in folder.rglob("*.safetensors") if names & arrays_of(path)}
    assert holders == {"checkpoint", "best", "last"}
    masked = [m.masked["trunk"].tobytes()[:256] for m in ended.seen(MaskedUpdate)]
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert not [f for f in files for start in masked if start in f.read_bytes()]
    for entry in ended.summary["rounds"][1:]:
        for site in entry["sites"]:
            assert (site["num_examples"], site["metrics"], site["evaluation"]) == (None, {}, {})


def test_the_sites_keep_no_secret_of_a_round_that_is_over(ended: Ended) -> None:
    for name in SITES:
        folder = ended.federation.sites[name].home / "trainer" / "state" / "secure"
        rounds = [json.loads(p.read_text()) for p in folder.rglob("*.json") if "ound" in p.name]
        assert rounds
        assert not [kept for kept in rounds if kept.get("secrets")]


def test_the_audit_logs_verify_and_name_every_spending_and_pin(ended: Ended) -> None:
    for name in SITES:
        ended.federation.fovea_site(name, "audit", "verify")
        site = ended.federation.sites[name]
        spent = [r["round"] for r in site.events("budget-spent") if r["run"] == ended.run]
        assert spent == list(ROUNDS)
        assert {record["peer"] for record in site.events("peer-pinned")} == {*SITES} - {name}


def arrays_of(path: Path) -> set[str]:
    """Return the names in a file, those of a checkpoint's model without their prefix."""
    return {name.removeprefix("model/") for name in load_file(path)}


def unevenness(vector: NDArray[np.uint32]) -> float:
    """Return chi-squared, with 255 degrees of freedom, of all bytes against all being as likely."""
    counts = np.bincount(np.frombuffer(vector.tobytes(), np.uint8), minlength=256)
    expected = counts.sum() / 256
    return float(((counts - expected) ** 2 / expected).sum())
