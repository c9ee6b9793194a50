"""Drift, shortcuts and alarms in words: terminal, report and page, all from the summary alone."""

from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from server.record.summary import (
    AlarmEntry,
    EstimateEntry,
    ExplanationEntry,
    RoundEntry,
    SiteLooksEntry,
    Summary,
    TaskLooksEntry,
)
from server.report.explanation_summary import (
    ALARMS_TAG,
    alarms_text,
    former_alarms,
    look_rows,
    standing_alarms,
    watched_sentence,
)
from server.report.page import write_page
from server.report.report import markdown, render_table
from server.report.site_table import site_columns, site_rows, stand_apart

SENTENCE = "Chest X-ray findings, Mass: 40% of what speaks for it lies on burnt-in markers <now>."


def estimate(value: float | None, *, chance: float | None = None) -> EstimateEntry:
    half = None if value is None else 0.1
    return EstimateEntry(
        value=value,
        low=None if value is None or half is None else value - half,
        high=None if value is None or half is None else value + half,
        support=40,
        positives=None,
        positive_patients=None,
        chance=chance,
        note="",
    )


def explanation(*, number: int, alarms: int, site: str) -> ExplanationEntry:
    alarm = AlarmEntry(
        kind="on_marker",
        task="chestx",
        class_name="Mass",
        site=None,
        value=0.4,
        bound=0.3,
        threshold=0.15,
        support=40,
        sentence=SENTENCE,
    )
    alike = {
        "Mass": {"spearman": estimate(0.9), "top_iou": estimate(0.8)},
        "Nodule": {"spearman": estimate(0.3), "top_iou": estimate(0.2)},
    }
    return ExplanationEntry(
        tasks={
            "chestx": TaskLooksEntry(
                pictures=64,
                of_pictures=120,
                drift_pictures=64,
                since=number - 1 if number else None,
                drift=alike if number else {},
                shares={
                    "Mass": {
                        "outside_anatomy": estimate(0.5, chance=0.6),
                        "at_border": estimate(0.2, chance=0.3),
                        "on_marker": estimate(None),
                    }
                },
                sites={site: SiteLooksEntry(pictures=30, per_class=alike)} if number else {},
            )
        },
        alarms=(alarm,) * alarms,
        sites_note=f"{site}: the sites take turns",
        seconds=1.0,
        share=0.12,
        remark="",
    )


@pytest.fixture
def watched(make_summary: Callable[..., Summary]) -> Summary:
    summary = make_summary(skills=(0.1, 0.5, 0.9))
    plan = {0: (0, "nobody"), 1: (2, "north"), 2: (1, "harbour")}
    rounds = tuple(
        entry.model_copy(
            update={
                "explanation": explanation(
                    number=entry.round, alarms=plan[entry.round][0], site=plan[entry.round][1]
                )
            }
        )
        for entry in summary.rounds
    )
    return summary.model_copy(update={"rounds": rounds})


def test_the_last_round_s_alarms_stand_and_earlier_ones_are_counted(watched: Summary) -> None:
    assert standing_alarms(watched) == (SENTENCE,)
    assert former_alarms(watched) == ("round 1: 2 alarms",)


def test_the_tag_says_the_round_and_that_there_is_no_alarm(watched: Summary) -> None:
    assert ALARMS_TAG == "fovea.explanation_alarms"
    assert alarms_text(watched.rounds[0]) == "before training: no alarm."
    assert alarms_text(watched.rounds[2]) == f"round 2: {SENTENCE}"


def test_a_row_has_drift_shares_and_areas_and_leaves_unknown_places_empty(watched: Summary) -> None:
    assert look_rows(watched, "chestx") == [
        ("Mass", "0.900 (0.800–1.000)", "50% (60%)", "20% (30%)", "–")
    ]


def test_every_site_keeps_its_last_comparison_in_every_class(watched: Summary) -> None:
    assert site_columns(watched, "chestx") == ("Class", "harbour", "north")
    mass, nodule = "0.900 (0.800–1.000), 40 pictures", "0.300 (0.200–0.400), 40 pictures"
    assert site_rows(watched, "chestx") == [
        ("Mass", mass, mass),
        ("Nodule", nodule, nodule),
        ("Pictures", "30", "30"),
        ("Round", "2", "1"),
    ]


def with_sites(summary: Summary, **values: float) -> Summary:
    """Let sites be compared in the last round, in one class: its likeness and an interval."""
    last = summary.rounds[-1]
    assert last.explanation is not None
    looks = last.explanation.tasks["chestx"]
    sites = {
        site: SiteLooksEntry(pictures=40, per_class={"Mass": {"spearman": estimate(value)}})
        for site, value in values.items()
    }
    tasks = {"chestx": looks.model_copy(update={"sites": sites})}
    explained = last.explanation.model_copy(update={"tasks": tasks})
    changed = last.model_copy(update={"explanation": explained})
    return summary.model_copy(update={"rounds": (summary.rounds[0], changed)})


def test_the_site_that_looks_elsewhere_is_named_and_only_sure_where_intervals_are_apart(
    watched: Summary,
) -> None:
    apart = with_sites(watched, north=0.9, harbour=0.3, valley=0.8)
    assert stand_apart(apart, "chestx") == (
        "Mass: harbour surely looks elsewhere more (0.300, 0.200–0.400).",
        "Held against each other are the 3 sites compared in round 2.",
    )
    near = with_sites(watched, north=0.9, harbour=0.75)  # their intervals overlap
    assert stand_apart(near, "chestx")[0] == "No site surely stands apart: Mass."
    two = with_sites(watched, north=0.9, harbour=0.3, valley=0.35)
    assert stand_apart(two, "chestx")[0] == "No site surely stands apart: Mass."


def test_a_sure_difference_of_no_use_is_not_named(watched: Summary) -> None:
    hardly = with_sites(watched, north=0.9, harbour=0.9 - 0.2 - 0.04)  # 0.04 between intervals
    assert stand_apart(hardly, "chestx")[0] == "No site surely stands apart: Mass."
    well = with_sites(watched, north=0.9, harbour=0.9 - 0.2 - 0.06)
    assert "harbour surely looks elsewhere more" in stand_apart(well, "chestx")[0]


def test_sites_without_intervals_are_not_called_alike(watched: Summary) -> None:
    summary = with_sites(watched, north=0.9, harbour=0.3)
    last = summary.rounds[-1].model_dump()
    for looks in last["explanation"]["tasks"]["chestx"]["sites"].values():
        looks["per_class"]["Mass"]["spearman"] |= {"low": None, "high": None}
    rounds = (*summary.rounds[:-1], RoundEntry.model_validate(last))
    said = stand_apart(summary.model_copy(update={"rounds": rounds}), "chestx")
    assert said[0] == "Too few patients to say: Mass."


def test_one_site_alone_stands_apart_from_nobody(watched: Summary) -> None:
    assert stand_apart(watched, "chestx") == ()  # the others were compared with another model


def test_report_and_page_show_sites_by_classes(watched: Summary, tmp_path: Path) -> None:
    said = "Mass: harbour surely looks elsewhere more (0.300, 0.200–0.400)."
    summary = with_sites(watched, north=0.9, harbour=0.3)
    page = write_page(summary, tmp_path, curves="curves.png").read_text()
    for text in (markdown(summary), page):
        assert "Which sites look elsewhere" in text
        assert said in text
        assert "0.900 (0.800–1.000)" in text


def test_a_run_under_masks_shows_no_site(watched: Summary, tmp_path: Path) -> None:
    summary = with_sites(watched)
    page = write_page(summary, tmp_path, curves="curves.png").read_text()
    assert site_rows(summary, "chestx") == []
    assert "look elsewhere" not in markdown(summary) + page


def test_what_was_sampled_is_said(watched: Summary) -> None:
    said = watched_sentence(watched, "chestx")
    assert said == ("Round 2: 64 of 120 reference pictures, drift since round 1 on a fixed 64.")


def test_report_terminal_and_page_show_the_alarm(watched: Summary, tmp_path: Path) -> None:
    console = Console(record=True, width=200)
    render_table(watched, console)
    page = write_page(watched, tmp_path, curves="curves.png").read_text()
    assert SENTENCE in markdown(watched)
    assert SENTENCE in console.export_text()
    assert "on burnt-in markers &lt;now&gt;" in page
    for said in ("Do its reasons hold?", "round 1: 2 alarms", "added 12%", "harbour: the sites"):
        assert said in page


def test_a_run_without_an_alarm_says_so(watched: Summary, tmp_path: Path) -> None:
    calm = watched.model_copy(update={"rounds": watched.rounds[:1]})
    assert "No alarm" in markdown(calm)
    assert "No alarm" in write_page(calm, tmp_path, curves="curves.png").read_text()


def test_a_run_that_nobody_watched_says_nothing(
    make_summary: Callable[..., Summary], tmp_path: Path
) -> None:
    plain = make_summary(skills=(0.1, 0.9))
    assert "Explanations" not in markdown(plain)
    assert "Do its reasons" not in write_page(plain, tmp_path, curves="curves.png").read_text()
