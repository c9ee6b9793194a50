"""Noise and sums are told wherever a run is shown, each with what it does not cover."""

import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from common.config.run import RunConfig
from common.not_covered import NOT_COVERED
from server.journal.entries import privacy_about
from server.journal.metric_names import (
    floor_metrics,
    parts_of,
    round_metrics,
    summed_evaluation_metrics,
)
from server.record.protection import (
    epsilon_columns,
    epsilon_rows,
    epsilon_text,
    floor_sentence,
    not_covered,
    privacy_sentence,
    protection,
    sums_sentence,
)
from server.record.summary import (
    FloorEntry,
    GroupEntry,
    PrivacyAbout,
    SecureAbout,
    Summary,
    SumsEntry,
    read_summary,
    write_summary,
)
from server.report.comparison import site_columns, site_rows
from server.report.curves import epsilon_title
from server.report.report import markdown, render_table, write_report

MakeSummary = Callable[..., Summary]
NOISE = PrivacyAbout(
    unit="patient",
    noise_multiplier=1.0,
    clip_norm=1.0,
    sample_rate=0.05,
    steps_per_round=20,
    delta=1e-5,
    not_covered=NOT_COVERED,
)
GROUP = GroupEntry(sites=9, of=9, reason="", num_examples=900, clipped=1, metrics={"total": 0.5})


def noised(summary: Summary, *, unit: str = "patient") -> Summary:
    """The run with noise; its sites report 3.2 over all runs, of it 1.5 in this one."""
    rounds = []
    for entry in summary.rounds:
        sites = tuple(
            site.model_copy(update={"epsilon": 3.2, "epsilon_run": 1.5, "metrics": {}})
            for site in entry.sites
        )
        spent = {"epsilon": 3.2, "epsilon_run": 1.5} if entry.round else {}
        rounds.append(entry.model_copy(update={"sites": sites, **spent}))
    about = NOISE.model_copy(update={"unit": unit})
    return summary.model_copy(update={"privacy": about, "rounds": tuple(rounds)})


def masked(summary: Summary) -> Summary:
    """The run under secure sums: nothing of one site but that it answered."""
    heads = {"chestx": GROUP.model_copy(update={"sites": 3, "of": 4, "num_examples": None})}
    summed = SumsEntry(
        groups={"trunk": GROUP, **heads}, reason="", evaluation={"chestx": {"auroc": 0.75}}
    )
    rounds = []
    for entry in summary.rounds:
        sites = tuple(
            site.model_copy(
                update={"num_examples": None, "seconds": None, "metrics": {}, "evaluation": {}}
            )
            for site in entry.sites
        )
        told = {"summed": summed, "floor": FloorEntry(above=9, sites=9)} if entry.round else {}
        rounds.append(entry.model_copy(update={"sites": sites, **told}))
    return summary.model_copy(
        update={
            "secure": SecureAbout(min_group=3, local_heads=("retina",)),
            "site_floor": {"auroc": 0.6},
            "rounds": tuple(rounds),
            "sites": tuple(s.model_copy(update={"num_examples": None}) for s in summary.sites),
        }
    )


def printed(summary: Summary) -> str:
    console = Console(file=StringIO(), width=80, color_system=None)
    render_table(summary, console)
    assert isinstance(console.file, StringIO)
    return " ".join(console.file.getvalue().split())


def everywhere(summary: Summary, tmp_path: Path) -> tuple[str, str, str]:
    page = write_report(summary, tmp_path)["page"].read_text()
    return printed(summary), markdown(summary), page


def test_epsilon_is_told_with_unit_delta_round_and_whose_it_is(make_summary: MakeSummary) -> None:
    assert privacy_sentence(noised(make_summary())) == (
        "Privacy: DP-SGD, unit patient (all pictures of one patient), σ 1, ε = 3.20 at δ = 1e-05 "
        "after round 1 (largest over sites, over all runs on their data); "
        "this run alone ε = 1.50."
    )


@pytest.mark.parametrize(("spent", "text"), [(3.201, "3.21"), (0.0, "0.00"), (None, "–")])
def test_epsilon_is_never_shown_as_less_than_was_spent(spent: float | None, text: str) -> None:
    assert epsilon_text(spent) == text


def test_the_unit_is_always_said_in_words(make_summary: MakeSummary) -> None:
    said = privacy_sentence(noised(make_summary(), unit="image"))
    assert "unit image (one picture; of a patient with several, more may show)" in said


def test_a_run_without_noise_says_so_and_claims_no_epsilon(
    make_summary: MakeSummary, tmp_path: Path
) -> None:
    for text in everywhere(make_summary(), tmp_path):
        assert "no differential privacy: updates carry no noise" in text
        assert "No secure sums: who runs the server sees each site" in text
        assert "ε" not in text


def test_noise_of_which_no_site_has_told_names_no_epsilon(make_summary: MakeSummary) -> None:
    summary = make_summary().model_copy(update={"privacy": NOISE})
    assert "no site has reported its ε" in privacy_sentence(summary)
    assert not_covered(summary) == NOT_COVERED


def test_wherever_epsilon_is_shown_stands_what_it_does_not_cover(
    make_summary: MakeSummary, tmp_path: Path
) -> None:
    for text in everywhere(noised(make_summary()), tmp_path):
        assert "ε = 3.20" in text
        assert "Not covered by ε:" in text
        for kind in NOT_COVERED:
            assert kind.replace("'", "&#x27;") in text or kind in text


def test_the_summary_of_a_run_with_noise_holds_what_epsilon_does_not_cover(
    demo_config: RunConfig,
) -> None:
    privacy = demo_config.privacy.model_copy(update={"enabled": True})
    about = privacy_about(demo_config.model_copy(update={"privacy": privacy}))
    assert about is not None
    assert about.not_covered == NOT_COVERED


def test_the_curve_of_epsilon_says_for_whom_and_at_which_delta(make_summary: MakeSummary) -> None:
    assert epsilon_title(noised(make_summary())) == (
        "largest ε over sites, unit patient, δ = 1e-05"
    )


def test_epsilon_stands_beside_accuracy_and_localisation_round_by_round(
    make_summary: MakeSummary,
) -> None:
    summary = noised(make_summary())
    before, after = epsilon_rows(summary)
    measured = summary.rounds[1].central["chestx"]
    assert epsilon_columns(summary)[:4] == (
        "Round",
        "ε, all runs",
        "ε, this run",
        "Chest X-ray findings: AUROC",
    )
    assert before[:3] == ("0", "–", "–")
    assert after == (
        "1",
        "3.20",
        "1.50",
        f"{measured.classification.average['auroc'].value:.3f}",
        f"{measured.localisation.average['energy_in_roi'].value:.3f}",
    )
    assert epsilon_rows(make_summary()) == ()


def test_the_table_of_sites_has_a_column_for_epsilon_only_with_noise(
    make_summary: MakeSummary,
) -> None:
    summary = noised(make_summary())
    assert site_rows(summary)[0].cells[-1] == "3.20 (1.50)"
    assert len(site_columns(summary)) == len(site_rows(summary)[0].cells) == 5
    assert len(site_columns(make_summary())) == len(site_rows(make_summary())[0].cells) == 4


def test_sums_are_told_with_how_many_sites_are_in_them(make_summary: MakeSummary) -> None:
    assert sums_sentence(masked(make_summary())) == (
        "Sums only: 9 of 9 sites; heads: chestx 3 of 4; the head of retina stays at its sites."
    )


def test_what_is_in_the_sum_only_is_not_shown_as_a_zero(
    make_summary: MakeSummary, tmp_path: Path
) -> None:
    summary = masked(make_summary())
    north, harbour = site_rows(summary)
    assert north.pictures == "in the sum only"
    assert harbour.pictures == "–"  # it never answered
    for text in everywhere(summary, tmp_path):
        assert "Sums only: 9 of 9 sites" in text


@pytest.mark.parametrize(
    ("above", "said"),
    [
        (9, "All sites above the floor: 9 of 9 (auroc ≥ 0.6; model of round 1)."),
        (7, "Sites above the floor: 7 of 9 (auroc ≥ 0.6; model of round 1)."),
    ],
)
def test_sites_above_the_floor_are_a_count_without_names(
    above: int, said: str, make_summary: MakeSummary
) -> None:
    summary = masked(make_summary())
    last = summary.rounds[-1].model_copy(update={"floor": FloorEntry(above=above, sites=9)})
    assert floor_sentence(summary.model_copy(update={"rounds": (last,)})) == said


def test_a_floor_that_no_site_could_judge_is_told_as_such(make_summary: MakeSummary) -> None:
    summary = make_summary().model_copy(update={"site_floor": {"auroc": 0.6}})
    assert floor_sentence(summary) == "Floor of every site (auroc ≥ 0.6): no site could tell."
    assert floor_sentence(make_summary()) == ""


def test_mlflow_gets_epsilon_per_site_and_the_largest(make_summary: MakeSummary) -> None:
    named = round_metrics(noised(make_summary()).rounds[-1])
    assert named["site/north/epsilon"] == named["round/epsilon"] == 3.2
    assert named["site/north/epsilon_run"] == named["round/epsilon_run"] == 1.5
    assert not any("epsilon" in name for name in round_metrics(make_summary().rounds[-1]))


def test_mlflow_gets_sums_and_nothing_of_one_site(make_summary: MakeSummary) -> None:
    entry = masked(make_summary()).rounds[-1]
    own, *sites = parts_of(entry)
    assert own["summed/trunk/sites"] == 9
    assert own["summed/trunk/num_examples"] == 900
    assert own["summed/trunk/clipped"] == 1
    assert own["summed/trunk/total"] == 0.5
    assert "summed/chestx/num_examples" not in own
    assert not any(name.endswith("num_examples") for name in own if name.startswith("site/"))
    assert all(part == {} for part in sites)
    assert summed_evaluation_metrics(entry.summed.evaluation if entry.summed else {}) == {
        "summed/chestx/evaluation/auroc": 0.75
    }
    assert floor_metrics(entry.floor) == {"round/sites_above_floor": 9, "round/sites_judged": 9}
    assert floor_metrics(None) == {}


def test_a_protected_run_is_written_and_read_back(
    make_summary: MakeSummary, tmp_path: Path
) -> None:
    summary = masked(noised(make_summary()))
    path = write_summary(summary, tmp_path)
    assert read_summary(path) == summary
    assert json.loads(path.read_text())["schema_version"] == 3
    assert len(protection(summary)) == 4
