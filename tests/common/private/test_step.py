"""Private steps: the noise that is promised, the plain step underneath it, and nothing else."""

from types import MappingProxyType

import numpy as np
import pytest
import torch
from scipy import stats

from common.config.run import RunConfig
from common.datasets.loader import make_batch
from common.datasets.shard import Shard
from common.errors import ModelError
from common.learning.loss import total_loss
from common.machine.seed import seed_everything
from common.model.network import Network, build_network
from common.model.optimiser import optimiser_of
from common.model.parameters import parameters_of
from common.private.secure_random import SecureRandom
from common.private.step import PrivateResult, release_mean, train_privately
from common.tasks import Task

NOTHING = MappingProxyType({})
NEVER = 1e-12  # a sample rate at which nobody is drawn
RARE = 1e-6


def with_privacy(config: RunConfig, **changes: object) -> RunConfig:
    return config.model_copy(update={"privacy": config.privacy.model_copy(update=changes)})


def with_train(config: RunConfig, **changes: object) -> RunConfig:
    return config.model_copy(update={"train": config.train.model_copy(update=changes)})


def train(
    network: Network, shard: Shard, config: RunConfig, **changes: object
) -> tuple[PrivateResult, dict[str, torch.Tensor]]:
    """Train and return the change of every parameter."""
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    arguments = {"server_round": 1, "proximal_mu": 0.0, "anchors": NOTHING} | changes
    result = train_privately(
        network,
        shard,
        task=config.task("chestx"),
        config=config,
        **arguments,  # type: ignore[arg-type]
    )
    return result, {
        name: value.detach() - before[name] for name, value in network.named_parameters()
    }


def fresh(config: RunConfig) -> Network:
    return build_network(config.model, config.task_table(), seed=3)


def test_the_noise_of_a_step_has_the_deviation_that_is_accounted_for(config: RunConfig) -> None:
    privacy = config.privacy.model_copy(
        update={"noise_multiplier": 1.3, "clip_norm": 0.7, "expected_units": 20}
    )
    total = {"a": torch.full((400, 500), 6.0), "b": torch.full((1000,), -4.0)}

    release_mean(total, privacy=privacy, random=SecureRandom())

    deviation = 1.3 * 0.7 / 20
    for value, mean in ((total["a"], 0.3), (total["b"], -0.2)):
        noise = (value.double().flatten().numpy() - mean) / deviation
        assert stats.kstest(noise, "norm").pvalue > RARE
    spread = total["a"].double().std().item()
    assert spread == pytest.approx(deviation, rel=0.01)


def test_without_noise_and_clipping_a_step_is_the_plain_full_batch_step(
    network: Network, shard: Shard, task: Task, config: RunConfig
) -> None:
    run = with_privacy(
        config,
        unit="image",
        sample_rate=1.0,
        noise_multiplier=1e-12,
        clip_norm=1e6,
        expected_units=16,
        steps_per_round=1,
    )
    plain = fresh(config).train()
    pictures = shard.indices("train")
    assert len(pictures) == 16
    batch = make_batch(shard, pictures, task=task, grid=plain.grid(64))
    optimiser = optimiser_of(parameters_of(plain, task), run.train)
    before = {name: value.detach().clone() for name, value in plain.named_parameters()}
    output = plain(batch.image, task=task.name)
    total_loss(output, batch, task=task, config=run.loss).total.backward()
    # Adam's first step says little but signs of the smallest: those are left out.
    steady = {
        name: value.grad.abs() > 1e-5
        for name, value in parameters_of(plain, task).items()
        if value.grad is not None
    }
    optimiser.step()

    _, change = train(network, shard, run)

    for name, large in steady.items():
        expected = (plain.get_parameter(name).detach() - before[name])[large]
        torch.testing.assert_close(change[name][large], expected, rtol=0.02, atol=1e-6)
    assert sum(int(large.sum()) for large in steady.values()) > 10_000


def test_an_empty_draw_is_a_step_of_noise(
    network: Network, shard: Shard, task: Task, config: RunConfig
) -> None:
    run = with_privacy(config, sample_rate=NEVER, steps_per_round=1)

    result, change = train(network, shard, run)

    assert result.num_steps == 1
    # Adam's first step moves everything by the learning rate, whichever way the noise points;
    # but for the rare number whose noise is as small as the epsilon that Adam divides by.
    moved = torch.cat([change[name].abs().flatten() for name in parameters_of(network, task)])
    rate = run.train.learning_rate
    assert bool((moved > 0).all())
    assert float(((moved - rate).abs() < 0.05 * rate).float().mean()) > 0.999


def test_the_same_request_gives_another_update_each_time(shard: Shard, config: RunConfig) -> None:
    changes = []
    for _ in range(2):
        seed_everything(config.seed)
        changes.append(train(fresh(config), shard, config)[1])

    trained = [name for name in changes[0] if changes[0][name].any()]
    assert trained
    assert all(not torch.equal(changes[0][name], changes[1][name]) for name in trained)


def test_noise_does_not_come_from_the_run_s_seed(shard: Shard, config: RunConfig) -> None:
    run = with_privacy(config, sample_rate=NEVER, steps_per_round=1)
    signs = []
    for _ in range(2):
        seed_everything(config.seed)
        _, change = train(fresh(config), shard, run)
        signs.append(torch.cat([value.sign().flatten() for value in change.values()]))
    moved = signs[0] != 0
    equal = int((signs[0] == signs[1])[moved].sum())

    assert stats.binomtest(equal, int(moved.sum())).pvalue > RARE


def test_the_generators_of_the_process_are_left_as_they_were(
    network: Network, shard: Shard, config: RunConfig
) -> None:
    seed_everything(1)
    state = torch.get_rng_state()
    numbers = np.random.get_state()[1].copy()  # type: ignore[index]

    train(network, shard, config)

    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numbers)  # type: ignore[index]


def test_the_round_s_steps_lie_where_the_configuration_s_constants_put_them(
    network: Network, shard: Shard, config: RunConfig
) -> None:
    last = config.federation.rounds
    run = with_train(
        with_privacy(config, sample_rate=NEVER, steps_per_round=1), final_learning_rate_fraction=0.0
    )

    _, change = train(network, shard, run, server_round=last)

    # The cosine ends at zero with the last step of the last round.
    assert not any(value.any() for value in change.values())


def test_the_proximal_pull_comes_after_the_noise_and_unclipped(
    network: Network, shard: Shard, task: Task, config: RunConfig
) -> None:
    run = with_privacy(config, sample_rate=NEVER, steps_per_round=1)
    anchors = {n: p.detach() + 1.0 for n, p in parameters_of(network, task).items()}

    _, change = train(network, shard, run, proximal_mu=1e6, anchors=anchors)

    # So strong a pull drowns the noise.
    for name in anchors:
        torch.testing.assert_close(
            change[name], torch.full_like(change[name], run.train.learning_rate), rtol=1e-3, atol=0
        )


def test_other_tasks_heads_do_not_move(network: Network, shard: Shard, config: RunConfig) -> None:
    _, change = train(network, shard, config)

    moved = {name for name, value in change.items() if value.any()}
    assert any(name.startswith("trunk.") for name in moved)
    assert not any(name.startswith(("heads.retina", "heads.pathoscan")) for name in moved)
    assert all(value.grad is None for value in network.parameters())


def test_pictures_that_break_the_loss_do_not_stop_training(
    network: Network, shard: Shard, config: RunConfig
) -> None:
    targets = shard.targets.copy()
    targets[:8] = np.inf
    broken = Shard(**{**vars(shard), "targets": targets})

    result, change = train(network, broken, with_privacy(config, sample_rate=1.0))

    assert result.num_steps == 2
    assert all(bool(value.isfinite().all()) for value in change.values())


def test_nothing_but_constants_is_told(network: Network, shard: Shard, config: RunConfig) -> None:
    result, _ = train(network, shard, config)

    assert set(vars(result)) == {"num_steps", "seconds"}
    assert result.num_steps == config.privacy.steps_per_round


def test_a_network_that_remembers_pictures_is_not_trained(
    network: Network, shard: Shard, config: RunConfig
) -> None:
    network.trunk.project_deep = torch.nn.Sequential(
        network.trunk.project_deep, torch.nn.BatchNorm2d(64)
    )
    before = {name: value.clone() for name, value in network.state_dict().items()}

    with pytest.raises(ModelError, match="BatchNorm2d"):
        train(network, shard, config)

    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_private_training_learns_where_the_noise_is_small(
    network: Network, shard: Shard, task: Task, config: RunConfig
) -> None:
    run = with_privacy(
        config,
        sample_rate=0.9,
        noise_multiplier=1e-3,
        expected_units=6,
        steps_per_round=6,
        max_pictures_per_patient=2,
    )
    batch = make_batch(shard, shard.indices("train"), task=task, grid=network.grid(64))

    def loss() -> float:
        with torch.no_grad():
            output = network(batch.image, task=task.name)
            return total_loss(output, batch, task=task, config=run.loss).total.item()

    before = loss()
    train(network, shard, run)

    assert loss() < 0.9 * before
