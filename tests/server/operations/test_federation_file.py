"""A federation's file: complete, or an error that names the key and what to do."""

from pathlib import Path

import pytest

from common.config.reading import load_config
from common.errors import ConfigError
from server.operations.federation_file import federation_text, read_federation

CONFIGS = Path(__file__).parents[3] / "configs"
EXAMPLE = CONFIGS / "federations" / "example.yaml"


@pytest.fixture
def example(tmp_path: Path) -> str:
    """The example's text with paths that hold from any folder."""
    return EXAMPLE.read_text().replace("../", f"{CONFIGS}/")


def message_for(text: str, folder: Path) -> str:
    path = folder / "federation.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_federation(path)
    return str(caught.value)


def test_example_is_a_federation_whose_shards_fit_the_recipe() -> None:
    federation = read_federation(EXAMPLE)
    recipe = load_config(CONFIGS / "default.yaml").run
    assert federation.preparation.image_size_px == recipe.data.image_size_px
    assert federation.preparation.preprocess == recipe.data.preprocess
    assert federation.preparation.split == recipe.data.split
    assert federation.preparation.seed == recipe.seed
    assert federation.policy == CONFIGS / "policies" / "strict.yaml"


def test_every_key_of_the_example_has_a_comment() -> None:
    above, bare = "", []
    for line in EXAMPLE.read_text().splitlines():
        if line and not line.startswith((" ", "#")) and "#" not in line and above[:1] != "#":
            bare.append(line)
        above = line
    assert bare == []


def test_labels_of_a_restricted_recipe_reach_the_sites(tmp_path: Path, example: str) -> None:
    path = tmp_path / "federation.yaml"
    path.write_text(example.replace("default.yaml", "experiments/demo.yaml"))
    labels = read_federation(path).preparation.labels
    assert labels["chestx"] == ("Effusion", "Mass", "Nodule")


def test_certificate_stands_for_endpoint_further_names_and_loopback(
    tmp_path: Path, example: str
) -> None:
    path = tmp_path / "federation.yaml"
    path.write_text(example.replace("server_names: []", "server_names: [10.1.2.3, fl.lan]"))
    names = read_federation(path).certificate_names
    assert names == ("fovea.example.org", "10.1.2.3", "fl.lan", "localhost", "127.0.0.1")


def test_kept_text_reads_back_as_the_same_federation(tmp_path: Path) -> None:
    federation = read_federation(EXAMPLE)
    path = tmp_path / "federation.yaml"
    path.write_text(federation_text(federation))
    assert read_federation(path) == federation


@pytest.mark.parametrize(
    ("former", "wrong", "said"),
    [
        ("superlink_port", "superlink_prt", "Did you mean 'superlink_port'?"),
        ("superlink_port", "superlink_prt", "superlink_port: is missing"),
        (
            "task: retina",
            "task: retna",
            "sites.1.task: unknown task 'retna'. Did you mean 'retina'",
        ),
        ("name: valley", "name: north", "sites: two are called 'north'"),
        ("name: valley", "name: Valley 2", "sites.1.name: expected small letters"),
        ("run_days: 30", "run_days: soon", "run_days: expected a whole number of at least 1"),
        ("example.org:443", "example.org", "endpoint: expected host:port"),
        ("example.org:443", "example.org:99999", "endpoint: expected host:port"),
        ("server_names: []", "server_names: ['*.lan']", "expected host names or IPv4 addresses"),
        ("server_names: []", "server_names: [10.1.2.300]", "expected host names or IPv4"),
        ("certificate_days: 365", "certificate_days: 3650", "must be less than authority_days"),
        ("recipe:", "receipt:", "expected either recipe"),
        ("default.yaml", "absent.yaml", "absent.yaml: cannot be read"),
        ("default.yaml", "default.yaml\npreparation: {}", "preparation"),
    ],
)
def test_what_is_wrong_is_named_with_what_was_expected(
    tmp_path: Path, example: str, former: str, wrong: str, said: str
) -> None:
    assert former in example
    assert said in message_for(example.replace(former, wrong), tmp_path)


def test_recipe_without_a_sites_task_is_named(tmp_path: Path, example: str) -> None:
    recipe = tmp_path / "chest.yaml"
    recipe.write_text(
        f"extends: {CONFIGS}/default.yaml\n"
        "tasks: {retina: null, pathoscan: null}\nreference: {retina: null, pathoscan: null}\n"
        "sites: [{name: a, task: chestx, source: {kind: phantom, patients: 9, "
        "pictures_per_patient: 1, scanner_strength: 0.5, lesion_contrast: 1.0, roi_fraction: 0.5, "
        "marker_agreement: null, prevalence: null}}]\n"
    )
    said = message_for(example.replace(f"{CONFIGS}/default.yaml", str(recipe)), tmp_path)
    assert "preparation.labels: has no entry for task retina of site valley" in said


def test_unknown_site_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'valley'"):
        read_federation(EXAMPLE).site("vally")
