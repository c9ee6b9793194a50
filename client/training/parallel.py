"""Training with several processes of one machine, one per GPU: the trainer is the first of them.

The others (parallel_worker.py) are started at the first round that needs them, stay warm
between rounds, are started anew when one has died, and end with the trainer.
"""

import logging
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection
from contextlib import ExitStack, suppress
from pathlib import Path

import torch

from client.training.local_step import LocalResult, NonFiniteLossError
from client.training.parallel_job import Group, Job, Said, as_line, read_said
from client.training.parallel_rank import Rank
from common.config.reading import canonical_json
from common.config.run import RunConfig
from common.errors import ConfigError, SiteError
from common.model.network import Network
from common.model.optimiser import Steps
from common.tasks import Task

log = logging.getLogger(__name__)

TIMEOUT_S = 300.0  # waiting longer for another process, at its start or at a step, means it hangs
_END_S = 5.0  # a process whose input was closed, or whose partner died, ends at once


class ParallelTraining:
    """The other training processes of a site, and the trainer's own place among them.

    One thread at a time: the trainer answers one request at a time.
    """

    def __init__(
        self, processes: int, *, shard: Path, num_threads: int, timeout_s: float = TIMEOUT_S
    ) -> None:
        """Start nothing yet.

        Args:
            processes: How many train, this one among them; ``machine.processes``.
            shard: Folder of the prepared shard.
            num_threads: CPU threads of each process.
            timeout_s: How long the processes wait for each other, at start and at every step.
        """
        self._count = processes
        self._shard = shard
        self._num_threads = num_threads
        self._timeout_s = timeout_s
        self._workers: list[subprocess.Popen[bytes]] = []
        self._rank: Rank | None = None
        self._device = ""
        self._opened = ExitStack()

    def train(
        self,
        network: Network,
        *,
        config: RunConfig,
        task: Task,
        seed: int,
        steps: Steps,
        proximal_mu: float,
        anchored: Collection[str],
    ) -> LocalResult:
        """Train in place over the epochs of a round, as ``train_locally`` does with one process.

        Args:
            network: What to train; its device says on which kind of device all processes do.
            config: The run's.
            task: This site's, as the run restricts it.
            seed: Of this site and round; every epoch derives its own, as the trainer does.
            steps: Where in the run's schedule the round starts.
            proximal_mu: Weight of the proximal term; 0: none.
            anchored: Names of the parameters that it holds where they start.

        Raises:
            NonFiniteLossError: The loss of some process was not finite; all have stopped.
            ConfigError: The machine has fewer GPUs than processes.
            SiteError: A process died or hangs; the next call starts all of them anew.
        """
        job = Job(
            config_json=canonical_json(config),
            task=task.name,
            seed=seed,
            first_step=steps.first,
            total_steps=steps.total,
            proximal_mu=proximal_mu,
            anchored=tuple(anchored) if proximal_mu else (),
        )
        try:
            rank = self._started(next(network.parameters()).device.type)
            return self._take_part(rank, job, network)
        except NonFiniteLossError:
            raise  # all have stopped at the same step and wait for the next round
        except (RuntimeError, OSError) as error:
            reason = self._what_ended() or (
                f"they broke down ({type(error).__name__}); one that does not answer is given up "
                f"after {self._timeout_s:.0f} s"
            )
            self.close()
            raise SiteError(
                f"training with {self._count} processes: {reason}. The round was not trained; the "
                "log of the trainer says why. The next request starts the processes anew."
            ) from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the other processes; the next round would start them anew."""
        for worker in self._workers:
            # They may be inside a step that waits for this process: nothing of them is to be kept.
            worker.kill()
        for worker in self._workers:
            worker.wait()
            for pipe in (worker.stdin, worker.stdout):
                with suppress(OSError):  # what was still to be written is not wanted any more
                    if pipe is not None:
                        pipe.close()
        self._workers = []
        if self._rank is not None:
            self._rank.leave()
            self._rank = None
        self._opened.close()

    def _started(self, device: str) -> Rank:
        """Return this process's place in a group of living processes."""
        if self._rank is not None and self._device == device and not self._what_ended(wait_s=0):
            return self._rank
        if self._workers:
            log.warning("training processes start anew", extra={"action": "processes_restarted"})
        self.close()
        if device == "cuda" and torch.cuda.device_count() < self._count:
            raise ConfigError(
                f"site.yaml: machine.processes is {self._count}, but this machine shows "
                f"{torch.cuda.device_count()} GPUs, and each process needs its own. Lower it."
            )
        folder = Path(self._opened.enter_context(tempfile.TemporaryDirectory(prefix="fovea-")))
        groups = [
            Group(
                rank=rank,
                count=self._count,
                device="cuda" if device == "cuda" else "cpu",
                store=str(folder / "store"),
                shard=str(self._shard),
                num_threads=self._num_threads,
                timeout_s=self._timeout_s,
            )
            for rank in range(self._count)
        ]
        for group in groups[1:]:
            self._workers.append(_start_worker(group))
        self._hear("ready")
        self._device = device
        self._rank = Rank(groups[0])
        self._rank.join()
        log.info(
            "training processes ready",
            extra={"action": "processes_ready", "processes": self._count, "device": device},
        )
        return self._rank

    def _take_part(self, rank: Rank, job: Job, network: Network) -> LocalResult:
        for worker in self._workers:
            _write(worker, as_line(job))
        try:
            result = rank.train(job, network)
        except NonFiniteLossError:
            self._hear("non-finite")
            raise
        self._hear("done")
        return result

    def _hear(self, expected: str) -> None:
        """Wait for the same answer of all. Raises RuntimeError when one has another or none."""
        until = time.monotonic() + self._timeout_s
        for worker in self._workers:
            said = _read(worker, until - time.monotonic())
            if said is None or said.state != expected:
                raise RuntimeError(f"expected {expected!r} of a training process, got {said}")

    def _what_ended(self, *, wait_s: float = _END_S) -> str:
        """Name the processes that have ended, and how; "" when all live."""
        until = time.monotonic() + wait_s
        ended = []
        for number, worker in enumerate(self._workers, start=2):
            with suppress(subprocess.TimeoutExpired):
                status = worker.wait(timeout=max(until - time.monotonic(), 0))
                how = f"by signal {-status}" if status < 0 else f"with status {status}"
                said = _read(worker, 0)
                why = f" ({said.reason})" if said is not None and said.reason else ""
                ended.append(f"process {number} ended {how}{why}")
        return ", ".join(ended)


def _start_worker(group: Group) -> subprocess.Popen[bytes]:
    worker = subprocess.Popen(  # our own program, its settings travel by the pipe
        # -P: no folder that somebody happens to stand in is searched for modules.
        [sys.executable, "-P", "-m", "client.training.parallel_worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": str(group.num_threads)},
    )
    _write(worker, as_line(group))
    return worker


def _write(worker: subprocess.Popen[bytes], line: bytes) -> None:
    if worker.stdin is None:
        raise BrokenPipeError("the training process has no input")
    worker.stdin.write(line)
    worker.stdin.flush()


def _read(worker: subprocess.Popen[bytes], wait_s: float) -> Said | None:
    """Return a worker's next answer, None when it has ended or says nothing in time."""
    if worker.stdout is None or not select.select([worker.stdout], [], [], max(wait_s, 0))[0]:
        return None
    line = worker.stdout.readline()
    return read_said(line) if line else None
