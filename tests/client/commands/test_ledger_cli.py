"""What a data-protection officer reads of the budget, before and after a run."""

import csv
import json
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from rich.console import Console

from client.cli import main
from client.consent.approvals import Approvals
from client.consent.ledger_standing import privacy_standing
from client.consent.policy_file import read_policy
from client.consent.policy_privacy import objections_to_spending
from client.home.folders import SiteHome
from client.home.site import SiteSettings
from client.preflight.ledger import check_ledger
from client.records.accountant import epsilon
from client.records.ledger import Ledger
from client.records.spending import Spending
from client.standing.status import site_status, status_view
from client.trust.peers import write_pins
from common.config.reading import load_config
from common.messages.manifest import Manifest, ManifestSite, SignedManifest, sign_manifest
from common.messages.signing import PrivateKey
from common.not_covered import NOT_COVERED, NOT_COVERED_LINE

CONFIGS = Path(__file__).parents[3] / "configs"
POLICY = CONFIGS / "policies" / "strict.yaml"
NOW = datetime.now(UTC)
RUN_KEY = PrivateKey.new()
KEYS = {name: PrivateKey.new().public for name in ("north", "south", "west")}
ROUND = Spending(
    mechanism="poisson-subsampled-gaussian",
    unit="patient",
    noise_multiplier=2.0,
    sample_rate=0.1,
    steps=20,
)
NOISE = ("privacy.enabled=true", "privacy.noise_multiplier=2.0", "privacy.sample_rate=0.1")


@pytest.fixture
def home(tmp_path: Path) -> SiteHome:
    home = SiteHome(tmp_path / "site")
    home.trainer.mkdir(mode=0o700, parents=True)
    home.policy_file.write_text(POLICY.read_text())
    config = load_config(CONFIGS / "experiments" / "demo.yaml").run
    site = SiteSettings.model_validate(
        {
            "name": "north",
            "federation": "trial",
            "task": "chestx",
            "labels": None,
            "data": None,
            "source": config.sites[0].source.model_dump(),
            "preparation": {
                "image_size_px": 64,
                "seed": 7,
                "split": config.data.split.model_dump(),
                "preprocess": config.data.preprocess["chestx"].model_dump(),
                "duplicates": config.data.duplicates.model_dump(),
            },
            "machine": {"device": "cpu", "processes": 1, "num_threads": 1},
            "limits": {"request_mb": 64, "request_s": 60.0, "min_free_disk_mb": 1},
        }
    )
    home.site_file.write_text(yaml.dump(site.model_dump(mode="json"), Dumper=yaml.CSafeDumper))
    return home


def fovea_site(home: SiteHome, *arguments: str, typed: str | None = None) -> Result:
    return CliRunner().invoke(main, ["--home", str(home.root), *arguments], input=typed)


def words(result: Result) -> str:
    return " ".join(result.stdout.split())


def set_budget(home: SiteHome, budget: float | None) -> None:
    policy = yaml.load(POLICY.read_text(), Loader=yaml.CSafeLoader)
    policy["privacy"]["epsilon"] = budget
    home.policy_file.write_text(yaml.dump(policy, Dumper=yaml.CSafeDumper))


def spend(home: SiteHome, rounds: int, *, run: str = "first", spending: Spending = ROUND) -> None:
    for server_round in range(1, rounds + 1):
        Ledger(home.ledger).spend(
            spending, run=run, server_round=server_round, request_digest="ab" * 32, now=NOW
        )


def note(home: SiteHome, what: str, server_round: int) -> None:
    Ledger(home.ledger).note_release(
        what, run="plain", server_round=server_round, request_digest="cd" * 32, now=NOW
    )


def arrives(home: SiteHome, *wish: str, run: str = "next") -> SignedManifest:
    manifest = Manifest(
        version=1,
        federation="trial",
        run=run,
        sites=tuple(
            ManifestSite(name=name, task="chestx", signing_key=key.text)
            for name, key in KEYS.items()
        ),
        config=load_config(CONFIGS / "experiments" / "demo.yaml", list(wish)).run,
        architecture_digest="0" * 64,
        code_digest="1" * 64,
        issued_at=NOW,
        expires_at=NOW + timedelta(days=7),
    )
    signed = sign_manifest(manifest, RUN_KEY)
    Approvals(home.approvals).keep_waiting(signed, NOW)
    return signed


def of_patients(steps: int) -> float:
    return epsilon([ROUND.model_copy(update={"steps": steps})], unit="patient", delta=1e-5)


# --- ledger show and export ----------------------------------------------------------------


def test_show_tells_what_is_spent_what_is_left_and_what_is_not_covered(home: SiteHome) -> None:
    spend(home, 2)
    spend(home, 1, run="second")
    spend(home, 1, run="pictures", spending=ROUND.model_copy(update={"unit": "image"}))
    for server_round in (1, 2):
        note(home, "update", server_round)
    note(home, "data card", 0)

    told = words(fovea_site(home, "ledger", "show"))

    spent = of_patients(60)
    rounded_up = f"{math.ceil(spent * 100) / 100:.2f}"
    assert f"Spent by all runs together: epsilon {rounded_up} of 8, for each patient" in told
    assert f"{spent / 8:.0%} spent, {8 - spent:.2f} left" in told
    assert told.count("█") == round(40 * spent / 8)
    assert f"pictures 1 {NOW:%Y-%m-%d} image 2 0.1 20 –" in told
    assert "data card, without noise 1" in told
    assert "update, without noise 2" in told
    assert "noise that protects single images only 1" in told
    assert f"head {Ledger(home.ledger).verify().head}" in told


def test_show_as_json_has_the_numbers_by_run(home: SiteHome) -> None:
    spend(home, 2)
    spend(home, 1, run="second")
    note(home, "evaluation", 1)

    told = json.loads(fovea_site(home, "ledger", "show", "--json").stdout)

    assert (told["unit"], told["delta"], told["budget"]) == ("patient", 1e-5, 8.0)
    assert told["epsilon"] == of_patients(60)
    assert told["left"] == 8.0 - told["epsilon"]
    assert told["without_noise"] == {"evaluation": 1}
    by_run = {each["run"]: each for each in told["runs"]}
    assert (by_run["first"]["rounds"], by_run["first"]["epsilon"]) == (2, of_patients(40))
    assert by_run["second"]["spendings"] == [ROUND.model_dump()]
    assert sum(each["epsilon"] for each in told["runs"]) > told["epsilon"]
    assert told["not_covered"] == list(NOT_COVERED)


def test_show_of_a_site_of_which_nothing_left(home: SiteHome) -> None:
    told = words(fovea_site(home, "ledger", "show"))
    assert "epsilon 0.00 of 8, for each patient, at delta 1e-05" in told
    assert NOT_COVERED_LINE in told
    assert "0 entries" in told


def test_export_has_every_entry_in_both_forms(home: SiteHome) -> None:
    spend(home, 2)
    note(home, "update", 1)

    lines = fovea_site(home, "ledger", "export").stdout.splitlines()
    table = fovea_site(home, "ledger", "export", "--format", "csv").stdout.splitlines()

    entries, rows = [json.loads(line) for line in lines], list(csv.DictReader(table))
    assert [entry["kind"] for entry in entries] == ["spending", "spending", "release"]
    assert [row["noise_multiplier"] for row in rows] == ["2.0", "2.0", ""]
    assert [int(row["seq"]) for row in rows] == [entry["seq"] for entry in entries] == [1, 2, 3]


@pytest.mark.parametrize("command", ["show", "export"])
def test_a_damaged_ledger_is_an_error_with_a_remedy(home: SiteHome, command: str) -> None:
    spend(home, 2)
    home.ledger.write_text(home.ledger.read_text().splitlines(keepends=True)[0])

    result = fovea_site(home, "ledger", command)

    assert result.exit_code == 1
    assert "Nothing leaves this site until a person has looked" in result.stderr


# --- waiting and approve -------------------------------------------------------------------


def test_a_person_sees_what_a_run_with_noise_would_cost_before_saying_yes(home: SiteHome) -> None:
    spend(home, 2)
    set_budget(home, 20.0)
    arrives(home, *NOISE, "privacy.steps_per_round=20", "federation.rounds=3")

    listed = json.loads(fovea_site(home, "waiting", "--json").stdout)
    told = words(fovea_site(home, "approve", "next", typed="n\n"))

    noise = listed[0]["privacy"]["noise"]
    assert noise["epsilon_before"] == of_patients(40)
    assert noise["epsilon_after"] == of_patients(40 + 3 * 20)
    assert not listed[0]["privacy"]["is_refused"]
    assert "carry noise that protects each patient" in told
    assert "the budget is 20." in told
    assert NOT_COVERED_LINE in told


def test_rounds_that_were_spent_are_not_counted_once_more(home: SiteHome) -> None:
    arrives(home, *NOISE, "privacy.steps_per_round=20", "federation.rounds=3")
    spend(home, 2, run="next")

    listed = json.loads(fovea_site(home, "waiting", "--json").stdout)

    assert listed[0]["privacy"]["noise"]["epsilon_after"] == of_patients(60)


def test_a_run_beyond_the_budget_is_said_to_be_refused(home: SiteHome) -> None:
    set_budget(home, 0.5)
    arrives(home, *NOISE)

    assert "(refused)" in words(fovea_site(home, "waiting"))
    told = words(fovea_site(home, "approve", "next", typed="n\n"))
    assert "The budget is 0.5: rounds beyond it would be refused." in told


def test_a_plain_run_is_said_to_carry_neither_noise_nor_masks(home: SiteHome) -> None:
    arrives(home)

    assert "no noise" in words(fovea_site(home, "waiting"))
    told = words(fovea_site(home, "approve", "next", typed="n\n"))
    assert "nothing bounds what they tell of a single patient" in told
    assert "the coordinator sees this site's" in told


def test_a_sum_is_said_to_be_with_pinned_sites_or_not(home: SiteHome) -> None:
    arrives(home, "secure_aggregation.enabled=true")

    unpinned = words(fovea_site(home, "approve", "next", typed="n\n"))
    pins = {name: key.fingerprint for name, key in KEYS.items() if name != "north"}
    write_pins(home.peers, pins)
    pinned = words(fovea_site(home, "approve", "next", typed="n\n"))

    assert "would be refused: the sum would be with site south, which nobody" in unpinned
    assert "summed under masks, with sites that are all pinned here" in pinned
    assert "refused" not in pinned


def test_runs_are_listed_where_the_ledger_is_damaged(home: SiteHome) -> None:
    spend(home, 2)
    arrives(home, *NOISE)
    home.ledger.write_text("")

    listed = fovea_site(home, "waiting")
    assert listed.exit_code == 0
    assert "unknown" in listed.stdout
    approved = fovea_site(home, "approve", "next", "--yes")
    assert (approved.exit_code, "person has looked" in approved.stderr) == (1, True)


# --- status and check ----------------------------------------------------------------------


def shown_status(home: SiteHome) -> tuple[str, list[str]]:
    status, console = site_status(home, NOW), Console(width=200)
    with console.capture() as captured:
        console.print(status_view(status))
    return captured.get(), [each.what for each in status.problems]


def test_status_and_check_say_what_is_spent_of_the_budget(home: SiteHome) -> None:
    spend(home, 2)

    text, problems = shown_status(home)
    (finding,) = check_ledger(home)

    standing = privacy_standing(home)
    assert standing is not None
    assert standing.epsilon == of_patients(40)
    assert standing.in_words.endswith(" of 8 for each patient, at delta 1e-05")
    assert standing.in_words in text
    assert NOT_COVERED_LINE in text
    assert standing.not_covered == NOT_COVERED
    assert not any("budget" in problem for problem in problems)
    assert (finding.status, finding.found) == ("ok", f"whole, {standing.in_words}")


def test_it_is_noticed_that_another_round_would_be_refused(home: SiteHome) -> None:
    set_budget(home, (of_patients(40) + of_patients(60)) / 2)
    rules = read_policy(home.policy_file).privacy
    noticed = []
    for server_round in (1, 2):
        after = Ledger(home.ledger).epsilon(unit="patient", delta=1e-5, also=[ROUND])
        assert not list(objections_to_spending(after, rules))
        spend(home, 1, run=f"run-{server_round}")
        noticed.append([each for each in shown_status(home)[1] if "would exceed" in each])

    (finding,) = check_ledger(home)
    standing = privacy_standing(home)

    assert noticed[0] == []
    assert noticed[1][0].startswith("Privacy: another round like the last would exceed the budget")
    assert (finding.status, "policy.yaml" in finding.remedy) == ("warning", True)
    assert standing is not None
    assert standing.budget is not None
    assert standing.epsilon < standing.budget < standing.epsilon_next == of_patients(60)


def test_a_damaged_ledger_makes_a_site_unhealthy(home: SiteHome) -> None:
    spend(home, 2)
    home.ledger.write_text("")

    status = site_status(home, NOW)
    (finding,) = check_ledger(home)

    assert any("truncated" in each.what and each.blocks for each in status.problems)
    assert (finding.status, "backup" in finding.remedy) == ("error", True)


def test_nothing_is_said_of_a_budget_that_was_never_touched(home: SiteHome) -> None:
    note(home, "update", 1)

    text, _ = shown_status(home)
    (finding,) = check_ledger(home)

    assert "privacy" not in text
    assert (finding.status, finding.found) == ("ok", "whole, 1 entries, nothing spent")
