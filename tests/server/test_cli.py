"""What a coordinator types, right or wrong: every mistake is named with its remedy, in time."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from common.errors import RunError
from server.cli import main
from server.exchange.participation import Status
from server.record.summary import Summary, write_summary

CONFIGS = Path(__file__).parents[2] / "configs"
PHANTOM = """{kind: phantom, patients: 6, pictures_per_patient: 1, scanner_strength: 0.5,
          lesion_contrast: 1.5, roi_fraction: 0.5, marker_agreement: null, prevalence: null}"""
RUN = f"""
extends: [{CONFIGS}/default.yaml, {CONFIGS}/models/tiny.yaml]
name: small
data: {{image_size_px: 64}}
model: {{image_size_px: 64, context_labels: {{chestx: []}}}}
sites: [{{name: north, task: chestx, source: {PHANTOM}}}]
reference: {{chestx: {{source: {PHANTOM}}}}}
federation: {{rounds: 1}}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(RUN)
    return path


def simulate(config: Path, *options: str) -> Result:
    only_chest = "tasks={chestx: {labels: [Mass, Nodule]}}"
    out = str(config.parent / "out")
    command = ["simulate", str(config), "--set", only_chest, "--out", out, *options]
    return CliRunner().invoke(main, command)


COMMANDS = (
    "simulate show modes dashboard provision admit retire renew sites serve launch runs status stop"
)


@pytest.mark.parametrize("command", [*COMMANDS.split(), "resume"])
def test_every_command_explains_itself(command: str) -> None:
    told = CliRunner().invoke(main, [command, "--help"])
    assert told.exit_code == 0
    assert len(told.stdout.split()) > 20


def test_status_without_a_run_says_so(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["status", "--home", str(tmp_path)])
    assert result.exit_code == 1
    assert "no run yet" in result.stderr


@pytest.mark.parametrize("command", ["sites", "serve"])
def test_home_that_nobody_provisioned_is_named(command: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, [command], env={"FOVEA_HOME": str(tmp_path)})
    assert result.exit_code == 1
    assert f"{tmp_path}/federation.yaml: cannot be read" in " ".join(result.stderr.split())


def test_exit_codes_are_told_in_the_help() -> None:
    told = " ".join(CliRunner().invoke(main, ["simulate", "--help"]).stdout.split())
    for meaning in ("0 complete", "1 an error", "2 wrong usage", "3 the run is", "4 the run"):
        assert meaning in told


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["simulat"], "Did you mean 'simulate'?"),
        (["simulate"], "Missing argument 'CONFIG'"),
        (["simulate", "run.yaml", "--outt", "x"], "Did you mean '--out'?"),
        (["dashboard", ".", "--port", "70000"], "70000 is not in the range 1<=x<=65535"),
    ],
)
def test_wrong_usage_is_exit_code_2(command: list[str], message: str) -> None:
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train.epoch=2", "train.epoch: unknown key 'epoch'. Did you mean 'epochs'?"),
        ("trian.epochs=2", "unknown key 'trian'. Did you mean 'train'?"),
        ("train.epochs", "expected key.path=value, e.g. train.epochs=2."),
        ("=2", "expected key.path=value"),
        ("train.epochs=two", "expected a whole number of at least 1, got 'two'"),
        ("train.epochs=[1", "'[1' is not a YAML value"),
        ("train={epochs: 1, epochs: 2}", "key 'epochs' stands here twice"),
        ("train.epochs.x=3", "the part before 'x' holds no keys"),
        ("sites.9.name=x", "expected a position from 0 to 0, got '9'"),
        ("sites=[]", "sites: expected a list of at least 1"),
        ("tasks.chestx.labels=[Masss]", "Did you mean 'Mass'?"),
        ("reference={}", "reference has no entry for task chestx"),
        ("federation.required_sites=[nort]", "unknown required site 'nort'. Did you mean 'north'?"),
        ("data.split.train=0.9", "train + val + test must be 1"),
        ("name=My run", "name: expected small letters, digits and hyphens"),
    ],
)
def test_nonsense_in_set_is_named_with_the_nearest_key(
    config: Path, setting: str, message: str
) -> None:
    result = simulate(config, "--set", setting)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("error: ")
    assert message in result.stderr


def test_missing_configuration_is_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["simulate", str(tmp_path / "nowhere.yaml")])
    assert result.exit_code == 1
    assert "nowhere.yaml: cannot be read (No such file or directory)" in result.stderr


def test_files_without_data_folder_are_asked_for() -> None:
    command = ["simulate", str(CONFIGS / "experiments/real.yaml")]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 1
    assert "Say where they lie with --data FOLDER." in result.stderr


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("nowhere", "no such folder. Give the folder of the pictures."),
        (".", "index.csv: does not exist; correct the source's path or the data folder."),
    ],
)
def test_wrong_data_folder_is_named(tmp_path: Path, folder: str, message: str) -> None:
    command = ["simulate", str(CONFIGS / "experiments/real.yaml"), "--data"]
    result = CliRunner().invoke(main, [*command, str(tmp_path / folder), "--out", str(tmp_path)])
    assert result.exit_code == 1
    assert message in result.stderr


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("federation.strategy=fedavgg", "unknown strategy 'fedavgg'. Did you mean 'fedavg'?"),
        ("federation.aggregation=medain", "unknown aggregation 'medain'. Did you mean 'median'?"),
        ("model.encoder.name=nf_resnet27", "unknown encoder 'nf_resnet27'. Did you mean"),
        ("model.encoder.pretrained=gone.safetensors", "gone.safetensors does not exist"),
        ("sites.0.name=reference-chestx", "names that begin with 'reference-'"),
        ("sites.0.source={kind: pool, pool: lake, share: 0.5}", "there is no pool 'lake'"),
    ],
)
def test_impossible_plan_is_refused_before_any_picture_is_read(
    config: Path, setting: str, message: str
) -> None:
    result = simulate(config, "--set", setting)
    assert (result.exit_code, result.stdout.strip()) == (1, "")
    assert message in result.stderr
    assert not (config.parent / "out/shards").exists()


def test_tracking_server_that_is_not_there_stops_the_run_before_training(config: Path) -> None:
    uri = "http://user:secret@127.0.0.1:9"  # nothing listens on the discard port
    result = simulate(config, "--set", f"tracking.uri={uri}")
    assert result.exit_code == 1
    assert "tracking.uri http://127.0.0.1:9: MLflow cannot be reached" in result.stderr
    assert "secret" not in result.output
    assert not (config.parent / "out/model").exists()


def test_out_folder_that_cannot_be_made_is_named(config: Path) -> None:
    blocked = config / "out"  # below a file
    result = simulate(config, "--out", str(blocked))
    assert result.exit_code == 1
    assert f"{blocked}: cannot be written to (Not a directory)" in result.stderr
    assert "Name another folder with --out." in result.stderr


def test_out_folder_that_holds_something_else_is_left_alone(config: Path) -> None:
    thesis = config.parent / "out/shards/north/thesis.txt"
    thesis.parent.mkdir(parents=True)
    thesis.write_text("years of work")
    result = simulate(config)
    assert result.exit_code == 1
    assert "north: exists and holds no shard; name another folder or remove it" in result.stderr
    assert thesis.read_text() == "years of work"


def test_run_that_broke_off_ends_with_four_and_its_summary(
    config: Path, make_summary: Callable[..., Summary], monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = make_summary().model_copy(update={"verdict": Status.FAILED})

    def broken(*_: object, out: Path, **__: object) -> Summary:
        write_summary(failed, out)
        raise RunError("0 of 1 sites are there.")

    monkeypatch.setattr("server.run.experiment.run_experiment", broken)
    (config.parent / "out").mkdir()

    result = simulate(config, "--json")

    assert result.exit_code == 4
    assert "error: 0 of 1 sites are there." in result.stderr
    assert json.loads(result.stdout)["verdict"] == "FAILED"


def test_mistake_before_a_run_ends_with_one_whatever_an_earlier_run_left(
    config: Path, make_summary: Callable[..., Summary], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> Summary:
        raise RunError("MLflow cannot be reached")

    monkeypatch.setattr("server.run.experiment.run_experiment", refused)
    (config.parent / "out").mkdir()
    former = write_summary(make_summary(), config.parent / "out")
    os.utime(former, (1e9, 1e9))

    result = simulate(config, "--json")

    assert (result.exit_code, result.stdout) == (1, "")


def test_mistake_is_not_covered_by_another_run_that_ends_meanwhile(
    config: Path, make_summary: Callable[..., Summary], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, out: Path, **__: object) -> Summary:
        write_summary(make_summary().model_copy(update={"verdict": Status.COMPLETE}), out)
        raise RunError("the folder is in use")

    monkeypatch.setattr("server.run.experiment.run_experiment", refused)
    (config.parent / "out").mkdir()

    assert simulate(config).exit_code == 1


def test_out_folder_of_an_impossible_name_is_named(config: Path) -> None:
    result = simulate(config, "--out", str(config.parent / ("o" * 300)))

    assert result.exit_code == 1
    assert "Name another folder with --out." in result.stderr


def test_dashboard_of_a_folder_without_a_run_says_what_to_do(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["dashboard", str(tmp_path / "nowhere")])
    assert (result.exit_code, result.stdout) == (1, "")
    assert "mlflow.db: not found. Give the folder of a run" in result.stderr


def test_what_does_not_go_together_is_told_before_anything_heavy_is_loaded(config: Path) -> None:
    code = (
        "import atexit, sys; from server.cli import main; "
        "atexit.register(lambda: print('torch' in sys.modules)); main()"
    )
    options = ["--set", "privacy.enabled=true", "--set", "federation.aggregation=weighted-mean"]
    told = subprocess.run(
        [sys.executable, "-c", code, "simulate", str(config), *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (told.returncode, told.stdout.strip()) == (1, "False")
    assert "does not go with differential privacy" in " ".join(told.stderr.split())
