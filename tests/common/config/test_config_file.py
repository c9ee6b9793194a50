"""Reading run files: what is wrong is named, with its remedy."""

from pathlib import Path

import pytest

from common.config.reading import canonical_json, config_digest, load_config
from common.errors import ConfigError

CONFIGS = Path(__file__).parents[3] / "configs"
DEMO = CONFIGS / "experiments" / "demo.yaml"


def write(folder: Path, text: str, name: str = "run.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_file_changes_only_what_it_says(tmp_path: Path) -> None:
    path = write(tmp_path, f"extends: [{CONFIGS}/default.yaml]\ntrain: {{epochs: 7}}\n")
    changed, default = load_config(path).run, load_config(CONFIGS / "default.yaml").run
    assert changed.train.epochs == 7
    assert changed.train.model_copy(update={"epochs": default.train.epochs}) == default.train


def test_unknown_key_names_the_nearest(tmp_path: Path) -> None:
    path = write(tmp_path, f"extends: [{CONFIGS}/default.yaml]\ntrain: {{epoch: 7}}\n")
    with pytest.raises(
        ConfigError, match=r"run\.yaml: train\.epoch: unknown key 'epoch'.*'epochs'"
    ):
        load_config(path)


def test_unknown_key_inside_a_source_names_that_source_kinds_keys(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"sites\.0\.source\.patient: .*Did you mean 'patients'"):
        load_config(DEMO, ["sites.0.source.patient=3"])


def test_every_problem_is_listed_at_once() -> None:
    with pytest.raises(ConfigError, match="2 problems") as caught:
        load_config(DEMO, ["train.epochs=0", "seed=-1"])
    assert "train.epochs" in str(caught.value)
    assert "seed" in str(caught.value)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("train.epochs", "expected key.path=value"),
        ("trian.epochs=1", "Did you mean 'train'"),
        ("sites.9.name=x", "expected a position from 0 to"),
        ("train.epochs.deep=1", "holds no keys"),
        ("sites.0.name=harbour", "two sites are called 'harbour'"),
        ("sites.0.task=retinas", "Did you mean 'retina'"),
        ("federation.required_sites=[nort]", "Did you mean 'north'"),
        ("data.split.train=0.5", "must be 1"),
        ("tasks.chestx.labels=[Efusion]", "Did you mean 'Effusion'"),
        ("evaluation.methods=[grad-cm]", "unknown explanation method.*Did you mean 'grad-cam'"),
        ("evaluation.methods=[lrp,lrp]", "a method is named twice; name each once"),
    ],
)
def test_wrong_override_is_refused_with_a_remedy(override: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load_config(DEMO, [override])


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("train.epochs=two", "expected a whole number of at least 1, got 'two'."),
        ("train.epochs=1.5", "expected a whole number of at least 1, got 1.5."),
        ("train.epochs=0", "expected a whole number of at least 1, got 0."),
        ("train.epochs=null", "expected a whole number of at least 1, got null."),
        ("train.learning_rate=0", "expected a number above 0, got 0."),
        ("train.warmup_fraction=2", "expected a number from 0 to 1, got 2."),
        ("train.optimiser=sgd", "expected one of adam, adamw, got 'sgd'."),
        ("train=5", "expected a mapping of keys, got 5."),
        ("evaluation.federated=3", "expected true or false, got 3."),
        ("federation.required_sites=north", "expected a list, got 'north'."),
        ("sites=[]", "expected a list of at least 1, got []."),
        ("tracking.uri=7", "expected text or null, got 7."),
        ("data.augment.chestx.scale=[1.0]", "expected a list of 2, got fewer."),
        ("data.augment.chestx.scale=[1, 1, 1]", "expected a list of 2, got [1, 1, 1]."),
        ("sites.0.name=X Y", "expected small letters, digits and hyphens, got 'X Y'."),
        ("seed=x", "expected a whole number of at least 0 and below 2147483648, got 'x'."),
        ("sites.0.source.patients=many", "expected a whole number of at least 1, got 'many'."),
    ],
)
def test_wrong_override_is_blamed_itself_in_plain_words(override: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(DEMO, [override])
    assert str(caught.value) == f"--set {override.partition('=')[0]}: {sentence}"


def test_unknown_kind_of_source_is_told_from_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"expected kind 'phantom', .*'pool', got 'phantm'\.$"):
        load_config(DEMO, ["sites.0.source.kind=phantm"])


def test_part_of_an_override_is_named_beside_it() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(DEMO, ["sites.0.source.prevalence={Mass: 3}"])
    assert str(caught.value) == (
        "--set sites.0.source.prevalence: sites.0.source.prevalence.Mass: "
        "expected a number from 0 to 1, got 3."
    )


def test_file_is_blamed_for_what_stands_in_it(tmp_path: Path) -> None:
    path = write(tmp_path, f"extends: [{DEMO}]\ntrain: {{batch_size: none}}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path, ["train.epochs=0"])
    assert str(caught.value) == (
        f"{path}: 2 problems\n"
        "  - --set train.epochs: expected a whole number of at least 1, got 0.\n"
        "  - train.batch_size: expected a whole number of at least 1, got 'none'."
    )


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("data.augment.chestx.scale=[1.1, 0.9]", r"scale must be at most the second, got \[1.1"),
        (
            "data.preprocess.chestx.contrast_percentiles=[0.5, 0.5]",
            r"contrast_percentiles must be less than the second, got \[0.5, 0.5\]",
        ),
        ("data.split.train=0.5", r"train \+ val \+ test must be 1, got 0\.\d+"),
        (
            "data.reference_split.gate=0.5",
            r"selection \+ calibration \+ gate must be 1, got \d\.\d+",
        ),
        (
            "tasks.chestx.labels=[Efusion]",
            r"^--set tasks\.chestx\.labels: unknown label .* 'Efusion'",
        ),
        ("tasks.retina.labels=[mild]", r"^--set tasks\.retina\.labels: .* fixed labels"),
    ],
)
def test_values_that_contradict_one_another_are_refused(override: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load_config(DEMO, [override])


def test_context_label_that_the_run_left_out_is_refused_with_the_remedy() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(CONFIGS / "default.yaml", ["tasks.chestx.labels=[Mass]"])
    assert str(caught.value) == (
        f"{CONFIGS / 'default.yaml'}: model.context_labels.chestx: unknown context label "
        "'Cardiomegaly'. Known: Mass. Take it out, e.g. with "
        "--set model.context_labels.chestx=[], or add it to tasks.chestx.labels."
    )


def test_context_label_of_no_task_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.context_labels: unknown task 'chest'"):
        load_config(DEMO, ["model.context_labels={chest: [Mass]}"])


def test_override_is_yaml_and_later_ones_win() -> None:
    run = load_config(DEMO, ["train.learning_rate=1e-3", "train.learning_rate=2.0e-4"]).run
    assert run.train.learning_rate == pytest.approx(2e-4)


def test_override_of_one_site_leaves_a_site_of_the_same_anchor_alone() -> None:
    run = load_config(DEMO, ["sites.3.source.patients=77"]).run
    assert run.sites[3].source.patients == 77
    assert run.sites[4].source.patients != 77


def test_file_that_extends_itself_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "extends: [run.yaml]\n", "other.yaml")
    path = write(tmp_path, "extends: [other.yaml]\n")
    with pytest.raises(ConfigError, match="extends itself"):
        load_config(path)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("- a\n- b\n", "must hold a mapping"),
        ("seed: 1\nseed: 2\n", "stands here twice"),
        ("1: x\n", "must be text"),
        ("seed: [1\n", "not valid YAML"),
        ("extends: 5\n", "`extends` must be"),
        ("name: alone\n", "is missing. Add it, or extend default.yaml"),
    ],
)
def test_broken_file_is_refused_with_a_remedy(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load_config(write(tmp_path, text))


def test_missing_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read"):
        load_config(Path("nowhere.yaml"))


def test_source_of_another_kind_replaces_the_whole_source(tmp_path: Path) -> None:
    text = (
        f"extends: [{DEMO}]\nreference:\n  retina:\n    source:\n"
        "      {kind: idrid, root: fundus, part: grading, mapping: labels/idrid.yaml}\n"
    )
    source = load_config(write(tmp_path, text)).run.reference["retina"].source
    assert source.kind == "idrid"


def test_digest_depends_on_values_alone() -> None:
    first, second = load_config(DEMO).run, load_config(DEMO, ["seed=1"]).run
    assert config_digest(first) == config_digest(load_config(DEMO).run)
    assert config_digest(first) != config_digest(second)
    assert canonical_json(first).startswith('{"data":')


def test_task_set_to_null_is_left_out_of_the_run(tmp_path: Path) -> None:
    site = "{name: valley, task: retina, source: {kind: pool, pool: fundus, share: 1.0}}"
    text = (
        f"extends: [{DEMO}]\ntasks: {{chestx: null, pathoscan: null}}\n"
        f"reference: {{chestx: null, pathoscan: null}}\nsites: [{site}]\n"
    )
    run = load_config(write(tmp_path, text)).run
    assert list(run.tasks) == ["retina"]
    assert list(run.reference) == ["retina"]


def test_label_tables_are_named_from_the_folder_of_default_yaml(tmp_path: Path) -> None:
    path = write(tmp_path, f"extends: [{DEMO}]\n")
    assert load_config(path).root == CONFIGS
    assert load_config(DEMO).root == CONFIGS
    assert load_config(CONFIGS / "default.yaml").root == CONFIGS


def test_more_updates_than_sites_cannot_be_asked_for() -> None:
    with pytest.raises(ConfigError, match=r"min_sites is 6, the run has 5 sites"):
        load_config(DEMO, ["federation.min_sites=6"])


def test_anchor_that_is_merged_in_may_be_overridden(tmp_path: Path) -> None:
    text = (
        f"extends: [{DEMO}]\ntrain:\n  epochs: 3\n  batch_size: 4\n"
        "evaluation: {<<: {batch_size: 9}, batch_size: 8}\n"
    )
    run = load_config(write(tmp_path, text)).run
    assert (run.train.epochs, run.evaluation.batch_size) == (3, 8)
