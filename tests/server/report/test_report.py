"""The closing table, report.md, index.html and the pictures of a run."""

import re
from collections.abc import Callable
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from server.exchange.participation import Status
from server.measuring.overlay_files import before_after_file, round_file, round_files
from server.measuring.overlays import save_png
from server.record.summary import Summary
from server.report.class_table import class_table, concept_table
from server.report.comparison import remarks, site_rows, standing_sentence, standings, task_rows
from server.report.report import markdown, render_table, write_report

MakeSummary = Callable[..., Summary]


def printed(summary: Summary, *, width: int = 80) -> str:
    console = Console(file=StringIO(), width=width, color_system=None)
    render_table(summary, console)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_the_table_shows_before_after_interval_baseline_and_support(
    make_summary: MakeSummary,
) -> None:
    summary = make_summary()
    auroc = summary.rounds[-1].central["chestx"].classification.average["auroc"]
    before = summary.rounds[0].central["chestx"].classification.average["auroc"]
    line = next(line for line in printed(summary).splitlines() if line.startswith("AUROC"))
    assert line.split() == [
        "AUROC",
        "0.500",
        f"{before.value:.3f}",
        f"{auroc.value:.3f}",
        f"{auroc.low:.3f}–{auroc.high:.3f}",
        "▲",
        "120",
        str(auroc.positive_patients),
    ]


def test_the_table_fits_a_terminal_of_80_columns_uncut(make_summary: MakeSummary) -> None:
    assert "…" not in printed(make_summary())


def test_the_table_ends_with_the_verdict_and_its_reasons(make_summary: MakeSummary) -> None:
    text = printed(make_summary())
    assert "PARTIAL in 12 s" in text
    assert "site harbour refused in round 1: not today." in text


@pytest.mark.parametrize(
    ("late", "said"),
    [(1, "1 answer came twice or too late"), (3, "3 answers came twice or too late")],
)
def test_answers_that_were_left_unused_are_told_of_wherever_the_run_is_shown(
    late: int, said: str, make_summary: MakeSummary, tmp_path: Path
) -> None:
    summary = make_summary().model_copy(update={"late_replies": late})
    page = write_report(summary, tmp_path)["page"].read_text()
    assert said in printed(summary)
    assert said in markdown(summary)
    assert said in page


@pytest.mark.parametrize("late", [0, None])
def test_a_run_without_such_answers_does_not_speak_of_them(
    late: int | None, make_summary: MakeSummary, tmp_path: Path
) -> None:
    summary = make_summary().model_copy(update={"late_replies": late})
    page = write_report(summary, tmp_path)["page"].read_text()
    assert "too late" not in printed(summary) + markdown(summary) + page


def test_the_table_says_when_mlflow_lacks_a_part_of_the_run(make_summary: MakeSummary) -> None:
    summary = make_summary()
    lost = summary.tracking.model_copy(update={"is_complete": False, "unsent": "unsent.jsonl"})
    text = printed(summary.model_copy(update={"tracking": lost}))
    assert "MLflow lacks a part of this run: unsent.jsonl holds it." in text


def test_accuracy_stands_beside_that_of_the_commonest_answer(make_summary: MakeSummary) -> None:
    summary = make_summary()
    rows = {row.measure: row for row in task_rows(summary, "chestx")}
    expected = summary.rounds[-1].central["chestx"].classification.baseline["accuracy"]
    assert rows["Accuracy"].baseline == pytest.approx(expected)
    assert rows["Map energy in lesion"].baseline == pytest.approx(0.1)


def test_a_model_that_learned_nothing_is_said_to_be_no_better_than_the_baseline(
    make_summary: MakeSummary,
) -> None:
    said = remarks(make_summary(skills=(0.0, 0.0)))
    auroc = next(sentence for sentence in said if "AUROC" in sentence)
    assert "includes the baseline; too little data, or nothing learned" in auroc


def test_too_few_patients_are_said_once_with_every_measure_they_touch(
    make_summary: MakeSummary,
) -> None:
    said = remarks(make_summary(pictures=24))
    classification = [sentence for sentence in said if "AUROC" in sentence]
    assert len(classification) == 1
    assert "too little data to judge AUROC, accuracy, balanced accuracy" in classification[0]
    assert re.search(r"no interval: \d+ positive patients, 20 needed", classification[0])


def test_a_clear_success_needs_no_remark(make_summary: MakeSummary) -> None:
    assert remarks(make_summary(skills=(0.0, 0.6))) == ()


def test_a_run_that_was_never_evaluated_still_has_a_report(
    make_summary: MakeSummary, tmp_path: Path
) -> None:
    summary = make_summary().model_copy(update={"rounds": ()})
    write_report(summary, tmp_path)
    assert "PARTIAL" in printed(summary)


def test_sites_are_listed_with_pictures_and_rounds_answered(make_summary: MakeSummary) -> None:
    north, harbour = site_rows(make_summary())
    assert (north.pictures, north.rounds) == ("80", "1 of 1")
    assert (harbour.pictures, harbour.rounds) == ("–", "0 of 1")


def test_the_markdown_report_has_a_table_per_task_and_the_pictures(
    make_summary: MakeSummary,
) -> None:
    text = markdown(make_summary())
    assert "| AUROC | 0.500 |" in text
    assert "![before and after](overlays/chestx/before_after.png)" in text


class Sources(HTMLParser):
    """Collects what a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, _tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if name in {"src", "href"} and value]


def test_the_page_loads_nothing_but_pictures_of_its_own_folder(
    make_summary: MakeSummary, tmp_path: Path
) -> None:
    picture = np.zeros((4, 4, 3), np.uint8)
    for path in (
        round_file(tmp_path, "chestx", 0),
        round_file(tmp_path, "chestx", 1),
        before_after_file(tmp_path, "chestx"),
    ):
        save_png(picture, path)
    files = write_report(make_summary(), tmp_path)
    page = Sources()
    page.feed(files["page"].read_text())
    assert len(page.found) == 3
    assert all((tmp_path / source).is_file() for source in page.found)


def test_the_page_escapes_what_it_is_given(make_summary: MakeSummary, tmp_path: Path) -> None:
    summary = make_summary().model_copy(update={"reasons": ("<script>alert(1)</script>",)})
    page = write_report(summary, tmp_path)["page"].read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_curves_are_drawn(make_summary: MakeSummary, tmp_path: Path) -> None:
    files = write_report(make_summary(skills=(0.0, 0.2, 0.4)), tmp_path)
    with Image.open(files["curves"]) as picture:
        assert picture.width > 1000
        assert len(picture.convert("RGB").getcolors(1 << 20) or []) > 50


def test_round_pictures_are_found_in_order(tmp_path: Path) -> None:
    for number in (10, 2):
        save_png(np.zeros((4, 4, 3), np.uint8), round_file(tmp_path, "chestx", number))
    save_png(np.zeros((4, 4, 3), np.uint8), before_after_file(tmp_path, "chestx"))
    assert list(round_files(tmp_path, "chestx")) == [2, 10]


def test_generated_pictures_are_said_to_say_nothing_about_patients(
    make_summary: MakeSummary, tmp_path: Path
) -> None:
    summary = make_summary()
    page = write_report(summary, tmp_path)["page"].read_text()
    for text in (page, markdown(summary)):
        assert "Generated phantom pictures" in text
        assert "says nothing about patients" in text
        assert "not a medical device" in text


def test_a_run_on_real_pictures_is_not_said_to_be_generated(make_summary: MakeSummary) -> None:
    summary = make_summary()
    about = summary.tasks["chestx"].model_copy(update={"generated": False})
    text = markdown(summary.model_copy(update={"tasks": {"chestx": about}}))
    assert "phantom" not in text
    assert "not a medical device" in text


def test_the_page_defines_its_words_and_says_what_it_was_measured_on(
    make_summary: MakeSummary, tmp_path: Path
) -> None:
    page = write_report(make_summary(), tmp_path)["page"].read_text()
    for word in ("Baseline", "Map peak in lesion", "Map energy in lesion", "▲ ▼ ≈"):
        assert f"<dt>{word}</dt>" in page
    assert "part selection, which also steers early stopping" in page
    assert ">Cases</th>" in page


def test_the_badge_says_that_the_run_ended_and_not_that_the_model_is_good(
    make_summary: MakeSummary, tmp_path: Path
) -> None:
    whole = make_summary().model_copy(update={"verdict": Status.COMPLETE, "reasons": ()})
    page = write_report(whole, tmp_path)["page"].read_text()
    assert "run complete: 1 of 2 sites" in page


def test_the_heading_counts_the_measures_below_their_baseline(make_summary: MakeSummary) -> None:
    good, poor = make_summary(skills=(0.0, 0.6)), make_summary(skills=(0.0, 0.0))
    assert standings(good) == {"better": 6, "worse": 0, "unclear": 0}
    assert "Of 6 measures 6 are better than their baseline, 0 worse" in standing_sentence(good)
    assert standings(poor)["better"] < 6


def test_every_class_has_its_row_with_intervals_support_and_context(
    make_summary: MakeSummary,
) -> None:
    summary = make_summary()
    table = class_table(summary, "chestx")
    mass = summary.rounds[-1].central["chestx"].classification.per_class["Mass"]["auroc"]
    assert table.startswith("<details>")
    assert f"{mass.value:.3f}" in table
    assert f"{mass.support} ({mass.positives})" in table
    assert "18%" in table
    assert class_table(summary.model_copy(update={"rounds": ()}), "chestx") == ""


def test_every_sign_has_its_row_and_there_is_no_table_without_signs(
    make_summary: MakeSummary,
) -> None:
    summary = make_summary()
    assert concept_table(summary, "chestx") == ""
    last = summary.rounds[-1]
    entry = last.central["chestx"]
    looked = entry.localisation.per_class["Mass"]
    signs = {"mass": {**entry.classification.per_class["Mass"], **looked}, "opacity": {}}
    central = {"chestx": entry.model_copy(update={"concepts": signs})}
    rounds = (*summary.rounds[:-1], last.model_copy(update={"central": central}))

    table = concept_table(summary.model_copy(update={"rounds": rounds}), "chestx")

    energy = looked["energy_in_roi"]
    assert table.startswith("<details>")
    assert f"{energy.value:.3f}" in table
    assert f"{energy.chance:.3f}" in table
    assert table.count("<tr>") == 3
