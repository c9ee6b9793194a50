"""What goes with what: one table that judges runs, and is what the documents show."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import get_args

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.config.run import FederationConfig, RunConfig, SiteConfig
from common.errors import ConfigError
from server.aggregate import AGGREGATIONS
from server.cli import main
from server.planning.compatibility import (
    MODES,
    ROWS,
    Mode,
    cell_text,
    conflicts,
    mode_of,
    numbered_reasons,
    refuse_conflicts,
    table_markdown,
)
from server.planning.secured import secured
from server.strategies import STRATEGIES

PROTECTION = Path(__file__).parents[3] / "docs" / "protection.md"
PRECISIONS = get_args(FederationConfig.model_fields["update_precision"].annotation)


def changed(config: RunConfig, section: str, **values: object) -> RunConfig:
    part = getattr(config, section).model_copy(update=values)
    return config.model_copy(update={section: part})


def in_mode(config: RunConfig, mode: Mode) -> RunConfig:
    config = changed(config, "privacy", enabled=mode in ("dp", "both"))
    return changed(config, "secure_aggregation", enabled=mode in ("secure", "both"))


def with_tasks(config: RunConfig, tasks: Iterable[str]) -> RunConfig:
    source = config.sites[0].source
    sites = tuple(
        SiteConfig(name=f"site-{number}", task=task, source=source)
        for number, task in enumerate(tasks)
    )
    return config.model_copy(update={"sites": sites})


@pytest.mark.parametrize("mode", MODES)
def test_a_run_is_in_the_mode_that_its_two_switches_say(mode: Mode, demo_config: RunConfig) -> None:
    assert mode_of(in_mode(demo_config, mode)) == mode


def test_the_table_names_every_strategy_aggregation_and_precision() -> None:
    named = {(row.key, row.value) for row in ROWS if row.key}
    assert named == {
        *(("federation.strategy", name) for name in STRATEGIES),
        *(("federation.aggregation", name) for name in AGGREGATIONS),
        *(("federation.update_precision", name) for name in PRECISIONS),
    }


def test_every_no_has_its_reason_and_every_choice_its_remedy() -> None:
    for row in ROWS:
        for cell in row.cells:
            assert cell.reason or cell.says == "yes"
            if cell.says == "no" and row.key is not None:
                assert row.remedy.startswith(f"Set {row.key} to ")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("aggregation", list(AGGREGATIONS))
@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_is_refused_is_what_noise_or_masks_rule_out(
    mode: Mode, aggregation: str, precision: str, demo_config: RunConfig
) -> None:
    config = changed(
        in_mode(demo_config, mode),
        "federation",
        aggregation=aggregation,
        update_precision=precision,
    )
    expected = set()
    if mode in ("dp", "both") and aggregation == "weighted-mean":
        expected.add("federation.aggregation")
    if mode in ("secure", "both") and aggregation in ("median", "trimmed-mean"):
        expected.add("federation.aggregation")
    if mode in ("secure", "both") and precision != "float32":
        expected.add("federation.update_precision")
    assert {sentence.split(":")[0] for sentence in conflicts(config)} == expected


def test_a_remedy_taken_leaves_no_conflict(demo_config: RunConfig) -> None:
    config = changed(
        in_mode(demo_config, "both"), "federation", aggregation="median", update_precision="int8"
    )
    said = conflicts(config)
    assert len(said) == 2
    assert "it must see each site's update" in said[0]
    assert "Set federation.aggregation to uniform-mean." in said[0]
    assert "Set federation.update_precision to float32." in said[1]
    mended = changed(config, "federation", aggregation="uniform-mean", update_precision="float32")
    assert conflicts(mended) == []


def test_all_conflicts_are_one_error(demo_config: RunConfig) -> None:
    config = changed(
        in_mode(demo_config, "both"), "federation", aggregation="median", update_precision="int8"
    )
    with pytest.raises(ConfigError) as raised:
        refuse_conflicts(config)
    assert str(raised.value).startswith("2 things in this run do not go together")
    assert all(sentence in str(raised.value) for sentence in conflicts(config))
    refuse_conflicts(demo_config)


def test_a_sum_over_two_sites_is_refused(demo_config: RunConfig) -> None:
    two = with_tasks(in_mode(demo_config, "secure"), ["chestx", "retina"])
    (said,) = conflicts(two)
    assert said.startswith("secure_aggregation.min_group is 3, the run has 2 sites")
    assert conflicts(in_mode(two, "plain")) == []


def test_a_floor_that_nobody_measures_is_refused(demo_config: RunConfig) -> None:
    config = changed(demo_config, "federation", site_floor={"auroc": 0.6})
    assert conflicts(config) == []
    (said,) = conflicts(changed(config, "evaluation", federated=False))
    assert said.startswith("federation.site_floor")


@pytest.mark.parametrize(
    ("metric", "said"),
    [("auorc", "Did you mean 'auroc'?"), ("loss_total", "unknown metric 'loss_total'")],
)
def test_a_floor_of_a_metric_that_no_site_reports_is_refused(
    metric: str, said: str, demo_config: RunConfig
) -> None:
    config = changed(demo_config, "federation", site_floor={metric: 0.6})
    (found,) = conflicts(config)
    assert found.startswith("federation.site_floor: ")
    assert said in found


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    tasks=st.lists(st.sampled_from(("chestx", "retina", "pathoscan")), min_size=1, max_size=9),
    least=st.integers(3, 5),
)
def test_heads_of_tasks_with_too_few_sites_stay_at_the_sites(
    demo_config: RunConfig, tasks: list[str], least: int
) -> None:
    config = with_tasks(in_mode(demo_config, "secure"), tasks)
    config = changed(config, "secure_aggregation", min_group=least)
    few = [task for task in config.tasks if 0 < tasks.count(task) < least]

    made, notes = secured(config)

    assert made.federation.local_layers == tuple(f"heads.{task}." for task in few)
    assert [note.split(":")[0] for note in notes] == few
    assert secured(made) == (made, ())
    assert RunConfig.model_validate(made.model_dump()) == made


def test_a_small_task_is_told_of_plainly(demo_config: RunConfig) -> None:
    tasks = ["chestx"] * 3 + ["retina"] * 2 + ["pathoscan"] * 3
    _, notes = secured(with_tasks(in_mode(demo_config, "secure"), tasks))
    assert notes == (
        "retina: 2 sites, fewer than 3: its head stays at its sites; "
        "central metrics of the task measure an untrained head",
    )


def test_a_run_without_secure_sums_is_left_as_it_is(demo_config: RunConfig) -> None:
    assert secured(demo_config) == (demo_config, ())


def test_a_head_that_is_local_already_is_not_listed_twice(demo_config: RunConfig) -> None:
    config = with_tasks(in_mode(demo_config, "secure"), ["chestx"] * 3 + ["retina"])
    config = changed(config, "federation", local_layers=("heads.retina",))
    assert secured(config)[0].federation.local_layers == ("heads.retina",)


def test_the_document_shows_this_very_table() -> None:
    text = PROTECTION.read_text()
    shown = text.split("<!-- modes -->\n")[1].split("<!-- /modes -->")[0]
    assert shown.strip() == table_markdown().strip()


def test_the_command_shows_every_row_and_reason_uncut() -> None:
    told = CliRunner().invoke(main, ["modes"], env={"COLUMNS": "80"})
    assert told.exit_code == 0
    lines = [" ".join(line.split()) for line in told.stdout.splitlines()]
    assert max(map(len, told.stdout.splitlines())) <= 80
    reasons = numbered_reasons()
    for row in ROWS:
        cells = [cell_text(row.cell(mode), reasons) for mode in MODES]
        whole = " ".join([row.what.replace("`", ""), *cells])
        assert any(line.removeprefix(f"{row.about} ") == whole for line in lines), whole
    for reason, number in reasons.items():
        assert f"({number}) {reason}" in " ".join(lines)


def test_the_command_has_a_form_for_machines() -> None:
    told = json.loads(CliRunner().invoke(main, ["modes", "--json"]).stdout)
    assert list(told["modes"]) == list(MODES)
    (median,) = (row for row in told["rows"] if row["value"] == "median")
    assert [median[mode]["says"] for mode in MODES] == ["yes", "no", "yes", "no"]
    assert median["secure"]["reason"]
