"""One of a site's training processes: joins the others and takes its part of every step.

What is equal to training in one process: the batches and their order, each picture's augmentation,
the mean loss over the whole batch, the gradient that is clipped, the learning rate, the metrics;
up to the order in which numbers are summed. What is not: an encoder whose normalisation looks over
the batch (BatchNorm) sees a process's portion alone. Nothing here is pickled: jobs are JSON, arrays
and gradients travel as tensors.
"""

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from client.training.local_step import Compute, LocalResult, Portion, train_together
from client.training.parallel_job import Group, Job, use_loopback
from common.config.run import RunConfig
from common.datasets.loader import batches
from common.datasets.shard import Shard, open_shard
from common.machine.seed import derive_seed, seed_everything
from common.model.network import Network, build_network
from common.model.optimiser import Steps
from common.model.parameters import parameters_of
from common.tasks import Task


@dataclass(frozen=True)
class Share:
    """Which rows of every batch one of several processes takes."""

    rank: int
    count: int

    def counted(self, size: int) -> int:
        """Return how many pictures of a batch count here; sizes differ by one at most."""
        return self._end(size) - self._start(size)

    def rows(self, size: int) -> slice:
        """Return the rows to make; a batch smaller than the processes lends its first picture."""
        if not self.counted(size):
            return slice(0, 1)
        return slice(self._start(size), self._end(size))

    def _start(self, size: int) -> int:
        return size * self.rank // self.count

    def _end(self, size: int) -> int:
        return size * (self.rank + 1) // self.count


def portions(
    shard: Shard, *, config: RunConfig, task: Task, grid: tuple[int, int], seed: int, share: Share
) -> list[Iterable[Portion]]:
    """Return a process's portions of the batches that one process would draw, epoch by epoch."""
    return [
        _portions_of_epoch(
            shard,
            config=config,
            task=task,
            grid=grid,
            seed=derive_seed(seed, "epoch", epoch),
            share=share,
        )
        for epoch in range(config.train.epochs)
    ]


class Rank:
    """Stays warm between rounds: the group is joined, the shard opened, the network built once."""

    def __init__(self, group: Group) -> None:
        """Take a place in the group; nothing is opened before :meth:`join`."""
        self._group = group
        self._share = Share(group.rank, group.count)
        kind = group.device
        self._device = torch.device(kind, group.rank) if kind == "cuda" else torch.device(kind)
        self._shard: Shard | None = None
        self._together: _Together | None = None

    def join(self) -> None:
        """Meet the other processes. Raises RuntimeError when one does not come in time."""
        use_loopback()
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)
        distributed.init_process_group(
            # Losses are summed on the CPU: a process that died is noticed there, before the
            # gradients' collective, which on a GPU would wait for it until the time is up.
            "gloo" if self._device.type == "cpu" else "cpu:gloo,cuda:nccl",
            init_method=Path(self._group.store).as_uri(),  # a file: no port that others could find
            rank=self._group.rank,
            world_size=self._group.count,
            timeout=timedelta(seconds=self._group.timeout_s),
        )

    def leave(self) -> None:
        """Leave the group."""
        self._together = None
        if distributed.is_initialized():
            distributed.destroy_process_group()

    def train(self, job: Job, given: Network | None = None) -> LocalResult:
        """Take part in one round's epochs.

        Args:
            job: What to train.
            given: The network to start from and to leave the result in; rank 0's alone.

        Raises:
            NonFiniteLossError: In every process, at the same step.
            RuntimeError: Another process went away or did not answer in time.
            DataError: The shard cannot be read.
        """
        torch.set_num_threads(self._group.num_threads)
        seed_everything(job.seed)
        config = _config_of(job.config_json)
        task = config.task(job.task)
        if self._shard is None:
            self._shard = open_shard(Path(self._group.shard))
        together = self._together_for(config, task)
        network = together.network
        if given is not None:
            network.load_state_dict(given.state_dict())
        _broadcast(network, task)
        trained = parameters_of(network, task)
        result = train_together(
            network,
            portions(
                self._shard,
                config=config,
                task=task,
                grid=network.grid(config.data.image_size_px),
                seed=job.seed,
                share=self._share,
            ),
            together,
            task=task,
            train=config.train,
            loss=config.loss,
            steps=Steps(first=job.first_step, total=job.total_steps),
            proximal_mu=job.proximal_mu,
            anchors={name: trained[name].detach().clone() for name in job.anchored},
        )
        if given is not None:
            given.load_state_dict(network.state_dict())
        return result

    def _together_for(self, config: RunConfig, task: Task) -> "_Together":
        names = (config.model.model_dump_json(), tuple(config.task_table().values()), task.name)
        if self._together is None or self._together.names != names:
            # A network of its own also at rank 0: data parallel training hooks into a network's
            # parameters for good, and the trainer's must stay free to be used without the others.
            network = _network_of(config).to(self._device)
            self._together = _Together(network, task, count=self._group.count, names=names)
        return self._together


class _Together:
    """The processes of a group around one network and task (local_step.py: Processes)."""

    def __init__(
        self, network: Network, task: Task, *, count: int, names: tuple[object, ...]
    ) -> None:
        self.network = network
        self.count = count
        self.names = names  # what the network was built for
        self._parallel = DistributedDataParallel(
            _OneTask(network, task),
            device_ids=None,  # the network lies on its device already
            forward_sync_buffers=False,  # ours are constants, or one portion's statistics
            # With evidence from the transformer, or the gate from the CNN, some layers lead
            # nowhere: they get no gradient, and nobody may wait for it.
            find_unused_parameters=True,
        )

    def run(self, compute: Compute) -> tuple[Tensor, Tensor]:
        with warnings.catch_warnings():
            # Said of networks that need no search: whether one does is the run's choice.
            warnings.filterwarnings("ignore", "find_unused_parameters=True was specified")
            computed: tuple[Tensor, Tensor] = self._parallel(compute)
        return computed

    def total(self, values: Tensor) -> Tensor:
        summed = values.clone()
        distributed.all_reduce(summed)
        return summed


class _OneTask(nn.Module):
    """Trunk and one head, whose gradients are shared; other heads' are waited for by nobody.

    It computes whatever it is given, so that the objective is all that leads out of it: from there
    torch finds which parameters took part.
    """

    def __init__(self, network: Network, task: Task) -> None:
        super().__init__()
        self.trunk = network.trunk
        self.head = network.heads[task.name]

    def forward(self, compute: Compute) -> tuple[Tensor, Tensor]:
        return compute()


def _portions_of_epoch(
    shard: Shard, *, config: RunConfig, task: Task, grid: tuple[int, int], seed: int, share: Share
) -> Iterator[Portion]:
    size, left = config.train.batch_size, len(shard.indices("train"))
    made = batches(
        shard,
        "train",
        batch_size=size,
        task=task,
        grid=grid,
        augment=config.data.augment[task.name],
        seed=seed,
        shuffle=True,
        rows_of=share.rows,
    )
    for batch in made:
        whole = min(size, left)
        left -= whole
        yield Portion(batch, counted=share.counted(whole), whole=whole)


def _broadcast(network: Network, task: Task) -> None:
    """Give every process rank 0's trunk and head."""
    groups = ("trunk.", f"heads.{task.name}.")
    for name, value in network.state_dict().items():
        if name.startswith(groups):
            distributed.broadcast(value, src=0)


@lru_cache(maxsize=1)
def _config_of(config_json: str) -> RunConfig:
    """Read the configuration that rank 0 was given, which has checked it."""
    return RunConfig.model_validate_json(config_json)


def _network_of(config: RunConfig) -> Network:
    """Build the run's network, never with downloaded weights: rank 0 brings them."""
    encoder = config.model.encoder.model_copy(update={"pretrained": False})
    model = config.model.model_copy(update={"encoder": encoder})
    return build_network(model, config.task_table(), seed=config.seed)
