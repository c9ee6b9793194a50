"""Whole runs over a grid that lives in this process, with sites that do simple sums."""

from pathlib import Path

import numpy as np
import pytest

from common.config.reading import canonical_json
from common.config.run import RunConfig
from common.errors import ConfigError, RunError
from common.messages.kinds import Refusal, TrainRequest, Update
from server.exchange.exchange import Discovery
from server.exchange.participation import Outcome, Status, verdict
from server.exchange.requests import train_requests
from server.exchange.site_config import told
from server.record.checkpoint import load_checkpoint
from server.strategies import TrainPlan
from tests.server.rounds.small_runs import (
    TASKS,
    CrashingSite,
    EmptySite,
    GridOfSites,
    LateSite,
    NanSite,
    ProgressWatcher,
    SummingSite,
    an_exchange,
    coordinated,
    federation,
    load_arrays,
    measured,
    model,
    outcomes,
    reports,
    run_config,
    run_whole,
    start,
)


def test_trunk_and_heads_follow_the_weighted_means(
    everyone: list[SummingSite], tmp_path: Path
) -> None:
    config = run_config("federation.rounds=1")

    last = run_whole(federation(config, everyone, tmp_path), start(config))

    trunk = (10 * 1 + 30 * 2 + 20 * 3 + 40 * 4) / 100
    np.testing.assert_allclose(last.model["trunk.w"], trunk)
    np.testing.assert_allclose(last.model["heads.chestx.w"], (10 * 1 + 30 * 2) / 40)
    np.testing.assert_allclose(last.model["heads.retina.w"], 3)
    np.testing.assert_allclose(last.model["heads.pathoscan.w"], 4)


def test_a_site_is_sent_the_trunk_and_its_own_head_and_its_place_in_the_schedule(
    everyone: list[SummingSite], tmp_path: Path
) -> None:
    config = run_config("train.batch_size=4", "train.epochs=2")

    run_whole(federation(config, everyone, tmp_path), start(config))

    sent = everyone[0].requests[1]
    assert set(sent.arrays) == {"trunk.w", "heads.chestx.w"}
    assert (sent.global_step, sent.total_steps) == (6, 18)  # 10 pictures: 3 steps, twice a round


def test_private_training_counts_its_steps_from_the_configuration_and_no_pictures(
    everyone: list[SummingSite], tmp_path: Path
) -> None:
    config = run_config("privacy.enabled=true", "privacy.steps_per_round=7")

    run_whole(federation(config, everyone, tmp_path), start(config))

    places = {(s.requests[1].global_step, s.requests[1].total_steps) for s in everyone}
    assert places == {(7, 21)}


def test_sites_that_give_no_keys_for_the_secure_sum_leave_the_model_as_it_is(
    everyone: list[SummingSite], tmp_path: Path
) -> None:
    config = run_config("federation.rounds=1", "secure_aggregation.enabled=true")
    made = federation(config, everyone, tmp_path)

    last = run_whole(made, start(config))

    assert outcomes(reports(made)[1])["north"] == (Outcome.REFUSED, "no keys for round 0")
    assert not last.model["trunk.w"].any()
    summed = reports(made)[1].summed
    assert summed is not None
    assert summed.reason == "0 sites gave keys for the secure sum, 3 are needed"
    # Nobody was asked to train, nor for a measurement that would be one site's own.
    assert not everyone[0].requests
    assert not everyone[0].evaluated


def test_a_secure_sum_needs_the_key_that_every_site_signs_with(tmp_path: Path) -> None:
    config = run_config("secure_aggregation.enabled=true")

    with pytest.raises(ConfigError, match="the key that site"):
        coordinated(config, tmp_path, resume=start(config))


def test_a_crashing_site_is_named_and_the_round_goes_on(tmp_path: Path) -> None:
    config = run_config("federation.rounds=1")
    sites = [CrashingSite("north"), *(SummingSite(name) for name in list(TASKS)[1:])]
    made = federation(config, sites, tmp_path)

    last = run_whole(made, start(config))

    assert outcomes(reports(made)[1])["north"] == (
        Outcome.FAILED,
        "MemoryError; the site's log says more",
    )
    judged = verdict(last.participation, sites=list(TASKS), required_sites=[])
    assert judged.status is Status.PARTIAL
    assert judged.reasons == (
        "site north failed in round 1: MemoryError; the site's log says more.",
    )
    np.testing.assert_allclose(last.model["heads.chestx.w"], 2)


def test_an_update_with_nan_is_refused_by_name_and_the_round_goes_on(tmp_path: Path) -> None:
    config = run_config("federation.rounds=1")
    sites = [NanSite("north"), *(SummingSite(name) for name in list(TASKS)[1:])]
    made = federation(config, sites, tmp_path)

    last = run_whole(made, start(config))

    outcome, reason = outcomes(reports(made)[1])["north"]
    assert outcome is Outcome.REJECTED
    assert reason == "array 'trunk.w' holds non-finite values"
    assert all(np.isfinite(array).all() for array in last.model.values())


def test_a_refusal_is_a_result(tmp_path: Path) -> None:
    config = run_config("federation.rounds=1")
    sites = [EmptySite("north"), *(SummingSite(name) for name in list(TASKS)[1:])]
    made = federation(config, sites, tmp_path)

    run_whole(made, start(config))

    assert outcomes(reports(made)[1])["north"] == (Outcome.REFUSED, "no training pictures")


def test_an_answer_of_another_round_is_not_used(tmp_path: Path) -> None:
    config = run_config("federation.rounds=1")
    sites = [LateSite("north"), *(SummingSite(name) for name in list(TASKS)[1:])]
    made = federation(config, sites, tmp_path)

    run_whole(made, start(config))

    assert outcomes(reports(made)[1])["north"][0] is Outcome.REJECTED


def test_a_silent_site_is_waited_for_by_name_and_then_reported_missing(tmp_path: Path) -> None:
    config = run_config("federation.rounds=1")
    everyone = [SummingSite(name) for name in TASKS]
    made = federation(config, everyone, tmp_path, mute=["coast"])

    run_whole(made, start(config))

    assert isinstance(made.progress, ProgressWatcher)
    assert made.progress.waited_for == [list(TASKS), ["coast"]]
    assert outcomes(reports(made)[1])["coast"][0] is Outcome.MISSING


def test_too_few_updates_leave_the_model_as_it_is(tmp_path: Path) -> None:
    config = run_config("federation.rounds=1", "federation.min_sites=4")
    sites = [EmptySite("north"), *(SummingSite(name) for name in list(TASKS)[1:])]
    made = federation(config, sites, tmp_path)

    last = run_whole(made, start(config))

    assert not reports(made)[1].changed_model
    assert not last.model["trunk.w"].any()


def test_local_layers_are_neither_expected_nor_merged(tmp_path: Path) -> None:
    class KeepingSite(SummingSite):
        def train(self, request: TrainRequest) -> Update | Refusal:
            answer = super().train(request)
            assert isinstance(answer, Update)
            return self.update(request, {"trunk.w": answer.arrays["trunk.w"]})

    config = run_config("federation.rounds=1", "federation.local_layers=[heads]")
    made = federation(config, [KeepingSite(name) for name in TASKS], tmp_path)

    last = run_whole(made, start(config))

    assert {outcome for outcome, _ in outcomes(reports(made)[1]).values()} == {Outcome.ANSWERED}
    assert last.model["trunk.w"].all()
    assert not last.model["heads.chestx.w"].any()


def test_a_layer_that_should_stay_local_is_refused(
    everyone: list[SummingSite], tmp_path: Path
) -> None:
    config = run_config("federation.rounds=1", "federation.local_layers=[heads.chestx]")
    made = federation(config, everyone, tmp_path)

    run_whole(made, start(config))

    assert "'heads.chestx.w' was not asked for" in outcomes(reports(made)[1])["north"][1]


def test_sites_evaluate_on_their_own_beside_the_coordinator(
    everyone: list[SummingSite], tmp_path: Path
) -> None:
    config = run_config("federation.rounds=2")
    made = federation(config, everyone, tmp_path)

    run_whole(made, start(config))

    found = {number: by_site["valley"]["mean"] for number, by_site in measured(made).items()}
    assert found == {0: 0.0, 1: pytest.approx((2.9 + 3.0) / 2), 2: pytest.approx(3 * 2.95)}
    # The model of a round comes with the next one's request; only the last is asked for alone.
    assert everyone[2].evaluated == [2]


def test_sites_measure_only_the_rounds_that_are_measured(
    everyone: list[SummingSite], tmp_path: Path
) -> None:
    config = run_config("federation.rounds=5", "evaluation.every_rounds=2")
    made = federation(config, everyone, tmp_path)

    run_whole(made, start(config))

    assert [request.evaluates for request in everyone[0].requests] == [
        True, False, True, False, True,
    ]  # fmt: skip
    assert [number for number, by_site in measured(made).items() if by_site] == [0, 2, 4, 5]


def test_sites_measure_nothing_when_they_are_not_to(
    everyone: list[SummingSite], tmp_path: Path
) -> None:
    config = run_config("federation.rounds=2", "evaluation.federated=false")
    made = federation(config, everyone, tmp_path)

    run_whole(made, start(config))

    assert not any(measured(made).values())
    assert everyone[0].evaluated == []


def test_an_early_stop_also_has_its_last_model_measured_at_the_sites(
    everyone: list[SummingSite], tmp_path: Path
) -> None:
    config = run_config("federation.rounds=9", "federation.patience=2")
    made = federation(config, everyone, tmp_path, scores=lambda _round: 0.5)

    run_whole(made, start(config))

    assert everyone[0].evaluated == [2]


def test_sites_of_one_task_share_the_arrays_they_are_sent(
    everyone: list[SummingSite], tmp_path: Path
) -> None:
    config = run_config()
    cards = {site.name: site.describe() for site in everyone}
    plans = dict.fromkeys(TASKS, TrainPlan(proximal_mu=0.0))

    requests = train_requests(
        plans, cards, config, run="run", server_round=1, model=model(), evaluating=["north"]
    )

    assert requests["north"].arrays is requests["harbour"].arrays
    assert [site for site, request in requests.items() if request.evaluates] == ["north"]


def test_every_site_is_told_the_same_and_nothing_of_where_pictures_lie(
    everyone: list[SummingSite], tmp_path: Path
) -> None:
    config = run_config("federation.rounds=1", "tracking.uri=https://ann:secret@example.org/mlflow")

    run_whole(federation(config, everyone, tmp_path), start(config))

    heard = {site.requests[0].config_json for site in everyone}
    assert heard == {canonical_json(told(config))}
    (text,) = heard
    assert "secret" not in text
    assert "phantom" not in text
    told_config = RunConfig.model_validate_json(text)
    assert {site.name: site.task for site in told_config.sites} == TASKS
    assert told_config.federation == config.federation


def test_the_model_is_measured_before_training_and_always_after_the_last_round(
    everyone: list[SummingSite], tmp_path: Path
) -> None:
    config = run_config("federation.rounds=5", "evaluation.every_rounds=2")
    made = federation(config, everyone, tmp_path)

    run_whole(made, start(config))

    measured = [report.server_round for report in reports(made) if report.central is not None]
    assert measured == [0, 2, 4, 5]


def test_the_run_stops_when_the_score_no_longer_improves_and_keeps_the_best_model(
    everyone: list[SummingSite], tmp_path: Path
) -> None:
    config = run_config("federation.rounds=9", "federation.patience=2")
    scores = {0: 0.5, 1: 0.7, 2: 0.8, 3: 0.8, 4: None}
    made = federation(config, everyone, tmp_path, scores=scores.__getitem__)

    last = run_whole(made, start(config))

    best = load_arrays(made.files.best)
    assert last.server_round == 4
    assert last.progression.best_round == 2
    np.testing.assert_array_equal(best["trunk.w"], reports(made)[2].model["trunk.w"])
    np.testing.assert_array_equal(load_arrays(made.files.last)["trunk.w"], last.model["trunk.w"])


def test_a_checkpoint_of_another_configuration_is_refused(
    everyone: list[SummingSite], tmp_path: Path
) -> None:
    config = run_config("federation.rounds=1")
    made = federation(config, everyone, tmp_path)
    run_whole(made, start(config))

    with pytest.raises(RunError, match="another configuration"):
        load_checkpoint(made.files.checkpoint, config_digest="another")


def test_two_nodes_of_one_name_are_refused() -> None:
    twins = [SummingSite("north"), SummingSite("north")]
    exchange = an_exchange(GridOfSites(twins), tasks=TASKS)

    with pytest.raises(RunError, match="two nodes say they are site north"):
        exchange.discover(wait_s=1.0, waiting_for=lambda _: None)


def test_a_site_that_is_not_of_the_run_is_left_out() -> None:
    sites = [SummingSite("north"), SummingSite("coast")]
    exchange = an_exchange(GridOfSites(sites), tasks={"north": "chestx"})

    found: Discovery = exchange.discover(wait_s=1.0, waiting_for=lambda _: None)

    assert set(found.cards) == {"north"}


def test_waiting_ends_when_the_run_is_stopped() -> None:
    exchange = an_exchange(GridOfSites([]), tasks=TASKS, stop=lambda: True)

    found = exchange.discover(wait_s=60.0, waiting_for=lambda _: None)

    assert set(found.absent) == set(TASKS)
