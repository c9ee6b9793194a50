"""Training with two real processes on the CPU against training with one."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from client.training.local_step import LocalResult, NonFiniteLossError, Portion, train_locally
from client.training.parallel import ParallelTraining
from client.training.parallel_job import Group, as_line, read_said
from client.training.parallel_rank import Share, portions
from common.config.run import RunConfig
from common.datasets.loader import batches
from common.datasets.shard import open_shard
from common.errors import SiteError
from common.machine.seed import derive_seed, seed_everything
from common.model.network import Network, build_network
from common.model.optimiser import Steps
from common.model.parameters import parameters_of

MakeConfig = Callable[..., RunConfig]
SEED = 11
MU = 0.5


@pytest.fixture(scope="module")
def config(make_config: MakeConfig) -> RunConfig:
    # 14 pictures: batches of 13 and 1, so that slices are uneven and one process has none. A small
    # learning rate: Adam blows rounding up to whole steps where the true gradient is zero (the
    # bias of a key, which the softmax ignores), and a step must stay far below the tolerance.
    changes = ["train.batch_size=13", "train.epochs=2", "train.learning_rate=0.0001"]
    changes += ["data.augment.retina.elastic_alpha_px=3", "data.augment.retina.brightness=0.2"]
    return make_config(*changes)


@pytest.fixture(scope="module")
def shard_folder(shards: dict[str, Path]) -> Path:
    return shards["valley"]


@pytest.fixture(scope="module")
def hostile_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose module would end any process that takes it for Python's own."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "queue.py").write_text("raise SystemExit(7)")
    return folder


@pytest.fixture(scope="module")
def training(
    shard_folder: Path, config: RunConfig, hostile_folder: Path
) -> Iterator[ParallelTraining]:
    """Two processes, started once for all tests while the trainer stands in a hostile folder."""
    training = ParallelTraining(2, shard=shard_folder, num_threads=1, timeout_s=60)
    with contextlib.chdir(hostile_folder):
        together(training, a_network(config), config)
    yield training
    training.close()


def a_network(config: RunConfig) -> Network:
    network = build_network(config.model, config.task_table(), seed=1)
    # Some branches start at zero, where little would depend on anything.
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=draw))
    return network


def together(
    training: ParallelTraining, network: Network, config: RunConfig, mu: float = MU
) -> LocalResult:
    task = config.task("retina")
    return training.train(
        network,
        config=config,
        task=task,
        seed=SEED,
        steps=Steps(first=2, total=40),
        proximal_mu=mu,
        anchored=list(parameters_of(network, task)),
    )


def alone(network: Network, config: RunConfig, folder: Path, mu: float = MU) -> LocalResult:
    task, shard = config.task("retina"), open_shard(folder)
    seed_everything(SEED)
    epochs = [
        batches(
            shard,
            "train",
            batch_size=config.train.batch_size,
            task=task,
            grid=network.grid(config.data.image_size_px),
            augment=config.data.augment["retina"],
            seed=derive_seed(SEED, "epoch", epoch),
        )
        for epoch in range(config.train.epochs)
    ]
    anchors = {n: p.detach().clone() for n, p in parameters_of(network, task).items()}
    return train_locally(
        network,
        epochs,
        task=task,
        train=config.train,
        loss=config.loss,
        steps=Steps(first=2, total=40),
        proximal_mu=mu,
        anchors=anchors,
    )


def state(network: Network) -> dict[str, np.ndarray]:
    return {name: value.detach().clone().numpy() for name, value in network.state_dict().items()}


def workers() -> list[psutil.Process]:
    # What other tests have left to be reaped is a zombie, of which nothing can be asked.
    living = [c for c in psutil.Process().children() if c.status() != psutil.STATUS_ZOMBIE]
    return [child for child in living if "client.training.parallel_worker" in child.cmdline()]


def largest_difference(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    return max(float(np.abs(one[name] - other[name]).max()) for name in one)


def test_two_processes_train_what_one_would(
    training: ParallelTraining, config: RunConfig, shard_folder: Path
) -> None:
    start, one, two = a_network(config), a_network(config), a_network(config)

    expected = alone(one, config, shard_folder)
    result = together(training, two, config)

    assert largest_difference(state(start), state(one)) > 1e-4
    assert largest_difference(state(one), state(two)) < 1e-5
    assert result.num_steps == expected.num_steps == 4
    parts = {"total", "classification", "attention", "saliency"}
    for name in parts:
        assert result.metrics[name] == pytest.approx(expected.metrics[name], rel=1e-5), name


def test_a_folder_that_the_trainer_stands_in_gives_no_modules(
    training: ParallelTraining, config: RunConfig, hostile_folder: Path
) -> None:
    result = together(training, a_network(config), config)

    (worker,) = workers()
    assert Path(worker.cwd()) == hostile_folder
    assert result.num_steps == 4


@pytest.mark.parametrize("mu", [0.0, MU])
def test_layers_that_lead_nowhere_are_waited_for_by_nobody(
    training: ParallelTraining, make_config: MakeConfig, shard_folder: Path, mu: float
) -> None:
    # The transformer's attention is an output, and no part of this loss.
    config = make_config(
        "model.gate_from=local", "loss.lambda_att=0", "train.epochs=1", "train.learning_rate=0.0001"
    )
    one, two = a_network(config), a_network(config)

    alone(one, config, shard_folder, mu=mu)
    together(training, two, config, mu=mu)

    assert largest_difference(state(one), state(two)) < 1e-5


def test_processes_stay_warm_and_rounds_are_equal_again(
    training: ParallelTraining, config: RunConfig
) -> None:
    first, second = a_network(config), a_network(config)
    together(training, first, config)
    before = [worker.pid for worker in workers()]

    together(training, second, config)

    assert [worker.pid for worker in workers()] == before
    assert largest_difference(state(first), state(second)) == 0


def test_a_loss_that_is_not_finite_stops_all_processes_and_the_next_round_works(
    training: ParallelTraining, config: RunConfig, shard_folder: Path
) -> None:
    broken, good, one = a_network(config), a_network(config), a_network(config)
    with torch.no_grad():
        next(broken.trunk.parameters()).fill_(torch.nan)
    together(training, a_network(config), config)
    before = [worker.pid for worker in workers()]

    with pytest.raises(NonFiniteLossError, match="step 1"):
        together(training, broken, config, mu=0.0)
    together(training, good, config, mu=0.0)

    alone(one, config, shard_folder, mu=0.0)
    assert [worker.pid for worker in workers()] == before
    assert largest_difference(state(one), state(good)) < 1e-5


@pytest.mark.deployment
def test_a_process_that_dies_in_a_round_is_named_and_replaced_at_the_next(
    training: ParallelTraining, config: RunConfig, shard_folder: Path
) -> None:
    together(training, a_network(config), config)
    (worker,) = workers()
    os.kill(worker.pid, signal.SIGSTOP)  # so that the round has begun and waits for it
    timer = threading.Timer(0.5, os.kill, (worker.pid, signal.SIGKILL))
    timer.start()

    with pytest.raises(SiteError, match=r"process 2 ended by signal 9.*starts the processes anew"):
        together(training, a_network(config), config)

    assert not workers()
    one, two = a_network(config), a_network(config)
    alone(one, config, shard_folder)
    together(training, two, config)
    assert largest_difference(state(one), state(two)) < 1e-5


@pytest.mark.deployment
def test_a_process_that_died_between_rounds_is_replaced_unnoticed(
    training: ParallelTraining, config: RunConfig
) -> None:
    together(training, a_network(config), config)
    (worker,) = workers()
    os.kill(worker.pid, signal.SIGKILL)
    os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)

    result = together(training, a_network(config), config)

    assert result.num_steps == 4


@pytest.mark.slow
def test_a_process_that_hangs_is_given_up(config: RunConfig, shard_folder: Path) -> None:
    training = ParallelTraining(2, shard=shard_folder, num_threads=1, timeout_s=20)
    together(training, a_network(config), config)
    (worker,) = workers()
    os.kill(worker.pid, signal.SIGSTOP)

    with pytest.raises(SiteError, match="given up after 20 s"):
        together(training, a_network(config), config)

    assert not worker.is_running()


@pytest.mark.deployment
def test_a_process_ends_when_the_trainer_is_gone(tmp_path: Path) -> None:
    group = Group(
        rank=1,
        count=2,
        device="cpu",
        store=str(tmp_path / "store"),
        shard=str(tmp_path),
        num_threads=1,
        timeout_s=60,
    )
    worker = subprocess.Popen(
        [sys.executable, "-m", "client.training.parallel_worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert worker.stdin is not None
    assert worker.stdout is not None
    with worker:
        worker.stdin.write(as_line(group))
        worker.stdin.flush()
        assert read_said(worker.stdout.readline()).state == "ready"
        worker.terminate()  # a drain: signals to the whole group must not end it

        worker.stdin.close()  # while it waits for the trainer to join

        assert worker.wait(timeout=10) == 0


@given(size=st.integers(1, 70), count=st.integers(1, 9))
def test_every_picture_of_a_batch_counts_in_one_process(size: int, count: int) -> None:
    shares = [Share(rank, count) for rank in range(count)]

    rows = [row for share in shares if share.counted(size) for row in range(size)[share.rows(size)]]

    assert rows == list(range(size))
    sizes = [share.counted(size) for share in shares]
    assert max(sizes) - min(sizes) <= 1
    assert all(len(range(size)[share.rows(size)]) >= 1 for share in shares)


def test_portions_are_the_rows_of_the_batches_one_process_draws(
    config: RunConfig, shard_folder: Path
) -> None:
    shard, task = open_shard(shard_folder), config.task("retina")
    grid = a_network(config).grid(config.data.image_size_px)

    def drawn(rank: int, count: int) -> list[Portion]:
        epochs = portions(
            shard, config=config, task=task, grid=grid, seed=SEED, share=Share(rank, count)
        )
        return [portion for epoch in epochs for portion in epoch]

    whole, first, second = drawn(0, 1), drawn(0, 2), drawn(1, 2)

    assert [(p.counted, p.whole) for p in whole] == [(13, 13), (1, 1)] * 2
    assert [(p.counted, p.whole) for p in first] == [(6, 13), (0, 1)] * 2
    assert [(p.counted, p.whole) for p in second] == [(7, 13), (1, 1)] * 2
    for all_rows, one, two in zip(whole, first, second, strict=True):
        for name in ("image", "target", "roi_coverage"):
            rows = [getattr(p.batch, name)[: p.counted] for p in (one, two)]
            torch.testing.assert_close(
                torch.cat(rows), getattr(all_rows.batch, name), rtol=0, atol=1e-6, equal_nan=True
            )
