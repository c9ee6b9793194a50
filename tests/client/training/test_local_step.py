"""The local step against gradients written out by hand."""

from collections.abc import Callable
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import pytest
import torch

from client.training.local_step import NonFiniteLossError, proximal_term, train_locally
from common.config.run import RunConfig
from common.datasets.sample import Batch
from common.learning.loss import total_loss
from common.model.layers import is_of_concepts
from common.model.network import Network, build_network
from common.model.optimiser import Steps
from common.model.parameters import parameters_of

MakeConfig = Callable[..., RunConfig]
NO_ANCHORS = MappingProxyType({})


@pytest.fixture(scope="module")
def config(make_config: MakeConfig) -> RunConfig:
    return make_config("train.weight_decay=0", "train.optimiser=adam", "train.learning_rate=0.01")


@pytest.fixture
def network(config: RunConfig) -> Network:
    return build_network(config.model, config.task_table(), seed=1)


def a_batch(network: Network) -> Batch:
    generator = torch.Generator().manual_seed(0)
    grid = network.grid(64)
    return Batch(
        image=torch.randn(4, 3, 64, 64, generator=generator),
        target=torch.tensor([[1.0], [0.0], [1.0], [0.0]]),
        roi_coverage=torch.rand(4, 1, *grid, generator=generator),
        has_roi=torch.ones(4, 1, dtype=torch.bool),
        concept_target=torch.tensor([[1.0, torch.nan], [0.0, 1.0]] * 2),
        concept_coverage=torch.rand(4, 2, *grid, generator=generator),
    )


def step(
    network: Network, config: RunConfig, batches: list[Batch], **changes: object
) -> dict[str, float]:
    arguments = {
        "task": config.task("pathoscan"),
        "train": config.train,
        "loss": config.loss,
        "steps": Steps(first=0, total=len(batches)),
        "proximal_mu": 0.0,
        "anchors": NO_ANCHORS,
    }
    return train_locally(network, [batches], **(arguments | changes)).metrics  # type: ignore[arg-type]


def state(network: Network) -> dict[str, np.ndarray]:
    return {name: value.detach().clone().numpy() for name, value in network.named_parameters()}


def test_the_proximal_term_is_half_mu_times_the_squared_norm() -> None:
    rng = np.random.default_rng(0)
    values, anchors = rng.normal(size=(2, 3)), rng.normal(size=(2, 3))
    parameters = [torch.nn.Parameter(torch.tensor(row)) for row in values]

    term = proximal_term(list(zip(parameters, map(torch.tensor, anchors), strict=True)), mu=0.3)
    term.backward()

    assert term.item() == pytest.approx(0.15 * np.linalg.norm(values - anchors) ** 2)
    for parameter, value, anchor in zip(parameters, values, anchors, strict=True):
        np.testing.assert_allclose(parameter.grad, 0.3 * (value - anchor))


def test_one_step_is_adam_s_on_the_clipped_gradient(network: Network, config: RunConfig) -> None:
    batch = a_batch(network)
    task = config.task("pathoscan")
    network.train()
    total_loss(
        network(batch.image, task=task.name), batch, task=task, config=config.loss
    ).total.backward()
    trained = parameters_of(network, task)
    gradients = {name: parameter.grad.numpy().copy() for name, parameter in trained.items()}
    norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in gradients.values()))
    network.zero_grad()
    before = state(network)

    step(network, config, [batch])

    assert norm > config.train.clip_norm
    after = state(network)
    for name, gradient in gradients.items():
        clipped = gradient * config.train.clip_norm / (norm + 1e-6)
        # Adam's first step: m = g, v = g² after bias correction.
        expected = before[name] - 0.01 * clipped / (np.abs(clipped) + 1e-8)
        np.testing.assert_allclose(after[name], expected, atol=2e-4, err_msg=name)


def test_the_proximal_term_pulls_towards_its_anchors(network: Network, config: RunConfig) -> None:
    task = config.task("pathoscan")
    anchors = {n: p.detach() + 1.0 for n, p in parameters_of(network, task).items()}
    before = state(network)

    step(network, config, [a_batch(network)], proximal_mu=1e6, anchors=anchors)

    # So strong a pull drowns the loss, and Adam's first step is the learning rate, all upwards.
    after = state(network)
    for name in anchors:
        np.testing.assert_allclose(after[name] - before[name], 0.01, rtol=1e-3)


def test_other_tasks_heads_do_not_move(network: Network, config: RunConfig) -> None:
    before = state(network)

    step(network, config, [a_batch(network)] * 2)

    after = state(network)
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    assert {name.split(".")[0] for name in moved} == {"trunk", "heads"}
    assert not any(name.startswith(("heads.chestx", "heads.retina")) for name in moved)


def test_concepts_that_the_site_cannot_teach_do_not_move(
    make_config: Callable[..., RunConfig],
) -> None:
    config = make_config("train.weight_decay=0.1", "train.learning_rate=0.01")
    network = build_network(config.model, config.task_table(), seed=1)
    with torch.no_grad():  # as another site has taught them
        for name, value in network.named_parameters():
            if is_of_concepts(name):
                value.fill_(0.5)
    before = state(network)
    batch = a_batch(network)
    unknown = batch.concept_target.clone()
    unknown[:, 1] = torch.nan

    step(network, config, [replace(batch, concept_target=unknown)] * 2)

    after = state(network)
    head = "heads.pathoscan.concepts."
    for name in (head + "evidence.weight", head + "evidence.bias", head + "gate.weight"):
        assert not np.array_equal(after[name][0], before[name][0]), name
        np.testing.assert_array_equal(after[name][1], before[name][1], err_msg=name)


def test_the_reported_parts_are_means_over_pictures(network: Network, config: RunConfig) -> None:
    batch = a_batch(network)
    task = config.task("pathoscan")
    network.train()
    with torch.no_grad():
        parts = total_loss(
            network(batch.image, task=task.name), batch, task=task, config=config.loss
        )

    metrics = step(network, config, [batch])

    assert set(metrics) == {
        "total",
        "classification",
        "attention",
        "saliency",
        "concept",
        "seconds",
    }
    assert metrics["total"] == pytest.approx(parts.total.item(), rel=1e-5)
    assert metrics["saliency"] == pytest.approx(parts.saliency.item(), rel=1e-5)


def test_a_loss_that_is_not_finite_stops_the_round(network: Network, config: RunConfig) -> None:
    good = a_batch(network)
    bad = replace(good, image=torch.full_like(good.image, torch.nan))

    with pytest.raises(NonFiniteLossError, match="step 2"):
        step(network, config, [good, bad])


def test_the_learning_rate_follows_the_schedule_of_the_whole_run(
    network: Network, config: RunConfig
) -> None:
    before = state(network)

    step(network, config, [a_batch(network)], steps=Steps(first=9, total=10))

    # The cosine of the demo ends at zero: the last step of the run changes nothing.
    after = state(network)
    assert config.train.final_learning_rate_fraction == 0
    assert all(np.array_equal(before[name], after[name]) for name in before)
