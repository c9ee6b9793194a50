"""What central evaluation is shown beside the model of a round."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from common.messages.kinds import Arrays
from server.rounds.round_report import NOTHING_BESIDE, Beside
from tests.server.rounds.small_runs import (
    TASKS,
    Score,
    SummingSite,
    federation,
    run_config,
    run_whole,
    start,
)


@dataclass
class Looking:
    """An evaluator that keeps what it is shown beside the model."""

    shown: dict[int, Beside] = field(default_factory=dict)

    def __call__(
        self, arrays: Arrays, server_round: int, beside: Beside = NOTHING_BESIDE, /
    ) -> Score:
        self.shown[server_round] = beside
        return Score(1.0 - 0.1 * server_round)  # it only ever gets worse


def looked_at(out: Path, *overrides: str) -> dict[int, Beside]:
    config, looking = run_config(*overrides), Looking()
    made = federation(config, [SummingSite(name) for name in TASKS], out)
    run_whole(replace(made, evaluator=looking), start(config))
    return looking.shown


def test_sites_changes_are_shown_in_turn_with_the_model_they_started_from(tmp_path: Path) -> None:
    order = [site.name for site in run_config().sites]
    shown = looked_at(tmp_path, "evaluation.explanation_sites=1")
    assert [sorted(shown[n].changes) for n in (0, 1, 2)] == [[], order[:1], order[1:2]]
    assert sorted(shown[3].changes) == sorted(order)  # the last round: every site
    site = order[1]
    constant = 1 + list(TASKS).index(site)
    assert all((change == 2 * constant).all() for change in shown[2].changes[site].values())
    assert all((array == 0).all() for array in shown[1].start.values())


def test_no_site_s_change_is_kept_where_none_is_wanted(tmp_path: Path) -> None:
    shown = looked_at(tmp_path, "evaluation.explanation_sites=0")
    assert [dict(beside.changes) for beside in shown.values()] == [{}, {}, {}, {}]


def test_a_round_says_that_it_may_be_the_last(tmp_path: Path) -> None:
    shown = looked_at(tmp_path, "federation.rounds=9", "federation.patience=2")
    assert {n: beside.may_be_last for n, beside in shown.items()} == {0: False, 1: False, 2: True}
