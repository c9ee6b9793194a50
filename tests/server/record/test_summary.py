"""summary.json holds a whole run, checked and finite, and never half."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import jsonschema
import pytest
from pydantic import JsonValue, ValidationError

from common.errors import DataError
from common.metrics.estimate import Estimate
from server.journal.metric_names import round_metrics
from server.record.summary import (
    EstimateEntry,
    Summary,
    estimate_entry,
    headline,
    json_schema,
    read_summary,
    write_summary,
)

MakeSummary = Callable[..., Summary]


def every_number(value: JsonValue) -> Iterator[float]:
    if isinstance(value, dict):
        for part in value.values():
            yield from every_number(part)
    elif isinstance(value, list):
        for part in value:
            yield from every_number(part)
    elif isinstance(value, float | int):
        yield value


def estimate(**fields: float | None) -> EstimateEntry:
    known = {"value": 0.8, "low": 0.7, "high": 0.9, "chance": 0.5} | fields
    return EstimateEntry(support=40, positives=20, positive_patients=20, note="", **known)


def test_a_written_summary_is_read_back_as_it_was(
    make_summary: MakeSummary, tmp_path: Path
) -> None:
    summary = make_summary()
    assert read_summary(write_summary(summary, tmp_path)) == summary


def test_the_file_keeps_the_published_schema(make_summary: MakeSummary, tmp_path: Path) -> None:
    written = json.loads(write_summary(make_summary(), tmp_path).read_text())
    jsonschema.Draft202012Validator(json_schema()).validate(written)


def test_the_file_says_verdict_time_sites_rounds_and_metrics_with_interval_and_support(
    make_summary: MakeSummary, tmp_path: Path
) -> None:
    written = json.loads(write_summary(make_summary(), tmp_path).read_text())
    assert written["verdict"] == "PARTIAL"
    assert written["wall_s"] == 12.0
    assert written["sites"][0] == {"name": "north", "task": "chestx", "num_examples": 80}
    auroc = written["rounds"][1]["central"]["chestx"]["classification"]["average"]["auroc"]
    assert auroc["low"] < auroc["value"] < auroc["high"]
    assert auroc["support"] == 120
    energy = written["rounds"][1]["central"]["chestx"]["localisation"]["average"]["energy_in_roi"]
    assert energy["chance"] == pytest.approx(0.1)


def test_every_number_in_the_file_is_finite(make_summary: MakeSummary, tmp_path: Path) -> None:
    written = json.loads(write_summary(make_summary(), tmp_path).read_text())
    numbers = list(every_number(written))
    assert len(numbers) > 100
    assert all(map(math.isfinite, numbers))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(ValidationError, match="finite"):
        estimate(value=value)


def test_an_unknown_key_is_refused(make_summary: MakeSummary) -> None:
    values = make_summary().model_dump(mode="json") | {"accuracy": 1.0}
    with pytest.raises(ValidationError, match="accuracy"):
        Summary.model_validate(values)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    make_summary: MakeSummary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_summary(make_summary(), tmp_path)
    before = (tmp_path / "summary.json").read_text()

    def full_disk(_handle: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_summary(make_summary(skills=(0.0, 0.9)), tmp_path)
    assert (tmp_path / "summary.json").read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]


def test_a_missing_summary_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"summary\.json: cannot be read"):
        read_summary(tmp_path / "summary.json")


def test_a_summary_of_another_version_is_an_error_that_says_so(
    make_summary: MakeSummary, tmp_path: Path
) -> None:
    values = make_summary().model_dump(mode="json") | {"schema_version": 99}
    (tmp_path / "summary.json").write_text(json.dumps(values))
    with pytest.raises(DataError, match="schema_version"):
        read_summary(tmp_path / "summary.json")


def test_an_estimate_keeps_what_it_rests_on() -> None:
    measured = Estimate(0.8, 0.7, 0.9, 40, 20, 18, 0.5, "a note")
    entry = estimate_entry(measured)
    assert entry.model_dump() == measured.as_dict()


@pytest.mark.parametrize(
    ("low", "high", "standing"),
    [(0.51, 0.9, "better"), (0.4, 0.6, "unclear"), (0.1, 0.49, "worse"), (None, None, "unclear")],
)
def test_an_estimate_beats_chance_only_with_its_whole_interval(
    low: float | None, high: float | None, standing: str
) -> None:
    assert estimate(low=low, high=high).standing == standing


def test_the_headline_is_the_average_that_has_an_interval(make_summary: MakeSummary) -> None:
    measured = make_summary().rounds[-1].central["chestx"].classification
    without = {"auroc": estimate(low=None, high=None)}
    with_interval = {"auroc": estimate(value=0.6)}
    thin = measured.model_copy(
        update={"average": without, "supported_average": with_interval, "grades": {}}
    )
    assert headline(measured, "auroc") == measured.average["auroc"]
    assert headline(thin, "auroc") == with_interval["auroc"]


def test_the_accuracy_of_a_graded_task_is_that_of_the_grade(make_summary: MakeSummary) -> None:
    measured = make_summary().rounds[-1].central["chestx"].classification
    graded = measured.model_copy(update={"grades": {"grade_accuracy": estimate(value=0.42)}})
    assert headline(graded, "accuracy") == graded.grades["grade_accuracy"]


def test_the_context_s_share_is_tracked_for_the_classes_that_have_one(
    make_summary: MakeSummary,
) -> None:
    tracked = round_metrics(make_summary().rounds[-1])
    assert tracked["central/chestx/Mass/context_share"] == 0.18
    assert "central/chestx/Nodule/context_share" not in tracked
