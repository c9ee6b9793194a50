from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAdam, FedAvgM
from flwr.supercore.task_identity import TaskIdentity

from common.config.reading import load_config
from common.config.run import RunConfig
from common.errors import ConfigError
from common.messages.kinds import SiteCard
from server.strategies import STRATEGIES

CONFIGS = Path(__file__).parents[3] / "configs"
NAME = "trunk.w"


def config(**federation: object) -> RunConfig:
    overrides = [f"federation.{key}={value}" for key, value in federation.items()]
    return load_config(CONFIGS / "default.yaml", overrides).run


def changes(count: int) -> list[np.ndarray]:
    return list(np.random.default_rng(3).normal(size=(count, 4, 2)).astype(np.float32))


def run(strategy: str, run_config: RunConfig, steps: list[np.ndarray]) -> np.ndarray:
    ours = STRATEGIES.get(strategy)(run_config)
    model = {NAME: np.ones((4, 2), np.float32)}
    for change in steps:
        model = ours.aggregate_train(model, {NAME: change.astype(np.float64)})
    return model[NAME]


def as_flower_does(flower: FedAdam | FedAvgM, steps: list[np.ndarray], *, first: int) -> np.ndarray:
    """Let Flower's own strategy see the same changes, sent by one site."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    model = np.ones((4, 2), np.float32)
    for number, change in enumerate(steps, start=first):
        flower.current_arrays = (
            {NAME: model} if isinstance(flower, FedAdam) else ArrayRecord({NAME: Array(model)})
        )
        asked = Message(RecordDict({"config": ConfigRecord({})}), 1, "train")
        sent = RecordDict(
            {
                "arrays": ArrayRecord({NAME: Array(model + change)}),
                "metrics": MetricRecord({"num-examples": 1}),
            }
        )
        merged, _ = flower.aggregate_train(number, [Message(sent, reply_to=asked)])
        assert merged is not None
        model = merged[NAME].numpy().astype(np.float32)
    return model


def test_fedavg_takes_the_merged_change() -> None:
    steps = changes(2)

    np.testing.assert_allclose(
        run("fedavg", config(server_learning_rate=1.0), steps), 1 + steps[0] + steps[1], rtol=1e-6
    )


def test_fedadam_is_flower_s() -> None:
    steps = changes(5)
    flower = FedAdam(eta=0.02, beta_1=0.8, beta_2=0.99, tau=1e-3)
    # Flower corrects the bias as if one round more had passed; from round 0 on it is Adam's.
    expected = as_flower_does(flower, steps, first=0)

    ours = run("fedadam", config(server_learning_rate=0.02, server_momentum=0.8), steps)

    np.testing.assert_allclose(ours, expected, rtol=2e-5)


def test_fedavgm_is_flower_s() -> None:
    steps = changes(5)
    flower = FedAvgM(server_learning_rate=0.5, server_momentum=0.9)

    ours = run("fedavgm", config(server_learning_rate=0.5, server_momentum=0.9), steps)

    np.testing.assert_allclose(ours, as_flower_does(flower, steps, first=1), rtol=2e-5)


def test_fedprox_asks_every_site_for_the_proximal_term() -> None:
    run_config = load_config(CONFIGS / "default.yaml", ["train.proximal_mu=0.01"]).run
    cards = {"north": SiteCard("north", "chestx", 8, 1, "{}")}

    plans = STRATEGIES.get("fedprox")(run_config).configure_train(1, cards)

    assert {site: plan.proximal_mu for site, plan in plans.items()} == {"north": 0.01}


def test_fedprox_without_a_proximal_weight_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"train\.proximal_mu > 0"):
        STRATEGIES.get("fedprox")(config())


def test_other_strategies_never_send_a_proximal_term() -> None:
    run_config = load_config(CONFIGS / "default.yaml", ["train.proximal_mu=0.01"]).run
    cards = {"north": SiteCard("north", "chestx", 8, 1, "{}")}

    plans = STRATEGIES.get("fedavg")(run_config).configure_train(1, cards)

    assert plans["north"].proximal_mu == 0.0


@pytest.mark.parametrize("name", ["fedavg", "fedavgm", "fedadam"])
def test_a_restored_strategy_goes_on_with_the_same_bits(name: str) -> None:
    steps = changes(4)
    undisturbed = run(name, config(), steps)
    before = STRATEGIES.get(name)(config())
    model = {NAME: np.ones((4, 2), np.float32)}
    for change in steps[:2]:
        model = before.aggregate_train(model, {NAME: change.astype(np.float64)})
    after = STRATEGIES.get(name)(config())
    after.restore(before.state())
    for change in steps[2:]:
        model = after.aggregate_train(model, {NAME: change.astype(np.float64)})

    assert model[NAME].tobytes() == undisturbed.tobytes()


def test_the_moments_of_another_strategy_are_refused() -> None:
    adam = STRATEGIES.get("fedadam")(config())
    adam.aggregate_train({NAME: np.ones(1, np.float32)}, {NAME: np.ones(1)})

    with pytest.raises(ConfigError, match="strategy that wrote it"):
        STRATEGIES.get("fedavg")(config()).restore(adam.state())


@pytest.mark.parametrize("name", ["fedavg", "fedavgm", "fedadam"])
def test_what_has_no_change_stays_as_it_is(name: str) -> None:
    model = {NAME: np.ones(1, np.float32), "heads.retina.w": np.full(1, 5, np.float32)}

    following = STRATEGIES.get(name)(config()).aggregate_train(model, {NAME: np.ones(1)})

    assert following["heads.retina.w"] == 5


def test_sites_without_a_validation_split_are_not_asked_to_evaluate() -> None:
    cards = {
        "north": SiteCard("north", "chestx", 8, 0, "{}"),
        "south": SiteCard("south", "chestx", 8, 2, "{}"),
    }

    assert list(STRATEGIES.get("fedavg")(config()).configure_evaluate(1, cards)) == ["south"]
