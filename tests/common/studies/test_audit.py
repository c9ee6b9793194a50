"""The attack study as a whole: its settings, its verdict, its page and one small run of all."""

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from common.errors import ConfigError
from common.studies.audit_config import load_audit_config, run_of
from common.studies.audit_results import Check
from common.studies.audit_tables import verdict_of
from server.cli import main

CONFIG_FILE = Path("configs/studies/audit.yaml")


def test_unknown_keys_are_named(tmp_path: Path) -> None:
    values = yaml.safe_load(CONFIG_FILE.read_text())
    values["audit"]["canaries"]["guess"] = 3
    path = tmp_path / "audit.yaml"
    path.write_text(yaml.safe_dump(values))

    with pytest.raises(ConfigError, match=r"canaries\.guess"):
        load_audit_config(path)


def test_more_guesses_than_canaries_are_refused(tmp_path: Path) -> None:
    values = yaml.safe_load(CONFIG_FILE.read_text())
    values["audit"]["canaries"] |= {"count": 100, "guesses": 60}
    path = tmp_path / "audit.yaml"
    path.write_text(yaml.safe_dump(values))

    with pytest.raises(ConfigError, match="lower it or raise count"):
        load_audit_config(path)


def test_quick_changes_only_what_it_names() -> None:
    whole, quick = load_audit_config(CONFIG_FILE), load_audit_config(CONFIG_FILE, quick=True)

    assert quick.noise.steps < whole.noise.steps
    assert quick.noise.noise_multiplier == whole.noise.noise_multiplier


def test_task_that_the_run_lacks_is_refused() -> None:
    config = load_audit_config(CONFIG_FILE).model_copy(update={"task": "dental"})

    with pytest.raises(ConfigError, match="no task 'dental'"):
        run_of(config, model=config.inversion.model)


def test_verdict_names_what_was_missed_and_nothing_undefined_is_met() -> None:
    met = Check("attack without noise", 0.9, ">=", 0.7)
    undefined = Check("attack with noise", float("nan"), "<=", 0.6)

    assert verdict_of([met]).startswith("AS EXPECTED")
    assert verdict_of([met, undefined]) == "NOT AS EXPECTED: attack with noise"


def test_alarm_needs_more_than_the_claim() -> None:
    assert not Check("bound", 2.0, ">", 2.0).is_met
    assert Check("bound", 2.0, "<=", 2.0).is_met


def test_command_attacks_reports_and_ends_with_three_where_an_attack_that_must_succeed_fails(
    tmp_path: Path,
) -> None:
    narrow = yaml.safe_load(Path("configs/models/small.yaml").read_text())
    narrow["model"]["encoder"]["options"] = {"depths": [1, 2, 1, 1], "dims": [8, 16, 32, 32]}
    narrow["model"]["width"] = 64
    narrow["model"]["transformer"]["layers"] = 1
    (tmp_path / "narrow.yaml").write_text(yaml.safe_dump(narrow))
    values = yaml.safe_load(CONFIG_FILE.read_text())["audit"]
    del values["quick"]
    values["processes"] = 1
    values["noise"]["steps"] = 2
    # Two steps make no picture: the attack must be reported as having failed.
    values["inversion"] |= {
        "model": str(tmp_path / "narrow.yaml"),
        "victims": 1,
        "sites": 3,
        "batch": 2,
        "restarts": 1,
        "factor_rounds": 1,
        "token_iterations": 2,
        "picture_iterations": 2,
        "decoys": 3,
    }
    values["membership"] |= {
        "networks": 3,
        "patients": 10,
        "plain_steps": 2,
        "plain_batch": 5,
        "replicates": 10,
    }
    values["canaries"] |= {"count": 100, "guesses": 20}
    (tmp_path / "audit.yaml").write_text(yaml.safe_dump({"audit": values}))
    out = tmp_path / "out"

    done = CliRunner().invoke(
        main,
        ["audit-privacy", "--config", str(tmp_path / "audit.yaml"), "--out", str(out), "--json"],
        catch_exceptions=False,
    )

    assert done.exit_code == 3
    told = json.loads(done.stdout)
    assert told == json.loads((out / "audit.json").read_text())
    assert not told["is_met"]
    missed = [check["name"] for check in told["checks"] if not check["is_met"]]
    assert "reconstructed, one picture, plain gradient step" in missed
    assert len(told["reconstructions"]) == 6
    page = (out / "index.html").read_text()
    assert "NOT AS EXPECTED" in page
    assert page.count("unit patient (one picture each)") == 2  # wherever epsilon is shown
    assert "data:image/png;base64," in page
    assert (out / "mlflow.db").is_file()


def test_command_names_a_missing_file_and_ends_with_one(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["audit-privacy", "--config", str(tmp_path / "none.yaml")])

    assert done.exit_code == 1
    assert "Give the study's YAML file" in done.stderr
