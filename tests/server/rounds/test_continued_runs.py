"""Runs that were stopped or whose rounds are over, taken up again by another process."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message

from common.config.reading import config_digest
from common.errors import RunError
from common.messages.kinds import Refusal, TrainRequest, Update
from server.exchange.participation import Status, verdict
from server.record.checkpoint import load_checkpoint
from server.rounds.rounds import measure_untrained, run_rounds
from tests.server.rounds.small_runs import (
    TASKS,
    GridOfSites,
    SummingSite,
    coordinated,
    federation,
    measured,
    model,
    run_config,
    run_whole,
    start,
)

ALONE = ("federation.min_sites=4", "federation.wait_for_sites_s=0.3", "federation.return_grace_s=0")


@pytest.mark.parametrize(
    "overrides", [("federation.rounds=2",), ("federation.rounds=9", "federation.patience=2")]
)
def test_a_run_whose_rounds_are_over_needs_no_site_to_come_to_its_verdict(
    overrides: tuple[str, ...], everyone: list[SummingSite], tmp_path: Path
) -> None:
    config = run_config(*ALONE, *overrides)
    made = federation(config, everyone, tmp_path, scores=lambda _round: 0.5)
    run_whole(made, start(config))
    over = load_checkpoint(made.files.checkpoint, config_digest=config_digest(config))

    result = coordinated(config, tmp_path, resume=replace(over, late_replies=3))

    assert result.verdict.status is Status.COMPLETE
    assert (result.rounds_done, result.was_stopped) == (2, False)
    assert result.late_replies == 3


def test_a_run_that_has_rounds_left_needs_its_sites(
    everyone: list[SummingSite], tmp_path: Path
) -> None:
    config = run_config(*ALONE, "federation.rounds=2")

    with pytest.raises(RunError, match="0 of 4 sites are there"):
        coordinated(config, tmp_path, resume=replace(start(config), server_round=1))


def test_late_replies_are_counted_over_all_processes_of_a_run(
    everyone: list[SummingSite], tmp_path: Path
) -> None:
    config = run_config("federation.rounds=1")
    made = replace(federation(config, everyone, tmp_path), late_before=2)

    run_whole(made, replace(start(config), late_replies=2))

    kept = load_checkpoint(made.files.checkpoint, config_digest=config_digest(config))
    assert kept.late_replies == 2 + made.exchange.late_replies == 2


def test_a_stopped_run_gives_up_its_round_and_can_be_continued(
    everyone: list[SummingSite], tmp_path: Path
) -> None:
    config = run_config()
    whole = run_whole(federation(config, everyone, tmp_path / "whole"), start(config))
    stops = [False]

    class StoppingSite(SummingSite):
        def train(self, request: TrainRequest) -> Update | Refusal:
            stops[0] = request.server_round == 2
            return super().train(request)

    class SilentInRoundTwo(GridOfSites):
        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            came = list(super().pull_messages(message_ids))
            return came[:2] if stops[0] else came

    sites = [SummingSite("north"), *(StoppingSite(name) for name in list(TASKS)[1:])]
    made = federation(
        config, sites, tmp_path / "stopped", stop=lambda: stops[0], grid=SilentInRoundTwo(sites)
    )

    stopped = run_rounds(made, start(config), untrained=measure_untrained(made.evaluator, model()))

    assert stopped.was_stopped
    assert stopped.state.server_round == 1
    assert len(measured(made)[1]) == 2  # of the two that had answered
    judged = verdict(
        stopped.state.participation, sites=list(TASKS), required_sites=[], stopped_after=1
    )
    assert judged.status is Status.PARTIAL
    assert judged.reasons == ("stopped by the coordinator after round 1.",)
    kept = load_checkpoint(made.files.checkpoint, config_digest=config_digest(config))
    stops[0] = False
    again = federation(config, everyone, tmp_path / "stopped")
    continued = run_rounds(again, kept, untrained=None)
    assert not continued.was_stopped
    assert all(np.array_equal(continued.state.model[n], a) for n, a in whole.model.items())
