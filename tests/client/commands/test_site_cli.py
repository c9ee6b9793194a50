"""What a hospital types, right or wrong: decisions last and are audited, mistakes have a remedy."""

import csv
import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from client.cli import main
from client.consent.approvals import Approvals
from client.home.folders import SiteHome
from client.operations.initialise import initialise
from client.records.audit import AuditLog, export, verify
from common.config.reading import load_config
from common.messages.manifest import Manifest, ManifestSite, SignedManifest, sign_manifest
from common.messages.signing import PrivateKey
from server.operations.federation_file import read_federation
from server.operations.home import CoordinatorHome
from server.operations.provision import provision
from server.operations.renewal import renew_run_key

CONFIGS = Path(__file__).parents[3] / "configs"
NOW = datetime.now(UTC)
KEY = PrivateKey.new()
PHANTOM = {
    "kind": "phantom",
    "patients": 6,
    "pictures_per_patient": 1,
    "scanner_strength": 0.5,
    "lesion_contrast": 1.5,
    "roi_fraction": 0.5,
    "marker_agreement": None,
    "prevalence": None,
}
COMMANDS = (
    *("init", "prepare", "check", "run", "status", "waiting", "approve", "revoke", "pause"),
    *("resume", "audit verify", "audit export", "ledger show", "ledger export", "peers show"),
    *("peers list", "update-pins", "trainer", "connector"),
)
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> CoordinatorHome:
    home = CoordinatorHome(tmp_path_factory.mktemp("coordinator"))
    provision(read_federation(CONFIGS / "federations" / "example.yaml"), home, now=NOW)
    return home


@pytest.fixture(scope="module")
def made(coordinator: CoordinatorHome) -> Iterator[SiteHome]:
    with tempfile.TemporaryDirectory(prefix="fovea-") as folder:
        home = SiteHome(Path(folder) / "made")
        initialise(home, coordinator.kits / "north", now=NOW)
        settings = yaml.safe_load(home.site_file.read_text())
        settings |= {"data": None, "source": PHANTOM}
        settings["preparation"]["image_size_px"] = 64
        home.site_file.write_text(yaml.safe_dump(settings))
        yield home


@pytest.fixture
def home(made: SiteHome) -> Iterator[SiteHome]:
    """A site as `fovea-site init` makes it, in a folder whose name is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="fovea-") as folder:
        Path(folder).chmod(0o755)
        shutil.copytree(made.root, Path(folder) / "site")
        yield SiteHome(Path(folder) / "site")


def site(home: SiteHome, *arguments: str, typed: str | None = None) -> Result:
    return CliRunner().invoke(main, ["--home", str(home.root), *arguments], input=typed)


def a_run(run: str = "demo-1", *overrides: str, **changes: object) -> SignedManifest:
    config = load_config(CONFIGS / "experiments" / "demo.yaml", list(overrides)).run
    values: dict[str, object] = {
        "version": 1,
        "federation": "example",
        "run": run,
        "sites": (ManifestSite(name="north", task="chestx", signing_key="key"),),
        "config": config,
        "architecture_digest": "0" * 64,
        "code_digest": "1" * 64,
        "issued_at": NOW,
        "expires_at": NOW + timedelta(days=7),
    }
    return sign_manifest(Manifest.model_validate(values | changes), KEY)


def arrives(home: SiteHome, signed: SignedManifest) -> str:
    Approvals(home.approvals).keep_waiting(signed, NOW)
    return signed.digest


def events(home: SiteHome) -> list[dict[str, object]]:
    return [dict(entry) for entry in export(home.audit_log)]


def me() -> str:
    before = os.environ.get("SUDO_USER")
    name = pwd.getpwuid(os.geteuid()).pw_name
    return f"{name} (sudo by {before})" if before else name


# --- help and usage ------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_teaches_and_tells_its_exit_codes(command: str) -> None:
    told = " ".join(CliRunner().invoke(main, [*command.split(), "--help"]).stdout.split())
    assert "Exit codes: 0 " in told
    assert "2 wrong" in told
    assert "--home PATH" in told


def test_the_program_lists_all_commands_and_exit_codes() -> None:
    told = CliRunner().invoke(main, ["--help"]).stdout
    listed = told.partition("Commands:")[2].split()
    assert {command.split()[0] for command in COMMANDS} <= set(listed)
    assert "3 done, but warnings" in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["aprove"], "Did you mean 'approve'?"),
        (["approve"], "Missing argument 'RUN|DIGEST'"),
        (["status", "--jsn"], "Did you mean '--json'?"),
        (["audit", "export", "--format", "xml"], "'xml' is not one of 'jsonl', 'csv'"),
        (["init"], "Missing option '--kit'"),
    ],
)
def test_wrong_usage_is_exit_code_2(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_the_site_may_be_named_before_or_after_the_command_or_by_the_environment(
    home: SiteHome,
) -> None:
    arrives(home, a_run())
    named = [
        CliRunner().invoke(main, ["--home", str(home.root), "waiting"]),
        CliRunner().invoke(main, ["waiting", "--home", str(home.root)]),
        CliRunner().invoke(main, ["waiting"], env={"FOVEA_SITE_HOME": str(home.root)}),
        CliRunner().invoke(main, ["--home", "/nowhere", "waiting", "--home", str(home.root)]),
    ]
    assert all("demo-1" in result.stdout for result in named)


# --- approving and revoking ----------------------------------------------------------------


def test_nothing_waits_at_first(home: SiteHome) -> None:
    result = site(home, "waiting")
    assert (result.exit_code, result.stdout) == (0, "No run waits for approval.\n")
    assert json.loads(site(home, "waiting", "--json").stdout) == []


def test_a_run_is_shown_in_words_and_approved_after_a_yes(home: SiteHome) -> None:
    digest = arrives(home, a_run())
    result = site(home, "approve", "demo-1", typed="y\n")
    assert result.exit_code == 0, result.output
    assert "task chestx" in result.stdout
    assert "Never leaves: pictures" in result.stdout
    assert "No run was approved here before." in result.stdout
    (kept,) = Approvals(home.approvals).approved()
    assert (kept.digest, kept.decided_by) == (digest, me())
    (entry,) = events(home)
    assert (entry["event"], entry["run"], entry["manifest"]) == ("run-approved", "demo-1", digest)
    assert entry["by"] == me()


def test_a_manifest_cannot_paint_over_what_a_person_reads(home: SiteHome) -> None:
    arrives(home, a_run())
    site(home, "approve", "demo-1", "--yes")
    config = load_config(CONFIGS / "experiments" / "demo.yaml").run
    encoder = config.model.encoder.model_copy(update={"name": "vit\x1b[2A\x1b[0J\nEverything is"})
    model = config.model.model_copy(update={"encoder": encoder})
    arrives(home, a_run("demo-2", config=config.model_copy(update={"model": model})))

    shown = site(home, "approve", "demo-2", typed="n\n").stdout

    assert "\x1b" not in shown
    assert "network vit\\x1b[2A\\x1b[0J\\x0aEverything is" in shown


def test_without_a_yes_nothing_is_approved(home: SiteHome) -> None:
    digest = arrives(home, a_run())
    result = site(home, "approve", "demo-1", typed="n\n")
    assert result.exit_code == 1
    assert Approvals(home.approvals).standing_of(digest) == "waiting"
    assert not home.audit_log.exists()


def test_the_next_run_is_shown_by_what_differs(home: SiteHome) -> None:
    arrives(home, a_run())
    site(home, "approve", "demo-1", "--yes")
    digest = arrives(home, a_run("demo-2", "train.epochs=3", code_digest="2" * 64))
    result = site(home, "approve", digest[:8], "--yes")
    assert result.exit_code == 0, result.output
    assert "Compared with demo-1" in result.stdout
    assert "train.epochs" in result.stdout
    assert "The Fovea version of the coordinator differs." in result.stdout
    assert Approvals(home.approvals).standing_of(digest) == "approved"


def test_machines_read_waiting_runs_with_their_differences(home: SiteHome) -> None:
    arrives(home, a_run())
    site(home, "approve", "demo-1", "--yes")
    digest = arrives(home, a_run("demo-2", "train.epochs=3"))
    (record,) = json.loads(site(home, "waiting", "--json").stdout)
    assert (record["run"], record["digest"], record["state"]) == ("demo-2", digest, "waiting")
    assert not record["is_expired"]
    assert [change["key"] for change in record["difference"]["changes"]] == ["train.epochs"]
    everything = json.loads(site(home, "waiting", "--all", "--json").stdout)
    assert [(entry["run"], entry["state"]) for entry in everything] == [
        ("demo-2", "waiting"),
        ("demo-1", "approved"),
    ]
    assert everything[1]["difference"] is None
    assert "approved last" in everything[1]["comparison"]


def test_the_list_names_what_waits_and_since_when(home: SiteHome) -> None:
    digest = arrives(home, a_run())
    shown = site(home, "waiting").stdout
    assert "demo-1" in shown
    assert digest[:16] in shown


def test_an_expired_run_is_not_approved(home: SiteHome) -> None:
    digest = arrives(home, a_run(expires_at=NOW - timedelta(minutes=1)))
    result = site(home, "approve", "demo-1", "--yes")
    assert result.exit_code == 1
    assert "Ask the coordinator to launch the run again." in result.stderr
    assert Approvals(home.approvals).standing_of(digest) == "waiting"


def test_several_manifests_of_one_run_must_be_told_apart(home: SiteHome) -> None:
    arrives(home, a_run())
    second = arrives(home, a_run("demo-1", "seed=7"))
    result = site(home, "approve", "demo-1", "--yes")
    assert result.exit_code == 1
    assert second[:16] in result.stderr
    assert site(home, "approve", second[:8], "--yes").exit_code == 0


def test_approving_twice_says_who_did_it_first(home: SiteHome) -> None:
    arrives(home, a_run())
    site(home, "approve", "demo-1", "--yes")
    result = site(home, "approve", "demo-1", "--yes")
    assert result.exit_code == 0
    assert f"was approved already, by {me()}" in result.stdout
    assert len(events(home)) == 1


def test_an_unknown_run_is_an_error_with_its_remedy(home: SiteHome) -> None:
    for command in ("approve", "revoke"):
        result = site(home, command, "demo-9")
        assert (result.exit_code, result.stdout) == (1, "")
        assert "fovea-site waiting --all" in result.stderr


def test_revoking_takes_effect_at_once_and_is_audited(home: SiteHome) -> None:
    digest = arrives(home, a_run())
    site(home, "approve", "demo-1", "--yes")
    result = site(home, "revoke", "demo-1", "--reason", "vote withdrawn")
    assert result.exit_code == 0, result.output
    assert Approvals(home.approvals).standing_of(digest) == "revoked"
    entry = events(home)[-1]
    assert (entry["event"], entry["manifest"]) == ("run-revoked", digest)
    assert (entry["reason"], entry["by"]) == ("vote withdrawn", me())


# --- pausing -------------------------------------------------------------------------------


def test_a_pause_lasts_until_it_is_ended_and_both_are_audited(home: SiteHome) -> None:
    assert site(home, "pause", "--reason", "new scanner").exit_code == 0
    assert home.pause_marker.exists()
    assert site(home, "pause").stdout == "The site is paused already.\n"
    assert site(home, "resume").exit_code == 0
    assert not home.pause_marker.exists()
    assert site(home, "resume").stdout == "The site is not paused.\n"
    told = [(entry["event"], entry["by"]) for entry in events(home)]
    assert told == [("site-paused", me()), ("site-resumed", me())]


def test_status_says_who_paused_the_site(home: SiteHome) -> None:
    assert json.loads(site(home, "status", "--json").stdout)["paused"] is None
    site(home, "pause", "--reason", "new scanner")
    shown = site(home, "status")
    assert f"by {me()}. new scanner" in shown.stdout
    assert json.loads(site(home, "status", "--json").stdout)["paused"]["reason"] == "new scanner"


@pytest.mark.parametrize("content", ["", "[1]", '{"by": 3}'])
def test_a_pause_marker_made_by_hand_counts(home: SiteHome, content: str) -> None:
    home.pause_marker.write_text(content)
    assert "Paused since ?" in site(home, "status").stdout


# --- audit ---------------------------------------------------------------------------------


@pytest.fixture
def audited(home: SiteHome) -> SiteHome:
    log = AuditLog(home.audit_log)
    for day in (1, 2, 3):
        log.append("request-received", datetime(2026, 1, day, tzinfo=UTC), run="demo-1", round=day)
    return home


def test_a_whole_log_verifies(audited: SiteHome) -> None:
    result = site(audited, "audit", "verify")
    assert result.exit_code == 0
    assert "3 records" in result.stdout
    told = json.loads(site(audited, "audit", "verify", "--json").stdout)
    assert told == {"records": 3, "head": verify(audited.audit_log).head, "problems": []}


def test_a_changed_log_is_exit_code_1(audited: SiteHome) -> None:
    text = audited.audit_log.read_text()
    audited.audit_log.write_text(text.replace('"round":2', '"round":9'))
    result = site(audited, "audit", "verify")
    assert result.exit_code == 1
    assert "line 2" in result.stderr
    as_json = site(audited, "audit", "verify", "--json")
    assert as_json.exit_code == 1
    assert "line 2" in json.loads(as_json.stdout)["problems"][0]


def test_the_log_is_exported_from_a_day_on(audited: SiteHome) -> None:
    lines = site(audited, "audit", "export", "--since", "2026-01-02").stdout.splitlines()
    assert [json.loads(line)["round"] for line in lines] == [2, 3]
    table = site(audited, "audit", "export", "--format", "csv").stdout.splitlines()
    rows = list(csv.DictReader(table))
    assert [row["event"] for row in rows] == ["request-received"] * 3
    assert json.loads(rows[0]["details"])["run"] == "demo-1"


def test_a_site_without_a_log_says_so(home: SiteHome) -> None:
    result = site(home, "audit", "verify")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")


# --- making, checking, running -------------------------------------------------------------


def test_init_makes_a_site_and_says_what_comes_next(coordinator: CoordinatorHome) -> None:
    with tempfile.TemporaryDirectory(prefix="fovea-") as folder:
        home = SiteHome(Path(folder) / "site")
        result = site(home, "init", "--kit", str(coordinator.kits / "north"))
        assert result.exit_code == 0, result.output
        assert str(home.admission) in result.stdout
        assert home.policy_file.exists()
        again = site(home, "init", "--kit", str(coordinator.kits / "north"))
        assert again.exit_code == 1


def test_new_pins_are_shown_and_taken_over_after_a_yes(home: SiteHome, tmp_path: Path) -> None:
    coordinator = CoordinatorHome(tmp_path / "coordinator")
    federation = read_federation(CONFIGS / "federations" / "example.yaml")
    provision(federation, coordinator, now=NOW)
    own = SiteHome(home.root.parent / "own")
    kit = str(coordinator.kits / "north")
    assert site(own, "init", "--kit", kit).exit_code == 0
    assert "Nothing would change" in site(own, "update-pins", kit).stdout
    renew_run_key(federation, coordinator, keep_former=True, now=NOW)
    before = own.run_keys.read_text()

    refused = site(own, "update-pins", kit, typed="n\n")
    assert refused.exit_code == 1
    assert "new run key: " in refused.stdout
    assert own.run_keys.read_text() == before

    assert site(own, "update-pins", kit, typed="y\n").exit_code == 0
    assert own.run_keys.read_text() != before
    assert events(own)[-1]["event"] == "pins-updated"


def test_prepare_reads_the_pictures_once_and_says_what_it_did(home: SiteHome) -> None:
    first = site(home, "prepare")
    assert first.exit_code == 0, first.output
    assert "6 pictures of 6 patients" in first.stdout
    again = json.loads(site(home, "prepare", "--json").stdout)
    assert again["card"]["pictures"] == 6
    told = [sign for part in again["card"]["parts"] for sign in part["signs"]]
    known = sum(sign["known_pictures"] for sign in told if sign["name"] == "effusion")
    shown = sum(sign["shown_pictures"] for sign in told if sign["name"] == "effusion")
    assert known > 0
    assert f"sign effusion: shown by {shown} of the {known} pictures" in first.stdout
    assert [entry["event"] for entry in events(home)] == ["shard-prepared"] * 2
    assert events(home)[0]["pictures"] == 6


def test_check_names_what_is_missing_with_its_remedy(home: SiteHome) -> None:
    home.signing_key.chmod(0o644)
    result = site(home, "check", "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert all(set(row) == {"subject", "status", "found", "remedy"} for row in found)
    wrong = [row for row in found if row["status"] == "error"]
    assert any("chmod 600" in row["remedy"] + row["found"] for row in wrong)
    assert all(row["remedy"] for row in wrong)


def test_check_shows_findings_as_a_table(home: SiteHome) -> None:
    home.site_file.unlink()
    home.connector_file.unlink()
    result = site(home, "check")
    assert result.exit_code == 1
    assert "remedy" in result.stdout
    assert "site.yaml" in result.stdout


def test_running_both_says_that_they_are_not_isolated(home: SiteHome) -> None:
    command = [sys.executable, "-m", "client.cli", "run", "--home", str(home.root)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=CONFIGS.parent) as both:
        assert both.stderr is not None
        first = both.stderr.readline()
        both.terminate()
        both.wait(timeout=60)
    assert "run under one user: they are not isolated from each other" in first


@pytest.mark.parametrize("command", [*COMMANDS[1:-3], "trainer", "connector"])
def test_no_command_works_where_no_site_was_made(tmp_path: Path, command: str) -> None:
    named = ["demo-1"] if command in ("approve", "revoke") else []
    result = site(SiteHome(tmp_path / "nowhere"), *command.split(), *named)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "there is no site here. Make one with `fovea-site init --kit DIR`" in result.stderr


# --- real processes ------------------------------------------------------------------------


def program(*arguments: str, user: int | None = None) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "client.cli", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, user=user, cwd=CONFIGS.parent
    )


def test_status_answers_without_any_process_of_the_site(home: SiteHome) -> None:
    done = program("status", "--home", str(home.root))
    assert done.returncode == 3, done.stderr
    assert "No trainer runs: this is what the site's files say." in done.stdout
    told = json.loads(program("status", "--json", "--home", str(home.root)).stdout)
    assert (told["healthy"], told["trainer_serving"]) == (False, False)


@as_root
def test_another_user_is_told_whose_files_they_are(home: SiteHome) -> None:
    arrives(home, a_run())
    os.chown(home.trainer, 12345, 12345)
    former = os.geteuid()
    os.seteuid(65534)
    try:
        listed, revoked = site(home, "waiting"), site(home, "revoke", "demo-1")
    finally:
        os.seteuid(former)
    for result in (listed, revoked):
        assert result.exit_code == 1
        assert "you may not use it" in result.stderr


@as_root
def test_what_root_decides_the_trainers_user_can_read(home: SiteHome) -> None:
    for path in (home.trainer, *home.trainer.rglob("*")):
        os.chown(path, 12345, 12345)
    arrives(home, a_run())
    assert site(home, "approve", "demo-1", "--yes").exit_code == 0
    assert site(home, "pause").exit_code == 0
    assert {path.stat().st_uid for path in home.trainer.rglob("*")} == {12345}
