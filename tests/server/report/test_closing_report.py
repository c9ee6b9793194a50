"""Signs that carry a class and methods side by side: in report, page and table file."""

import csv
import io
from collections.abc import Callable
from pathlib import Path

import pytest

from server.journal.metric_names import closing_metrics
from server.record.summary import (
    ClosingEntry,
    EstimateEntry,
    MethodEntry,
    MethodsEntry,
    PrivacyAbout,
    SignsEntry,
    Summary,
    read_summary,
    write_summary,
)
from server.report.definitions import METHOD_WORDS, SIGN_WORDS
from server.report.method_table import method_rows, methods_csv, methods_sentence, refusals
from server.report.report import METHODS, markdown, report_files, write_report
from server.report.sign_table import NOISED, carried_sentences, sign_rows, signs_sentence

TASK = "chestx"


def estimate(
    value: float | None, *, half: float | None = 0.1, chance: float | None = None, support: int = 40
) -> EstimateEntry:
    has_interval = value is not None and half is not None
    return EstimateEntry(
        value=value,
        low=value - half if has_interval else None,
        high=value + half if has_interval else None,
        support=support,
        positives=support,
        positive_patients=max(0, support - 2),
        chance=chance,
        note="",
    )


def sign(
    share: float | None, chance: float, goes_with: float, *, half: float | None = 0.1
) -> dict[str, EstimateEntry]:
    above = None if share is None else share - chance
    return {
        "evidence_on_sign": estimate(share, half=half, chance=chance),
        "evidence_on_sign_above_chance": estimate(above, half=half, chance=0.0),
        "sign_called": estimate(0.25, half=half),
        "association": estimate(goes_with, half=half, chance=0.0, support=90),
    }


def method(name: str, energy: float, **fields: object) -> MethodEntry:
    estimates = {
        "energy_in_roi": estimate(energy, half=None, chance=0.12, support=6),
        "pointing_hit": estimate(0.5, half=None, chance=0.1, support=6),
        "deletion": estimate(0.3, half=None, chance=0.4, support=6),
        "insertion": estimate(0.6, half=None, chance=0.4, support=6),
    }
    if name != "evidence":
        estimates["agreement_spearman"] = estimate(0.7, half=None, chance=0.0, support=6)
    known: dict[str, object] = {"failure": "", "refused": 0, "why_refused": "", "seconds": 0.25}
    return MethodEntry.model_validate({"method": name, "estimates": estimates, **known, **fields})


@pytest.fixture
def closed(make_summary: Callable[..., Summary]) -> Summary:
    signs = SignsEntry(
        pictures=90,
        patients=88,
        per_class={
            "Mass": {"nodule": sign(0.2, 0.19, 0.4), "mass": sign(0.6, 0.1, 0.8)},
            "Nodule": {"nodule": sign(0.2, 0.19, 0.4), "mass": sign(0.5, 0.1, -0.6)},
        },
        untaught=("soft_exudate",),
    )
    methods = MethodsEntry(
        pictures=4,
        of_pictures=6,
        cases={"Mass": 3, "Nodule": 1},
        rows=(
            method("evidence", 0.41),
            method("grad-cam", 0.25, refused=1, why_refused="flat | map"),
            method("lrp", 0.0, failure="RuntimeError: <no> rule", estimates={}, seconds=None),
        ),
    )
    closing = ClosingEntry(
        round=3,
        signs={TASK: signs},
        methods={TASK: methods},
        left_out={},
        signs_seconds=1.5,
        methods_seconds=20.0,
    )
    return make_summary().model_copy(update={"closing": closing})


def changed(summary: Summary, **parts: object) -> Summary:
    assert summary.closing is not None
    return summary.model_copy(update={"closing": summary.closing.model_copy(update=parts)})


def test_it_survives_the_summary_file(closed: Summary, tmp_path: Path) -> None:
    assert read_summary(write_summary(closed, tmp_path)).closing == closed.closing


# Signs


def test_only_signs_that_are_surely_above_chance_and_go_with_the_class_carry_it(
    closed: Summary,
) -> None:
    assert carried_sentences(closed, TASK) == (
        "Mass: mass (60% of its evidence, 10% by chance).",
        "Nodule: no sign for sure.",
    )


def test_a_row_has_share_chance_correlation_and_support_and_the_strongest_sign_comes_first(
    closed: Summary,
) -> None:
    rows = sign_rows(closed, TASK)
    assert [row[:2] for row in rows[:2]] == [("Mass", "mass"), ("Mass", "nodule")]
    assert rows[0][2:] == (
        "60%", "10%", "0.400–0.600", "25%", "0.800", "0.700–0.900", "40 (38)"
    )  # fmt: skip


def test_signs_that_nobody_taught_are_named(closed: Summary) -> None:
    said = signs_sentence(closed, TASK)
    assert said == (
        "Model of round 3, 90 reference pictures of 88 patients. "
        "Left out, as no site has taught them: soft exudate."
    )


def test_noise_makes_taught_and_untaught_signs_alike_and_that_is_said(closed: Summary) -> None:
    privacy = PrivacyAbout(
        unit="patient",
        noise_multiplier=1.0,
        clip_norm=1.0,
        sample_rate=0.1,
        steps_per_round=3,
        delta=1e-5,
        not_covered=(),
    )
    assert NOISED in signs_sentence(closed.model_copy(update={"privacy": privacy}), TASK)


def test_too_few_patients_are_not_called_no_sign(closed: Summary) -> None:
    assert closed.closing is not None
    few = closed.closing.signs[TASK].model_copy(
        update={"per_class": {"Mass": {"mass": sign(0.6, 0.1, 0.8, half=None)}}}
    )
    assert carried_sentences(changed(closed, signs={TASK: few}), TASK) == (
        "Mass: too few patients to say.",
    )


def test_signs_that_lie_nowhere_are_not_called_too_few_patients(closed: Summary) -> None:
    assert closed.closing is not None
    nowhere = closed.closing.signs[TASK].model_copy(
        update={"per_class": {"Mass": {"mass": sign(None, 0.0, 0.8)}}}
    )
    summary = changed(closed, signs={TASK: nowhere})
    assert carried_sentences(summary, TASK) == ("Mass: nothing speaks for any of its signs.",)
    assert sign_rows(summary, TASK)[0][2:5] == ("–", "0%", "–")


def test_a_class_that_no_picture_shows_is_not_called_one_that_nothing_speaks_for(
    closed: Summary,
) -> None:
    assert closed.closing is not None
    unseen = sign(None, 0.0, 0.8) | {
        "evidence_on_sign": estimate(None, support=0),
        "sign_called": estimate(None, support=0),
    }
    silent = unseen | {"sign_called": estimate(0.25)}
    found = closed.closing.signs[TASK].model_copy(
        update={"per_class": {"Mass": {"mass": unseen}, "Nodule": {"mass": silent}}}
    )
    assert carried_sentences(changed(closed, signs={TASK: found}), TASK) == (
        "Mass: not in any of these pictures.",
        "Nodule: nothing speaks for it in the pictures that show it.",
    )


def test_a_model_without_heads_for_signs_is_one_line(closed: Summary, tmp_path: Path) -> None:
    bare = changed(closed, signs={})
    page = write_report(bare, tmp_path)["page"].read_text()
    for text in (markdown(bare), page):
        assert "Signs: none; the model has no heads for any (model.concepts is off, or its" in text
        assert "What it does not claim" in text  # of the methods
        assert SIGN_WORDS["Goes with the answer"] not in text


def test_a_model_none_of_whose_heads_was_trained_here_says_that(closed: Summary) -> None:
    why = "Its head stays at its sites."
    untrained = changed(closed, signs={}, methods={}, left_out={TASK: why})
    assert f"Chest X-ray findings: left out. {why}" in markdown(untrained)
    assert "Signs: not measured, no head was trained here." in markdown(untrained)
    assert "Methods: not compared, no head was trained here." in markdown(untrained)


# Methods


def test_what_was_sampled_and_what_was_cut_is_said(closed: Summary) -> None:
    said = methods_sentence(closed, TASK)
    assert "Model of round 3, 4 reference pictures" in said
    assert "(3 Mass, 1 Nodule)" in said
    assert "2 more were chosen and not reached: evaluation.method_seconds were over." in said
    assert "no ranking" in said


def test_a_row_shows_chance_and_a_failing_method_says_why(closed: Summary) -> None:
    own, cam, lrp = method_rows(closed, TASK)
    assert own == (
        "The model's own map", "0.410 (0.120)", "0.500 (0.100)", "0.300 (0.400)", "0.600 (0.400)",
        "–", "0.25",
    )  # fmt: skip
    assert cam[5] == "0.700"
    assert lrp == ("Relevance propagation", "no figures: RuntimeError: <no> rule")
    assert refusals(closed, TASK) == (
        "Grad-CAM: 1 pictures not explained and left out: flat | map",
    )


def test_page_and_report_hold_both_tables_with_what_they_do_not_claim(
    closed: Summary, tmp_path: Path
) -> None:
    page = write_report(closed, tmp_path)["page"].read_text()
    for said in (
        "Which signs carry its answers?",
        "Explanation methods side by side",
        "no ranking",
    ):
        assert said in page
    assert "<td colspan=6>no figures: RuntimeError: &lt;no&gt; rule</td>" in page
    text = markdown(closed)
    assert "| Relevance propagation | no figures: RuntimeError: <no> rule |  |  |  |  |  |" in text
    for words in (SIGN_WORDS, METHOD_WORDS):
        assert words["What it does not claim"] in text
        assert words["What it does not claim"].split("'")[0] in page


def test_the_table_file_holds_what_the_table_shows(closed: Summary, tmp_path: Path) -> None:
    written = write_report(closed, tmp_path)[METHODS].read_text()
    assert written == methods_csv(closed)
    own, cam, lrp = csv.DictReader(io.StringIO(written))
    assert (own["task"], own["method"], own["pictures"]) == (TASK, "evidence", "4")
    assert (own["energy_in_roi"], own["energy_in_roi_chance"]) == ("0.41", "0.12")
    assert (own["energy_in_roi_low"], own["agreement_spearman"]) == ("", "")
    assert (cam["pictures"], cam["agreement_spearman"]) == ("3", "0.7")
    assert (lrp["failure"], lrp["deletion"]) == ("RuntimeError: <no> rule", "")


def test_a_run_without_a_comparison_writes_no_table_file(
    make_summary: Callable[..., Summary], tmp_path: Path
) -> None:
    files = write_report(make_summary(), tmp_path)
    assert METHODS not in files
    assert not report_files(tmp_path)[METHODS].exists()
    text = markdown(make_summary())
    assert "Signs that carry" not in text
    assert "side by side" not in text


def test_every_number_has_a_name_that_can_be_tracked(closed: Summary) -> None:
    assert closed.closing is not None
    named = closing_metrics(closed.closing)
    assert named["signs/chestx/Mass/mass/evidence_on_sign"] == 0.6
    assert named["signs/chestx/Mass/mass/evidence_on_sign.chance"] == 0.1
    assert named["signs/chestx/Mass/mass/association.low"] == pytest.approx(0.7)
    assert named["methods/chestx/grad-cam/energy_in_roi"] == 0.25
    assert named["methods/chestx/grad-cam/seconds"] == 0.25
    assert named["methods/chestx/pictures"] == 4
    assert not [name for name in named if name.startswith("methods/chestx/lrp")]
